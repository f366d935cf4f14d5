"""Where a program is: its own frames as facts about them. A frame itself leads to the namespaces of the sandbox, and is never shown."""

from __future__ import annotations

import sys
from types import FrameType, TracebackType
from typing import Any

from safeexec_backends.local.language.identity import is_guest_frame, is_own_file

from .views import View, code_view, facts


class FrameView(View):
    """A frame of the program: its line, its code, and who called it."""

    __slots__ = ("f_back", "f_code", "f_lineno")
    f_back: FrameView | None
    f_code: Any
    f_lineno: int

    def __repr__(self) -> str:
        return f"<frame, file {self.f_code.co_filename!r}, line {self.f_lineno}, code {self.f_code.co_name}>"


FrameView.__name__ = FrameView.__qualname__ = "frame"


def is_shown(frame: FrameType) -> bool:
    """Whether a frame is the program's, and not of a library that runs as if the program had written it."""
    return is_guest_frame(frame) and is_own_file(frame.f_code.co_filename)


def view(frame: FrameType | None) -> FrameView | None:
    """The innermost of the program's frames at or above `frame`, with all that called it."""
    found = []
    while frame is not None:
        if is_shown(frame):
            found.append(frame)
        frame = frame.f_back
    made = None
    for own in reversed(found):
        made = facts(FrameView, f_back=made, f_code=code_view(own.f_code), f_lineno=own.f_lineno)
    return made


def here() -> FrameView | None:
    """Where the program is."""
    return view(sys._getframe(1))


def of_traceback(tb: TracebackType) -> FrameView:
    """``tb.tb_frame``. Raises AttributeError where that is not the program's."""
    found = view(tb.tb_frame) if is_shown(tb.tb_frame) else None
    if found is None:
        raise AttributeError("'tb_frame' of a traceback that is not the program's is not available in this sandbox")
    return found


def caller(frame: FrameType | None, level: int) -> FrameType | None:
    """Of the program's frames at or above `frame` the one at `level`, from 1; the outermost where there are fewer. For the sandbox itself."""
    found = None
    while frame is not None and (found is None or level > 0):
        if is_shown(frame):
            found = frame
            level -= 1
        frame = frame.f_back
    return found


def chain(start: Any) -> list[FrameView]:
    """A frame and all that called it, the innermost first; from None on those that run.

    :raises TypeError: for what is no frame.
    """
    if start is not None and type(start) is not FrameView:
        raise TypeError(f"a frame was expected, not {type(start).__name__}")
    found = []
    frame = here() if start is None else start
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found
