"""What `typing` remembers of what it was asked.

It looks there by what equals, and so shows a program's object the classes that others named, those of code and frames among them. It is emptied whenever a
library was imported that may have named such, and when a session begins.
"""

from __future__ import annotations

import typing
from collections.abc import Callable


def forget() -> None:
    """Empty it, in the whole process."""
    cleanups: list[Callable[[], None]] = typing._cleanups  # type: ignore[attr-defined]
    for clear in cleanups:
        clear()
