"""Steps that can be undone, inside a container: copies of the session's process, and the process that watches over them.

Shipped as text next to inside.py; CPython 3.9 and later. The container is the wall, and everything here is on its inner side: the host believes no word of
it and is only ever made to give the session up.

The guest that is asked to keep its state for the first time, before any code of the session ran, becomes the **keeper** for good: it reads the host's
orders, copies itself, and the copy, the **runner**, goes on as the session. The keeper itself is what the session was before its first step. At every later
*keep* the runner is copied again; that copy, the **checkpoint**, sleeps. To go back the keeper kills everything else in the container and wakes the
checkpoint with a new connection to the host: what a killed runner wrote, or left unread, concerns no other. Whoever is woken puts the files back and is
copied first of all, since a checkpoint stays.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safeexec_backends.docker import copies, orders, past
else:
    try:
        import safeexec_copies as copies
        import safeexec_orders as orders
    except ImportError:
        from safeexec_backends.docker import copies, orders

HAND = struct.Struct("<cqq")
"""What runners say to the keeper, and the keeper to the checkpoint: a kind and two numbers."""
KEPT, MISSED, WAKE = b"k", b"m", b"w"
"""The state of this number is kept, by this process, which says it itself; it is not, and why; be the runner."""
PID_BITS = 24
"""Of the word that says in shared memory what a checkpoint says: its process. Ids have 22 bits at most."""
_PATIENCE = 0.25
"""Seconds that a checkpoint is waited for which is being taken when the step behind it is to be killed."""


class Keeper:
    """The watching process."""

    def __init__(self, owner: past.Past, hand: socket.socket, control: int, number: int) -> None:
        self._past = owner
        self._hand = hand
        self._control = socket.socket(fileno=control)
        self._read = 0
        """The last word that was looked at."""
        self._kept = number
        self._checkpoint = 0
        """Which state is kept, and the copy that has it; 0: this process itself."""
        self._missed, self._why = 0, orders.NONE
        self._runner = 0
        self._status = 0
        self._backs = 0
        self._killed = 0

    def serve(self) -> None:
        """Watch, as long as the host has use for it. Returns in every runner that is a copy of this process."""
        handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGCHLD)]
        woken, wakes = os.pipe()
        for fd in (woken, wakes):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, _heard)
        if self._spawn():
            os.close(self._past.channel.descriptor)  # with the last of it the host knows that the runner is gone
            self._watch(woken)
        # The runner, before any code of the session.
        signal.set_wakeup_fd(-1)
        for number, handler in handlers:
            signal.signal(number, handler)
        os.close(woken)
        os.close(wakes)
        self._control.close()
        self._hand.close()
        os.setpgid(0, 0)  # a signal that the session sends to its own group is not meant for the keeper
        copies.endure(False)

    def _watch(self, woken: int) -> None:
        poll = select.poll()
        for fd in (self._control.fileno(), self._hand.fileno(), woken):
            poll.register(fd, select.POLLIN)
        while True:
            events = dict(poll.poll())
            if events.get(self._hand.fileno(), 0) & ~select.POLLIN:
                poll.unregister(self._hand)  # the session has shut it, which would be heard for ever
            ready = set(events)
            if self._hand.fileno() in ready:
                self._hear()
            if woken in ready:
                os.read(woken, 4096)
                if self._bury():
                    self._tell_end()
                    self._end_all()  # what it leaves behind may hold its connection, and with it up the host
            if self._control.fileno() in ready and self._order():
                return

    def _spawn(self) -> bool:
        """Copy this process; True in the original."""
        self._killed = copies.out_of_memory()
        self._runner = copies.copy(0)
        return self._runner != 0

    # -- orders ------------------------------------------------------------------------------------------------------------

    def _order(self) -> bool:
        """Do what the host says; True in a new runner."""
        said, fds, _, _ = socket.recv_fds(self._control, orders.ORDER, 1)
        if len(said) != orders.ORDER:
            os._exit(0)  # the host is gone
        number, kind = int.from_bytes(said[:7], "little"), said[7]
        if kind == orders.INTERRUPT:
            self._past.word.value = number
            if self._runner:
                os.kill(self._runner, signal.SIGINT)
            return False
        self._await(number)
        self._end_all()
        if kind == orders.KILL:
            return False
        try:
            return self._go_back(number, fds[0])
        except (OSError, MemoryError):
            self._lost(orders.FAILED)
            os.close(fds[0])
            return False

    def _await(self, number: int) -> None:
        """Wait for a checkpoint that is being taken right now: without it there is no way back."""
        poll = select.poll()
        poll.register(self._hand, select.POLLIN)
        deadline = time.monotonic() + _PATIENCE
        while self._runner:
            self._look()
            if max(self._kept, self._missed) >= number:
                return
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000) or not self._hear():
                return

    def _go_back(self, number: int, frames: int) -> bool:
        if self._kept != number:
            self._lost(self._why if self._missed == number else orders.NONE)
            os.close(frames)
            return False
        if self._checkpoint:
            pid, self._checkpoint, self._kept = self._checkpoint, 0, -1  # until it is said to be kept again
            self._killed = copies.out_of_memory()
            socket.send_fds(self._hand, [HAND.pack(WAKE, number, 0)], [frames])
            os.close(frames)
            self._runner = pid
            self._backs += 1
            return False
        self._past.come_back(frames)
        if not self._spawn():
            return True
        os.close(frames)
        self._backs += 1
        return False

    def _end_all(self) -> None:
        """End every process but the init, this one and the checkpoint."""
        try:
            # First all at once: a program that forks faster than it can be killed is stopped by the kernel in no place between two of them.
            os.kill(-1, signal.SIGSTOP)
        except ProcessLookupError:
            return
        # What was said until then: a checkpoint that is heard of now would be taken for a stranger, and whoever is woken needs room for his own words.
        while select.select([self._hand], [], [], 0)[0] and self._hear():
            pass
        self._look()
        spared = {1, os.getpid(), self._checkpoint}
        while True:
            others = copies.others(spared)
            for pid in others:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._bury()
            if not others:
                break
            time.sleep(0.0002)
        if self._checkpoint:
            # It may have been stopped before it gave the runner's connection up, by the end of which the host knows that the runner is gone.
            try:
                os.kill(self._checkpoint, signal.SIGCONT)
            except ProcessLookupError:
                self._bury()

    # -- news --------------------------------------------------------------------------------------------------------------

    def _hear(self) -> bool:
        """What is said of checkpoints; whether anything was. A runner may lie to its own harm."""
        self._look()
        said = self._hand.recv(64)
        if len(said) != HAND.size:
            return bool(said)
        kind, number, value = HAND.unpack(said)
        if kind == KEPT:
            self._take(number, value)
        elif kind == MISSED and number > self._kept:
            self._missed, self._why = number, value
            self._put_away(0, -1)
        return True

    def _look(self) -> None:
        """The runner says what its checkpoint says, in memory: the checkpoint may not have come to say it when it is needed."""
        word = self._past.kept.value
        if word != self._read:
            self._read = word
            self._take(word >> PID_BITS, word & (1 << PID_BITS) - 1)

    def _take(self, number: int, pid: int) -> None:
        if pid <= 1 or pid in (self._checkpoint, self._runner):
            return
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return  # it has ended already
        except (OSError, OverflowError):
            return  # it is nobody's copy
        if number > self._kept:
            copies.endure(True, str(pid))
            self._put_away(pid, number)
        else:  # there is a later one, which was heard of first
            _end(pid)

    def _put_away(self, checkpoint: int, number: int) -> None:
        old, self._checkpoint, self._kept = self._checkpoint, checkpoint, number
        if old:
            _end(old)

    def _bury(self) -> bool:
        """Take note of who has ended; whether the runner has."""
        found = False
        self._look()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if not pid:
                return found
            if pid == self._runner:
                self._runner, self._status, found = 0, status, True
            elif pid == self._checkpoint:
                self._checkpoint, self._kept = 0, -1

    def _tell_end(self) -> None:
        code = os.waitstatus_to_exitcode(self._status)
        killed = copies.out_of_memory() > self._killed
        self._tell(orders.OUT_OF_MEMORY if killed else orders.ENDED, code if code >= 0 else 128 - code)

    def _lost(self, why: int) -> None:
        self._tell(orders.LOST, why)

    def _tell(self, what: int, number: int) -> None:
        try:
            self._control.send(orders.SAID.pack(self._backs, what, number), socket.MSG_DONTWAIT)
        except OSError:
            return  # the host is gone, or does not listen: it finds out by itself


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _heard(*_: object) -> None:
    """The descriptor that wakes says it."""
