"""Sessions that are kept for later, as many and for as long as was said."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from time import monotonic

from safeexec.session import Session


class Kept:
    """Open sessions by key, from any thread. Of more than `limit` the one unused for longest is closed, and every one unused for `idle` seconds."""

    def __init__(self, limit: int, idle: float) -> None:
        self._limit, self._idle = limit, idle
        self._lock = threading.Lock()
        self._sessions: OrderedDict[Hashable, tuple[Session, float]] = OrderedDict()

    def of(self, key: Hashable, make: Callable[[], Session]) -> Session:
        """The open session of that key, or the one that `make` makes. Two callers must not ask for the same key at once."""
        with self._lock:
            found, _ = self._sessions.get(key, (None, 0.0))
        if found is None or found.closed:
            found = make()
        with self._lock:
            self._sessions[key] = found, monotonic()
            self._sessions.move_to_end(key)
            surplus = list(self._surplus())
        for session in surplus:
            session.close()
        return found

    def _surplus(self) -> Iterator[Session]:
        since = monotonic() - self._idle
        while len(self._sessions) > 1:  # never the one that was asked for
            if len(self._sessions) <= self._limit and next(iter(self._sessions.values()))[1] >= since:
                return
            yield self._sessions.popitem(last=False)[1][0]

    def open(self) -> list[Session]:
        """All that are open."""
        with self._lock:
            return [session for session, _ in self._sessions.values() if not session.closed]

    def drop(self, key: Hashable) -> None:
        """Close the session of that key, if there is one."""
        with self._lock:
            found, _ = self._sessions.pop(key, (None, 0.0))
        if found is not None:
            found.close()

    def close(self) -> None:
        """Close all."""
        with self._lock:
            sessions = [session for session, _ in self._sessions.values()]
            self._sessions.clear()
        for session in sessions:
            session.close()
