"""Has something done later, by a thread that keeps nothing alive."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

_LONGEST = 86_400.0
T = TypeVar("T")


class Alarm(Generic[T]):
    """Calls `work` with `owner`, once in a while: `set` by whoever has a reason. Keeps no owner that nobody else has any more."""

    def __init__(self, owner: T, work: Callable[[T], object]) -> None:
        self._owner, self._work = weakref.ref(owner), work
        self._timer: threading.Timer | None = None

    def set(self, seconds: float) -> None:
        """Call in so many seconds, or when it was set for already. Not from two threads at once."""
        if self._timer is not None and self._timer.is_alive():  # one of before a fork is not
            return
        timer = threading.Timer(min(seconds, _LONGEST), self._ring)
        timer.name, timer.daemon = "safeexec-alarm", True
        try:
            timer.start()
        except RuntimeError:  # there is no thread to be had: the next who sets it may have more luck
            return
        self._timer = timer

    def _ring(self) -> None:
        self._timer, owner = None, self._owner()
        if owner is not None:
            self._work(owner)

    def cancel(self) -> None:
        """Do not call."""
        if self._timer is not None:
            self._timer.cancel()
