"""Warm containers, and the clocks of those in use: one thread looks after both."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic

from safeexec import threads
from safeexec.backend import GuestDied
from safeexec.errors import SafeExecError
from safeexec_backends.docker.container import DockerGuest

_TICK = 1.0
_RETRY = 5.0
_SETTLE = 0.01
"""How long a refill waits after one was taken: to start the next container is work for this process too, and whoever took one is not done yet."""


class Pool:
    """Keeps `size` containers ready. One is handed out once and never comes back.

    `make` starts one; `live` gives the guests in use, which end after `idle` seconds without a step or `lifetime` seconds in all.
    """

    def __init__(
        self,
        size: int,
        make: Callable[[], DockerGuest],
        live: Callable[[], Iterable[DockerGuest]],
        idle: float | None,
        lifetime: float | None,
        max_age: float,
    ) -> None:
        self._size = size
        self._make = make
        self._live = live
        self._idle = idle
        self._lifetime = lifetime
        self._max_age = max_age
        self._ready: deque[DockerGuest] = deque()
        self._wake = threading.Event()
        self._closed = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.trouble: SafeExecError | None = None
        """Why the last refill failed; the next session that starts a container itself meets the same."""
        self._thread: threading.Thread | None = None
        if size or idle is not None or lifetime is not None:
            self._thread = threading.Thread(target=self._main, name="safeexec-docker-pool", daemon=True)
            self._thread.start()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, guest: DockerGuest) -> None:
        """Put in one that was started for another reason and has run nothing."""
        self._ready.append(guest)

    def take(self) -> DockerGuest | None:
        """A warm container, or None. Never waits."""
        while True:
            try:
                guest = self._ready.popleft()
            except IndexError:
                self._wake.set()
                return None
            self._wake.set()
            if guest.alive():  # somebody may have removed it, or the daemon restarted
                return guest
            guest.close()

    def _main(self) -> None:
        while not self._closed:
            pause = _TICK
            try:
                self._look_after()
                if len(self._ready) < self._size:
                    guest = self._make()
                    self.trouble = None
                    with self._lock:
                        closed = self._closed
                        if not closed:
                            self._ready.append(guest)
                    if not closed:
                        continue
                    guest.close()
                    return
            except SafeExecError as error:
                self.trouble = error
                pause = _RETRY
            except Exception:
                # No more threads or descriptors for a moment, say. Without this thread nothing would be refilled any more, and no clock of a container looked at.
                threads.report()
                pause = _RETRY
            if self._wake.wait(pause):
                self._over.wait(_SETTLE)
            self._wake.clear()

    def _look_after(self) -> None:
        now = monotonic()
        for guest in list(self._live()):
            if self._lifetime is not None and now - guest.born > self._lifetime:
                guest.end(GuestDied("time", f"the container lived longer than {self._lifetime:g} s (lifetime=)"))
            elif self._idle is not None and not guest.busy and now - guest.used > self._idle:
                guest.end(GuestDied("time", f"the container was idle for longer than {self._idle:g} s (idle=)"))
        for _ in range(len(self._ready)):
            try:
                guest = self._ready.popleft()
            except IndexError:
                return
            if now - guest.born < self._max_age and guest.alive():
                self._ready.append(guest)
            else:
                guest.close()

    def close(self) -> None:
        """End the thread and the containers. Idempotent."""
        with self._lock:
            self._closed = True
        self._over.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        while self._ready:
            self._ready.popleft().close()
