"""One thread that looks after the clocks of all running steps.

A step registers a check when it starts and removes it when it ends; neither costs a system call. While any step runs, the thread looks every few
milliseconds; while none does, it sleeps.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import monotonic

from safeexec import threads

TICK = 0.015
_LINGER = 0.5

_checks: dict[int, Callable[[float], None]] = {}
_wake = threading.Event()
_started = False
_start_lock = threading.Lock()


def watch(key: int, check: Callable[[float], None]) -> None:
    """Call `check(now)` every tick until :func:`unwatch`. It must neither block nor raise."""
    _checks[key] = check
    if not _wake.is_set():
        _start()
        _wake.set()


def unwatch(key: int) -> None:
    """Undo :func:`watch`."""
    _checks.pop(key, None)


def _start() -> None:
    global _started
    with _start_lock:
        if not _started:
            _started = True
            threading.Thread(target=_main, name="safeexec-watchdog", daemon=True).start()


def _main() -> None:
    pause = threading.Event()  # never set: waiting on it is a sleep that does not hold the interpreter up at exit
    idle_since = monotonic()
    while True:
        pause.wait(TICK)
        now = monotonic()
        checks = list(_checks.values())
        for check in checks:
            try:
                check(now)
            except threads.NoThread:  # again at the next tick
                continue
            except Exception:  # one backend's trouble must not stop the clocks of all others
                threads.report()
        if checks:
            idle_since = now
        elif now - idle_since > _LINGER:
            _wake.clear()
            if not _checks:  # a step that registered before the clear saw the flag set and did not wake us
                _wake.wait()
            _wake.set()
            idle_since = monotonic()


def _after_fork() -> None:
    global _started, _start_lock, _wake
    _started = False
    _start_lock = threading.Lock()
    _wake = threading.Event()
    _checks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
