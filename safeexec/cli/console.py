"""What the longer commands print with rich on."""

from __future__ import annotations

from typing import IO, Any, cast

import rich.console


class _Tolerant:
    """A text stream whose `write` takes every text."""

    def __init__(self, file: IO[str]) -> None:
        self._to = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._to, name)

    def write(self, text: str) -> int:
        try:
            return self._to.write(text)
        except UnicodeEncodeError as error:
            # Nothing of it was written: the text is encoded as a whole, before.
            return self._to.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))


class Console(rich.console.Console):
    """rich's, but for two things that must not end what is shown on it.

    Whoever read the output went away: that is the caller's business, and no reason to leave the interpreter. A character that the encoding does not
    have is written as an escape.
    """

    @property
    def file(self) -> IO[str]:
        """What it writes to."""
        return cast("IO[str]", _Tolerant(super().file))

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled; rich itself would raise SystemExit."""
        raise
