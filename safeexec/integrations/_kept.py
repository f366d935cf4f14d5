"""Sessions that are kept for later, as many and for as long as was said."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from time import monotonic

from safeexec.integrations._alarm import Alarm
from safeexec.session import Session


class _Place:
    """A session, since when nobody uses it, and by how many it is used."""

    def __init__(self, session: Session) -> None:
        self.session, self.since, self.users = session, monotonic(), 0


class Kept:
    """Open sessions by key, from any thread. Of more than `limit` the one unused for longest is closed, and every one unused for `idle` seconds.

    A thread sees to the second while there are any: a vendor's sandbox costs money also where nobody comes by any more.
    """

    def __init__(self, limit: int, idle: float) -> None:
        self._limit, self._idle = limit, idle
        self._lock = threading.Lock()
        self._places: OrderedDict[Hashable, _Place] = OrderedDict()
        self._alarm = Alarm(self, Kept._look)

    def of(self, key: Hashable, make: Callable[[], Session]) -> Session:
        """The open session of that key, or the one that `make` makes; in use until :meth:`rest`. Two callers must not ask for the same key at once."""
        with self._lock:
            place = self._places.get(key)
        if place is None or place.session.closed:
            place = _Place(make())
        with self._lock:
            self._places[key] = place
            self._places.move_to_end(key)
            place.users += 1
            surplus = [self._places.popitem(last=False)[1] for _ in range(len(self._places) - max(1, self._limit))]
        for other in surplus + self._expired():
            other.session.close()
        return place.session

    def rest(self, key: Hashable, session: Session) -> None:
        """It is not in use any more. Waits for nothing."""
        with self._lock:
            place = self._places.get(key)
            if place is not None and place.session is session:
                place.users, place.since = place.users - 1, monotonic()
                self._alarm.set(self._idle)

    def _expired(self) -> list[_Place]:
        """Those whose time is over, taken out; and the clock set for the next."""
        with self._lock:
            now = monotonic()
            unused = {key: now - place.since for key, place in self._places.items() if not place.users}
            over = [self._places.pop(key) for key, lasted in unused.items() if lasted >= self._idle]
            if len(over) < len(unused):
                self._alarm.set(self._idle - max(lasted for lasted in unused.values() if lasted < self._idle))
        return over

    def _look(self) -> None:
        for place in self._expired():
            place.session.close()

    def open(self) -> list[Session]:
        """All that are open."""
        with self._lock:
            return [place.session for place in self._places.values() if not place.session.closed]

    def drop(self, key: Hashable) -> None:
        """Close the session of that key, if there is one."""
        with self._lock:
            place = self._places.pop(key, None)
        if place is not None:
            place.session.close()

    def close(self) -> None:
        """Close all."""
        with self._lock:
            places = list(self._places.values())
            self._places.clear()
            self._alarm.cancel()
        for place in places:
            place.session.close()
