"""Models call tools in parallel, a session runs one step at a time: those who ask for the same one wait for their turn."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from weakref import WeakValueDictionary

from safeexec.errors import SessionBusy

_mine: ContextVar[tuple[_Turn, ...]] = ContextVar("safeexec_turns", default=())


class Turns:
    """Turns by key, for threads and event loops alike, in the order in which they were asked for. Waiting for one holds no thread of its own.

    A host tool that asks for the turn in which it was called would wait for itself: that raises SessionBusy.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[Hashable, _Turn] = WeakValueDictionary()

    @contextmanager
    def wait(self, key: Hashable) -> Iterator[None]:
        """Hold the turn of `key`. Blocks."""
        turn = self._of(key)
        with turn.taken() as asked:
            asked.result()
            yield

    @asynccontextmanager
    async def awaited(self, key: Hashable) -> AsyncIterator[None]:
        """Hold the turn of `key`."""
        turn = self._of(key)
        with turn.taken() as asked:
            await asyncio.wrap_future(asked)
            yield

    def _of(self, key: Hashable) -> _Turn:
        with self._lock:
            turn = self._turns.setdefault(key, _Turn())
        if turn in _mine.get() and turn.held:
            raise SessionBusy(
                "a tool cannot run code in the conversation whose code called it; that runs one step at a time"
            )
        return turn


class _Turn:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Future[None]] = deque()
        self.held = False

    @contextmanager
    def taken(self) -> Iterator[Future[None]]:
        """A future that is done when the turn has come. In the end it is the next one's, or the place among those who wait is given up."""
        asked: Future[None] = Future()
        with self._lock:
            self._waiting.append(asked)
            free, self.held = not self.held, True
        if free:
            self._next()
        token = _mine.set((*_mine.get(), self))
        try:
            yield asked
        finally:
            _mine.reset(token)
            if not asked.cancel():  # it came, perhaps just when nobody wanted it any more
                self._next()

    def _next(self) -> None:
        with self._lock:
            coming = next((asked for asked in self._taken_off() if asked.set_running_or_notify_cancel()), None)
            self.held = coming is not None
        if coming is not None:
            coming.set_result(None)

    def _taken_off(self) -> Iterator[Future[None]]:
        while self._waiting:
            yield self._waiting.popleft()
