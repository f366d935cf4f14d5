"""Threads that run a tool or a step and are used again.

``concurrent.futures`` joins its threads at exit and hands work over through two locks and a condition; a tool that overruns must be abandoned
instead, and a hand-over must cost microseconds.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

_IDLE_SECONDS = 5.0
_MAX_IDLE = 32

_idle: list[_Thread] = []
_lock = threading.Lock()


class NoThread(RuntimeError):
    """There is no thread to be had now."""


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
    """Run `work` in a daemon thread. It must not raise. Raises NoThread."""
    try:
        thread = _idle.pop()  # atomic; a lock here would cost more than it guards
    except IndexError:
        try:
            thread = _Thread()
        except RuntimeError as error:
            raise NoThread(str(error)) from error
    thread.give(work)


def start_or_do(work: Callable[[], None]) -> None:
    """The same, but here where there is no thread to be had: for what must not be left undone, whoever waits for it."""
    try:
        start(work)
    except NoThread:
        work()


class Few:
    """Runs what it is given in threads, in at most so many; what is more waits. Nothing given to it may raise."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def start(self, work: Callable[[], None]) -> bool:
        """Whether it runs now. Raises RuntimeError where there is no thread to be had."""
        with self._lock:
            if self._running >= self._most:
                self._waiting.append(work)
                return False
            self._running += 1
        try:
            start(partial(self._main, work))
        except RuntimeError:
            with self._lock:
                self._running -= 1
            raise
        return True

    def _main(self, work: Callable[[], None]) -> None:
        while True:
            work()
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                work = self._waiting.popleft()


def report() -> None:
    """Have ``threading.excepthook`` tell of the exception that is being handled, in a thread that goes on."""
    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
