"""Keeps sandboxes from expiring while their sessions are open."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Protocol

from safeexec_backends._remote.faults import Fault, Gone, retry
from safeexec_backends._remote.guest import log


class Kept(Protocol):
    """A guest whose sandbox expires unless it is renewed."""

    def keep(self) -> None:
        """Renew it. Raises Fault."""

    def fail(self, reason: str) -> None:
        """Take note that it is gone."""


class Keeper:
    """One thread for all sandboxes of a backend; it runs while there are any in `kept`."""

    def __init__(self, interval: float, kept: Collection[Kept]) -> None:
        self._interval = interval
        self._kept = kept
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def wake(self) -> None:
        """A sandbox was added to `kept`."""
        with self._lock:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._main, name="safeexec-keeper", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Renew no more."""
        self._stop.set()

    def _main(self) -> None:
        while not self._stop.wait(self._interval):
            for guest in tuple(self._kept):
                try:
                    retry(guest.keep, self._stop)
                except Gone as error:
                    guest.fail(f"the sandbox is gone: {error}")
                except Fault as error:
                    log.warning("a sandbox could not be kept alive; it is tried again: %s", error)
            with self._lock:
                if not self._kept:
                    self._thread = None
                    return
