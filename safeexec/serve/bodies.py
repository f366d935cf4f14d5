"""How much there is of all bodies that are being read or answered: a client with many connections is not to have the host's memory."""

from __future__ import annotations

import threading


class Full(Exception):
    """There is no room for another body."""


class Bodies:
    """At most `most` bytes of them, all together."""

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._left = most

    def take(self, size: int) -> None:
        """Raises Full."""
        with self._lock:
            if size > self._left:
                raise Full
            self._left -= size

    def give(self, size: int) -> None:
        """What was taken is there again."""
        with self._lock:
            self._left += size
