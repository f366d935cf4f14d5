"""The states of sessions that wait, kept in the host's memory, out of reach of the workers: for when a worker dies.

A session whose state has changed and that has been left alone for a moment is written down by its worker, at the host's request and while nobody waits; one
whose requests follow each other without a pause costs nothing. What a worker sends is guest data like any snapshot: the host only holds it, and
hands it to another worker, which checks it. A state is kept only if no request was made while it was written, so it is the one after the session's last
completed request; a worker that is taken over later cannot change it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from safeexec import threads

from .agreed import BUSY, LARGE, RESTLESS, WRITTEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from safeexec.policy import Policy

    from .worker_guest import WorkerGuest

_SMALL: Final = 1 << 20
_REST: Final = 0.03
"""Seconds for which a session must be left alone."""
_IDLE, _LOADED = 1, 6
"""For how many times as long as the last state took nothing is written: where nobody else wanted the worker meanwhile, and where somebody did."""
_ATTEMPTS: Final = 20


class Kept(NamedTuple):
    """The state of a session after its last completed request."""

    state: bytes | None
    """None: the one that every fresh session has."""
    held: dict[str, Any] | None
    """What its guest had yet to be told then."""


class Wish(NamedTuple):
    """A session as it is when its state is asked for."""

    number: int
    requests: int
    held: dict[str, Any] | None


NOT_YET: Final = "its state was not kept: it had not been left alone for long enough since its last request"
DROPPED: Final = "its state was not kept any more: there were states of newer requests than fit into keep_bytes"
_REFUSED: Final = {
    BUSY: NOT_YET,
    RESTLESS: "its state was not kept: it could not be written down",
    LARGE: "its state was not kept: it is too large",
}


class Keeper:
    """The kept states of one pool's sessions, in at most `limit` bytes; those of the sessions that were left alone the longest go first."""

    def __init__(self, limit: int, start: Callable[[Policy, bytes | None], WorkerGuest]) -> None:
        """`start` makes a session of a state, or a fresh one. Raises BackendUnavailable, SnapshotError."""
        self.start = start
        self._limit = limit
        self._most = min(max(limit // 4, _SMALL), limit)
        self._lock = threading.RLock()  # as in WorkerProcess
        self._waiting: OrderedDict[WorkerGuest, tuple[float, int]] = OrderedDict()
        self._kept: OrderedDict[WorkerGuest, Kept] = OrderedDict()
        self._size = 0
        self._running = False
        self._closed = threading.Event()

    def want(self, guest: WorkerGuest, attempt: int = 0) -> None:
        """Have its state written down once it has been left alone for a moment. From any thread, at once, and raises nothing."""
        with self._lock:
            if self._closed.is_set():
                return
            self._waiting[guest] = monotonic(), attempt
            self._waiting.move_to_end(guest)
            if self._running:
                return
            self._running = True
        try:
            threads.start(self._work)
        except RuntimeError:  # no more threads, or the interpreter ends
            self._running = False

    def get(self, guest: WorkerGuest) -> Kept | None:
        """What is kept of it."""
        with self._lock:
            return self._kept.get(guest)

    def forget(self, guest: WorkerGuest) -> None:
        """Drop what is kept of it, and what is wanted."""
        with self._lock:
            self._waiting.pop(guest, None)
            self._drop(guest)

    def size(self) -> int:
        """Bytes that are kept."""
        return self._size

    def close(self) -> None:
        """Drop everything. Idempotent."""
        self._closed.set()
        with self._lock:
            self._waiting.clear()
            self._kept.clear()
            self._size = 0

    def _drop(self, guest: WorkerGuest) -> None:
        kept = self._kept.pop(guest, None)
        if kept is not None and kept.state is not None:
            self._size -= len(kept.state)

    # The thread that asks: there is one while there is something to ask.

    def _work(self) -> None:
        try:
            while True:
                with self._lock:
                    if not self._waiting:
                        self._running = False
                        return
                    guest, (since, attempt) = next(iter(self._waiting.items()))
                    early = since + _REST - monotonic()
                    if early <= 0:
                        del self._waiting[guest]
                if early > 0:
                    self._closed.wait(early)
                    continue
                self._keep(guest, attempt)
                del guest
        except BaseException:  # the next wish starts another thread
            self._running = False
            raise

    def _keep(self, guest: WorkerGuest, attempt: int) -> None:
        wish = guest.wish()
        if wish is None:
            return
        worker = guest.worker
        served, started = worker.served, monotonic()
        outcome, state = worker.written(wish.number, self._most)
        if outcome == WRITTEN:
            guest.keep(wish, state)
        elif outcome == BUSY and attempt < _ATTEMPTS:
            # Its last request is about to end, or the next one is already there.
            self.want(guest, attempt + 1)
        elif worker.alive:
            guest.unkept = _REFUSED.get(outcome, _REFUSED[RESTLESS])
        if outcome == RESTLESS:
            return  # that took nobody's time
        took = monotonic() - started
        self._closed.wait(_IDLE * took)
        if worker.served != served:
            self._closed.wait((_LOADED - _IDLE) * took)

    def put(self, guest: WorkerGuest, kept: Kept) -> None:
        """Keep a state; the guest sees to it that it is still the one it is in."""
        assert kept.state is not None
        with self._lock:
            if self._closed.is_set():
                return
            self._drop(guest)
            self._kept[guest] = kept
            self._size += len(kept.state)
            while self._size > self._limit:
                oldest = next(iter(self._kept))
                self._drop(oldest)
                oldest.unkept = DROPPED
