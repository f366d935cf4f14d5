"""Descriptors that are kept for when this process has no others: a session that fails then is undone all the same."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final

_KEPT: Final = 2
"""A pair of sockets takes as many; what the session had before gives one back."""


class Reserve:
    """So many descriptors, which lead nowhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[int] = []

    def fill(self) -> None:
        """Have them, as far as there are any."""
        with self._lock:
            self._fill()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Do without them meanwhile. Others may be quicker to take them."""
        with self._lock:
            while self._kept:
                os.close(self._kept.pop())
            try:
                yield
            finally:
                self._fill()

    def _fill(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._kept) < _KEPT:
                self._kept.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


reserve: Final = Reserve()
