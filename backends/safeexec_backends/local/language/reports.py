"""Errors that no statement of the program catches, a thread's, a finalizer's, a callback's, and what the interpreter warns about.

CPython shows them on ``sys.stderr`` with every frame on the way, and so where the interpreter's files lie. Here they show the program's own lines,
as the traceback of a step does.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import types
import warnings
from typing import Any

from safeexec import guest

from .identity import is_guest_class, is_own_file

_OURS = tuple(
    os.path.dirname(os.path.abspath(found)) + os.sep
    for found in (guest.__file__, os.path.dirname(os.path.dirname(__file__)))
)
"""Where the sandbox's own code lies."""


def install() -> None:
    """Put them in; `patches` does, once."""
    threading.excepthook = _of_a_thread
    sys.unraisablehook = _of_a_finalizer
    _no_places_of_warnings()
    _no_lines_of_files()
    logging._defaultFormatter = _Formatter()  # type: ignore[attr-defined]  # of the handler that there is where nobody set one


def _text(error: BaseException) -> str:
    from .facades.tracebacks import trimmed

    return "".join(trimmed(error).format())


def _say(text: str) -> None:
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except Exception:
        return  # a stream of the program's own: what it raises CPython would report there, in its own way


def _of_a_thread(args: Any) -> None:
    if args.exc_type is SystemExit:
        return
    name = args.thread.name if args.thread is not None else threading.get_ident()
    _say(f"Exception in thread {name}:\n{_text(args.exc_value)}")


def _of_a_finalizer(args: Any) -> None:
    try:
        shown = repr(args.object)
    except Exception:
        shown = "<object repr() failed>"
    text = _text(args.exc_value) if args.exc_value is not None else f"{args.exc_type.__name__}\n"
    _say(f"{args.err_msg or 'Exception ignored in'}: {shown}\n{text}")


def _no_places_of_warnings() -> None:
    """The interpreter warns of what nobody closed or awaited, wherever that ends, and hands it over; a program keeps what is its own."""
    original = warnings.WarningMessage.__init__
    if original.__module__ == __name__:
        return

    def __init__(self: Any, message: Any, category: Any, filename: Any, lineno: Any, file: Any = None, line: Any = None,
                 source: Any = None) -> None:  # fmt: skip
        if type(filename) is str and not is_own_file(filename):  # where the library lies says something of the host
            if filename.startswith(_OURS):
                filename, lineno = _place(sys._getframe(1))
            filename = filename if is_own_file(filename) else os.path.basename(filename)
        original(
            self, message, category, filename, lineno, file, line, source if is_guest_class(type(source)) else None
        )

    setattr(warnings.WarningMessage, "__init__", __init__)  # noqa: B010


def _place(frame: types.FrameType) -> tuple[str, int]:
    """Where the program is, for a warning about what the sandbox did in its name; as the interpreter has it, where it is nowhere."""
    from .facades.frames import caller

    found = caller(frame, 1)
    return ("sys", 1) if found is None else (found.f_code.co_filename, found.f_lineno)


def _no_lines_of_files() -> None:
    """A warning is shown with its line, of whatever file it names; what shows it may be the library's hook, as `logging.captureWarnings` sets it."""
    module: Any = warnings
    original = module._formatwarnmsg_impl
    if original.__module__ == __name__:
        return

    def _formatwarnmsg_impl(msg: Any) -> Any:
        line = msg.line
        if line is None and not (type(msg.filename) is str and msg.filename[:1] == "<"):  # a step
            line = ""
        # Without the source, of which the interpreter may know where it was made: in which files.
        facts = {name: getattr(msg, name) for name in ("message", "category", "filename", "lineno")}
        return original(types.SimpleNamespace(**facts, line=line, source=None))

    module._formatwarnmsg_impl = _formatwarnmsg_impl


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:
        return _text(ei[1]).rstrip("\n")
