"""Has something done later, by a thread that keeps nothing alive."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

_LONGEST = 86_400.0


class Alarm:
    """Calls `work`, a method, once in a while: `set` by whoever has a reason. Forgets it where nobody else has its object any more."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = weakref.WeakMethod(work)
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
        self._timer, work = None, self._work()
        if work is not None:
            work()

    def cancel(self) -> None:
        """Do not call."""
        if self._timer is not None:
            self._timer.cancel()
