"""Locks by key: who makes the same thing waits, who makes another does not."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Places:
    """A lock for each key that anybody holds or waits for, and for no other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Hashable, tuple[threading.Lock, list[None]]] = {}

    @contextmanager
    def of(self, key: Hashable) -> Iterator[None]:
        """Hold the lock of `key`. Blocks."""
        with self._lock:
            lock, users = self._held.setdefault(key, (threading.Lock(), []))
            users.append(None)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                users.pop()
                if not users:
                    del self._held[key]

    def __len__(self) -> int:
        return len(self._held)

    def __bool__(self) -> bool:
        return True
