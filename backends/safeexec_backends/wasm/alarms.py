"""A guest's alarm: SIGALRM after a time, by the host's clock. Nothing in a guest runs by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from safeexec import watchdog


class Alarm:
    """What goes off in one guest, once or at intervals, to within a tick of the watchdog. Its lock is held by whoever calls."""

    def __init__(self, ring: Callable[[float], None]) -> None:
        """`ring(now)` is called every tick while the alarm is set, by the watchdog's thread, without the lock."""
        self._ring = ring
        self._due = self._interval = 0.0

    def set(self, seconds: float, interval: float) -> None:
        """Go off after so many seconds, and then every `interval` seconds if that is not 0; never, if `seconds` is not above 0."""
        if not seconds > 0:  # also what is no number
            self.stop()
            return
        self._due, self._interval = time.monotonic() + seconds, interval
        watchdog.watch(id(self), self._ring)

    def left(self) -> float:
        """Seconds until it goes off, above 0; 0 if it does not."""
        return max(self._due - time.monotonic(), 1e-6) if self._due else 0.0

    def is_due(self, now: float) -> bool:
        """Whether it has to go off."""
        return 0 < self._due <= now

    def went_off(self, now: float) -> None:
        """The guest will see it: what comes next."""
        if self._interval > 0:
            self._due = max(self._due + self._interval, now)
        else:
            self.stop()

    def stop(self) -> None:
        """Do not go off."""
        watchdog.unwatch(id(self))
        self._due = 0.0
