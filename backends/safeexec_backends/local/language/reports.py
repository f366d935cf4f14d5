"""Errors that no statement of the program catches: a thread's, a finalizer's, a callback's.

CPython shows them on ``sys.stderr`` with every frame on the way, and so where the interpreter's files lie. Here they show the program's own lines,
as the traceback of a step does.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any


def install() -> None:
    """Put them in; `patches` does, once."""
    threading.excepthook = _of_a_thread
    sys.unraisablehook = _of_a_finalizer
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


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:
        return _text(ei[1]).rstrip("\n")
