"""The guest program in a cell that keeps its states: how it is copied, and woken. What watches over it: ``keeper``."""

from __future__ import annotations

import _thread
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import Any

from safeexec import guest, wire
from safeexec_backends._hardening import blocks, copies, open_files
from safeexec_backends.local import keeping
from safeexec_backends.local.keeper import CHANNEL

# Without the enumerations around it: every object that is touched is a page that is copied.
pthread_sigmask: Any = getattr(sys.modules["_signal"], "pthread_sigmask", None)
_ALL = [int(number) for number in signal.valid_signals()]


def _channel() -> guest.FdChannel:
    return guest.FdChannel(CHANNEL, room=blocks.room)


class CellGuest(guest.Guest):
    """The guest program in a cell that keeps its states."""

    def __init__(self, language: Any, tid: int) -> None:
        """`tid` is where the C library has the thread's id."""
        super().__init__(_channel(), language)
        self._tid = tid
        self._copy = copies.Copier(tid, CHANNEL)

    def handle(self, header: wire.Header, blobs: Any = ()) -> None:
        if header.get("t") == "keep":
            self._be_copied()
        else:
            super().handle(header, blobs)

    def _be_copied(self) -> None:
        while True:
            if _thread._count() > 0:
                self._say(keeping.BUSY)  # a copy would not have them
                return
            try:
                files = open_files.OpenFiles()
                mapped = "mmap" in sys.modules or "sqlite3" in sys.modules
                # A signal makes the kernel begin the call anew: alarms of the session must not keep it from ever being made.
                mask = pthread_sigmask(signal.SIG_SETMASK, _ALL)
                try:
                    copied = self._copy(keeping.MAPPED if mapped else keeping.COPY)
                finally:
                    pthread_sigmask(signal.SIG_SETMASK, mask)
                if copied:
                    return
            except (OSError, MemoryError, open_files.NotKept):
                self._say(keeping.OPEN)
                return
            self._wake_up(files)

    def _say(self, note: int) -> None:
        with suppress(OSError):  # "no" is all that is ever said to that
            copies.ask(note, self._tid)

    def _wake_up(self, files: open_files.OpenFiles) -> None:
        """Become the runner. The copy has rested since it was made; until here none of its Python ran."""
        try:
            copies.ask(keeping.CHANNEL, self._tid)
            files.restore(keeping.read_replaced(partial(os.read, CHANNEL)))
            open_files.renew_loop(self._loop)
        except BaseException:
            os._exit(1)  # nothing that could be relied on
        self._channel = _channel()
