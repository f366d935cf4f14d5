"""Threads that run a tool or a step and are used again.

``concurrent.futures`` joins its threads at exit and hands work over through two locks and a condition; a tool that overruns must be abandoned
instead, and a hand-over must cost microseconds.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

_IDLE_SECONDS = 5.0
_MAX_IDLE = 32

_idle: list[_Thread] = []
_lock = threading.Lock()


class _Thread:
    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._main, name="safeexec-worker", daemon=True).start()

    def give(self, work: Callable[[], None]) -> None:
        self._work.put(work)

    def _main(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=_IDLE_SECONDS)
            except Empty:
                with _lock:
                    if self in _idle:
                        _idle.remove(self)
                        return
                continue  # taken from the idle list just now: work is on its way
            work()
            del work  # what it refers to must not live as long as this thread idles
            with _lock:
                if len(_idle) >= _MAX_IDLE:
                    return
                _idle.append(self)


def start(work: Callable[[], None]) -> None:
    """Run `work` in a daemon thread. It must not raise."""
    try:
        thread = _idle.pop()  # atomic; a lock here would cost more than it guards
    except IndexError:
        thread = _Thread()
    thread.give(work)


def report() -> None:
    """Have ``threading.excepthook`` tell of the exception that is being handled, in a thread that goes on."""
    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
