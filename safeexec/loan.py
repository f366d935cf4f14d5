"""The reading of a step's frames, lent to the thread that runs its tools.

A tool runs in a thread of its own, since one that hangs must be left to itself while the step goes on. That costs two threads woken for each call: the
one that reads what the guest sends, and the one that runs the tool. Where a step calls one quick tool after another, the thread that ran one reads the
next call itself, and the caller's thread waits beside it: for any other frame, which is its own to handle, and for a call that takes long, when it goes
back to reading while the tool still runs.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from safeexec import threads

if TYPE_CHECKING:
    from safeexec.wire import Frame

Work = Callable[[], None]
Serve = Callable[..., "Work | None"]

_PATIENCE = 0.002
_LONGEST = 0.032
"""Seconds between two looks at the thread that reads; doubled while the guest computes."""


class Loan:
    """One such loan, from when a call is run until a frame comes that is no call, or a call takes long.

    `read` waits for a frame. `serve` takes a call, in the thread that read it, and returns what is to be run for it, if anything.
    """

    def __init__(self, read: Callable[[], Frame], serve: Serve) -> None:
        self._read = read
        self._serve = serve
        self._lock = threading.Lock()
        self._back: SimpleQueue[Any] = SimpleQueue()
        self._reading = False
        self.served = 0
        """Calls that were read by the thread that ran the one before."""
        self.ended = False
        """A call took long, and whoever lent reads again himself."""

    def start(self, work: Work) -> None:
        """Run `work` in another thread, which reads from then on."""
        # Tools see the context variables of the thread that runs the step.
        threads.start(partial(contextvars.copy_context().run, self._main, work))

    def _main(self, work: Work | None) -> None:
        try:
            while True:
                if work is not None:
                    self._reading = False
                    work()
                    work = None  # nor the frame below: what they hold may be large, and the next call may be long in coming
                with self._lock:
                    if self.ended:
                        return
                    self._reading = True
                frame = self._read()
                if frame[0].get("t") != "call":
                    self._give_back(frame)
                    return
                work = self._serve(*frame)
                del frame
                self.served += 1
        except BaseException as error:
            if not self._give_back(error):
                raise

    def _give_back(self, what: Any) -> bool:
        with self._lock:
            if self.ended:
                return False
            self._reading = False
            self._back.put(what)
            return True

    def result(self) -> Frame | BaseException | None:
        """What came that is no call: a frame, or the error of reading. None when a call takes long: from then on the caller reads himself."""
        patience, seen = _PATIENCE, -1
        while True:
            try:
                return self._back.get(timeout=patience)  # type: ignore[no-any-return]
            except Empty:
                pass
            with self._lock:
                if seen == self.served and not self._reading and self._back.empty():
                    self.ended = True
                    return None
            patience = min(2 * patience, _LONGEST) if seen == self.served else _PATIENCE
            seen = self.served

    def end(self, seconds: float) -> None:
        """Wait until the other thread reads no more: the stream has ended, or is about to."""
        with self._lock:
            if not self._reading:
                self.ended = True
                return
        try:
            self._back.get(timeout=seconds)
        except Empty:
            pass
