"""Models call tools in parallel, a session runs one step at a time: those who ask for the same one wait for their turn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from weakref import WeakValueDictionary

from safeexec.aio import _in_thread
from safeexec.errors import SessionBusy

_held: ContextVar[tuple[threading.Lock, ...]] = ContextVar("safeexec_turns", default=())


class Turns:
    """Turns by key, shared by threads and event loops.

    A host tool that asks for the turn in which it was called would wait for itself: that raises SessionBusy.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()

    @contextmanager
    def wait(self, key: Hashable) -> Iterator[None]:
        """Hold the turn of `key`. Blocks."""
        lock = self._of(key)
        with lock, _holding(lock):
            yield

    @asynccontextmanager
    async def awaited(self, key: Hashable) -> AsyncIterator[None]:
        """Hold the turn of `key`."""
        lock = self._of(key)
        if not lock.acquire(blocking=False):
            try:
                await _in_thread(lock.acquire)
            except asyncio.CancelledError:  # which was held back until the thread had the lock
                lock.release()
                raise
        try:
            with _holding(lock):
                yield
        finally:
            lock.release()

    def _of(self, key: Hashable) -> threading.Lock:
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        if lock in _held.get() and lock.locked():
            raise SessionBusy(
                "a tool cannot run code in the conversation whose code called it; that runs one step at a time"
            )
        return lock


@contextmanager
def _holding(lock: threading.Lock) -> Iterator[None]:
    token = _held.set((*_held.get(), lock))
    try:
        yield
    finally:
        _held.reset(token)
