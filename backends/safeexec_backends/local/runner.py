"""The guest program in a cell that may keep its state: how it is sealed, copied, and woken. What watches over it: ``keeper``."""

from __future__ import annotations

import _thread
import os
import resource
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import Any

from safeexec import guest, wire
from safeexec_backends._hardening import copies, open_files, seccomp
from safeexec_backends.local import keeping
from safeexec_backends.local.keeper import CHANNEL, Keeper, Terms, seal


class CellGuest(guest.Guest):
    """The guest program in a cell that may keep its state."""

    def __init__(self, descriptor: int, language: Any, terms: Terms) -> None:
        super().__init__(guest.FdChannel(descriptor), language)
        self._terms = terms
        self._sealed = False
        self._kept = False

    def handle(self, header: wire.Header, blobs: Any = ()) -> None:
        kind = header.get("t")
        if kind == "keep":
            self._keep()
            return
        if not self._sealed and kind not in keeping.SETUP:
            # From here on the session's code may run: without what a keeper may do.
            self._sealed = True
            resource.setrlimit(resource.RLIMIT_NPROC, (self._terms.processes, self._terms.processes))
            seccomp.apply(seal(False))
        super().handle(header, blobs)

    def _keep(self) -> None:
        if self._kept:
            self._be_copied()
        elif not self._sealed:
            try:
                keeper = Keeper(self._terms)
            except OSError as error:
                os.write(CHANNEL, keeping.MESSAGE.pack(keeping.LOST, error.errno or 0, 0))
                return
            keeper.serve()
            self._kept = self._sealed = True
            if keeper.rests:
                del keeper
                self._sleep(open_files.OpenFiles())
                self._be_copied()
            else:
                self._channel = guest.FdChannel(CHANNEL)

    def _be_copied(self) -> None:
        while True:
            if _thread._count() > 0:
                self._say(keeping.BUSY)  # a copy would not have them
                return
            try:
                files = open_files.OpenFiles()
                mapped = "mmap" in sys.modules or "sqlite3" in sys.modules
                # A signal makes the kernel begin the call anew: alarms of the session must not keep it from ever being made.
                mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
                try:
                    copied = copies.copy(seccomp.KEEP, self._terms.tid, keeping.MAPPED if mapped else keeping.COPY)
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                if copied:
                    return
            except (OSError, MemoryError, open_files.NotKept):
                self._say(keeping.OPEN)
                return
            self._sleep(files)

    def _say(self, note: int) -> None:
        with suppress(OSError):  # "no" is all that is ever said to that
            copies.ask(note, self._terms.tid)

    def _sleep(self, files: open_files.OpenFiles) -> None:
        """The checkpoint's whole life, until it becomes the runner."""
        try:
            os.close(CHANNEL)  # the runner's: with the last of it the host knows that the runner is gone
            os.kill(os.getpid(), signal.SIGSTOP)
            copies.ask(keeping.CHANNEL, self._terms.tid)
            files.restore(keeping.read_replaced(partial(os.read, CHANNEL)))
            open_files.renew_loop(self._loop)
        except BaseException:
            os._exit(1)  # nothing that could be relied on
        self._channel = guest.FdChannel(CHANNEL)
