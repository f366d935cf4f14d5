"""The worker processes of one executor."""

from __future__ import annotations

import os
import threading

from safeexec.backend import Wall
from safeexec.errors import BackendUnavailable
from safeexec.policy import Policy

from .agreed import engine
from .image.cache import Loaded
from .kept import Keeper
from .process import WorkerProcess, ZygoteDied, launch, no_room
from .reserve import reserve
from .worker_guest import WorkerGuest

_ATTEMPTS = 8
_STATES_ATTEMPTS = 2
"""A state from elsewhere may be what a worker dies of."""


class Pool:
    """The worker processes of one backend, and the zygote they come from."""

    def __init__(self, loaded: Loaded, size: int, one_each: bool, keep: int) -> None:
        """`keep`: bytes of sessions' states that are kept for when their worker dies; 0 for none."""
        self._image = loaded.compiled.parent
        self._engine = engine(loaded.facts["identity"])
        self._memory = int(loaded.facts["memory"])
        self._size = size
        self._one_each = one_each
        self._owner = os.getpid()
        self._lock = threading.RLock()  # as in WorkerProcess
        self._closed = False
        self._workers: list[WorkerProcess] = []
        self.keeper = Keeper(keep, self.start) if keep else None
        self._zygote = launch(self._image)
        reserve.fill()
        self.walls = {name: Wall(not reason, reason) for name, reason in self._zygote.walls.items()}

    def start(self, policy: Policy, state: bytes | None = None, once: bool = False) -> WorkerGuest:
        """A session in the worker that has the fewest, fresh or in the `state` of a snapshot. Raises BackendUnavailable, SnapshotError."""
        if os.getpid() != self._owner:
            raise BackendUnavailable("an executor does not survive a fork: make one in this process")
        trouble: OSError | None = None
        for _ in range(_ATTEMPTS if state is None else _STATES_ATTEMPTS):
            worker = self._choose()
            try:
                if state is None:
                    guest = WorkerGuest.start(worker, policy, self._forget, once)
                else:
                    guest = WorkerGuest.restore(worker, policy, self._forget, state)
            except OSError as error:
                trouble = error if worker.alive else None
                continue  # it died just now: the next round replaces it
            guest.elsewhere = self.start if self._one_each else None
            guest.keeper = self.keeper
            with self._lock:
                worker.sessions.add(guest)
                if not self._closed:
                    return guest
            guest.close()
            break
        if self._closed:
            raise BackendUnavailable("the backend is closed")
        if trouble is not None:  # no descriptor is left, say
            raise BackendUnavailable(no_room("session", trouble)) from trouble
        if state is not None:
            raise BackendUnavailable("the workers that were to restore the session died")
        raise BackendUnavailable("the wasm sandbox's workers die as soon as they are started")

    def _choose(self) -> WorkerProcess:
        with self._lock:
            if self._closed:
                raise BackendUnavailable("the backend is closed")
            for worker in [w for w in self._workers if not w.alive]:
                self._workers.remove(worker)
                worker.close()
            if self._one_each or len(self._workers) < self._size:
                worker = self._new()
                self._workers.append(worker)
                return worker
            return min(self._workers, key=lambda w: len(w.sessions))

    def _new(self) -> WorkerProcess:
        for _ in range(_ATTEMPTS):
            try:
                return WorkerProcess(self._zygote, self._engine, self._memory)
            except ZygoteDied:
                self._zygote.close()
                self._zygote = launch(self._image)
        raise BackendUnavailable("the wasm sandbox's zygote dies as soon as it is started")

    def _forget(self, guest: WorkerGuest) -> None:
        with self._lock:
            guest.worker.sessions.discard(guest)
            alone = self._one_each and guest.worker in self._workers
            if alone:
                self._workers.remove(guest.worker)
        if alone:
            guest.worker.close()

    def close(self) -> None:
        """End every session and every process. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            workers = list(self._workers)
        if self.keeper is not None:
            self.keeper.close()
        for worker in workers:
            for guest in list(worker.sessions):
                guest.kill()
            worker.close()
        self._zygote.close()
