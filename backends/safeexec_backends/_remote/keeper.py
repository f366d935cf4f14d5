"""Keeps sandboxes from expiring while their sessions are open."""

from __future__ import annotations

import threading
from collections.abc import Collection
from functools import partial
from typing import Protocol

from safeexec import threads
from safeexec_backends._remote.faults import Fault, Gone, retry
from safeexec_backends._remote.guest import log

TOGETHER = 16
"""Sandboxes that are renewed at once."""


class Kept(Protocol):
    """A guest whose sandbox expires unless it is renewed."""

    def keep(self) -> None:
        """Renew it. Raises Fault."""

    def fail(self, reason: str) -> None:
        """Take note that it is gone."""


class Keeper:
    """One thread for all sandboxes of a backend; it runs while there are any in `kept`.

    Each is renewed in a thread of the pool's, some at a time: a vendor that does not answer for a few of them must not let all others expire.
    """

    def __init__(self, interval: float, kept: Collection[Kept]) -> None:
        self._interval = interval
        self._kept = kept
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._places = threading.BoundedSemaphore(TOGETHER)
        self._under_way: set[Kept] = set()

    def wake(self) -> None:
        """A sandbox was added to `kept`."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                thread = threading.Thread(target=self._main, name="safeexec-keeper", daemon=True)
                thread.start()
                self._thread = thread

    def stop(self) -> None:
        """Renew no more."""
        self._stop.set()

    def _main(self) -> None:
        while not self._stop.wait(self._interval):
            for guest in tuple(self._kept):
                self._renew(guest)
            with self._lock:
                if not self._kept:
                    self._thread = None
                    return

    def _renew(self, guest: Kept) -> None:
        with self._lock:
            if guest in self._under_way:  # since the last round: the vendor does not answer
                return
            self._under_way.add(guest)
        self._places.acquire()
        try:
            threads.start(partial(self._try, guest))
        except RuntimeError as error:  # there is no thread to be had; the next round comes before the sandbox expires
            self._done(guest)
            log.warning("a sandbox could not be kept alive; it is tried again: %s", error)

    def _done(self, guest: Kept) -> None:
        self._places.release()
        with self._lock:
            self._under_way.discard(guest)

    def _try(self, guest: Kept) -> None:
        try:
            retry(guest.keep, self._stop, attempts=2)
        except Gone as error:
            guest.fail(f"the sandbox is gone: {error}")
        except Fault as error:
            log.warning("a sandbox could not be kept alive; it is tried again: %s", error)
        except Exception:  # what no vendor's library should raise
            log.exception("keeping a sandbox alive failed")
        finally:
            self._done(guest)
