"""Ends the guests of sessions that nobody closed.

The garbage collector finds such a session, whenever it runs: in any thread, at any line, also amid a lock that ending the guest takes. So it only notes the
guest here, without a lock that could be held, and a thread ends it.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from safeexec.backend import Guest

_guests: SimpleQueue[Guest] = SimpleQueue()
_busy = threading.Lock()
"""Held while a thread ends guests. Nobody waits for it."""


def end(guest: Guest) -> None:
    """Have `guest` ended soon. From a finalizer: waits for nothing."""
    _guests.put(guest)  # one of the few calls that may interrupt itself
    if _busy.acquire(blocking=False):
        try:
            # Not threading's: to start one of those takes locks, and waits until it runs.
            _thread.start_new_thread(_end_all, ())
        except RuntimeError:  # there is none to be had, or the interpreter ends
            _end_all()


def _end_all() -> None:
    while True:
        found = []
        while not _guests.empty():
            try:
                found.append(_guests.get_nowait())
            except Empty:
                break
        if not found:
            _busy.release()
            # One that came since the look above, and saw that somebody was busy.
            if _guests.empty() or not _busy.acquire(blocking=False):
                return
            continue
        for guest in found:  # all of them: to close one may take a vendor half a minute
            _tried(guest.kill)
        for guest in found:
            _tried(guest.close)
        del found, guest  # what they refer to must not live until the next one comes


def _tried(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:  # one guest's trouble must not keep the others alive
        threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), None)))


def _after_fork() -> None:
    global _guests, _busy
    _guests, _busy = SimpleQueue(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
