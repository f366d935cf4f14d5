"""Steps that can be undone: copies of a session's process, and the process that watches over them.

A cell that is asked to *keep* its state before it has run anyone's code becomes the **keeper**, for good: the first process of the cell's pid namespace,
which nothing inside can signal, and which runs none of the session's code. It copies itself; the copy is the **runner** and goes on as the
session. The keeper itself is what the session was before its first step. At every later *keep* the runner is copied again: the copy, the
**checkpoint**, gives up its channel and stops itself. To go back the keeper kills the runner, puts the files back and wakes the
checkpoint, which is copied in turn (a checkpoint stays) and is the runner from then on.

All of them are the keeper's children (CLONE_PARENT), so it hears from the kernel, and from nobody else, who stopped and who ended how. A process behind the
seal can copy itself in this one way, and only when the keeper agrees: once for each time that the host asked for a checkpoint. So there
are three processes at most, each within the session's limits.

Each runner has a channel to the host of its own, so what a killed one wrote, or left unread, concerns no other.
"""

from __future__ import annotations

import _thread
import os
import resource
import select
import signal
import socket
import sys
from functools import cache
from typing import Any, NamedTuple

from safeexec import guest, wire
from safeexec_backends._hardening import bpf, copies, open_files, seccomp, waiting
from safeexec_backends._hardening.kept_files import KeptFiles
from safeexec_backends.local import keeping

_CHANNEL = 3
_BUSY = b"t"
_OPEN = b"o"


class Terms(NamedTuple):
    """What the zygote knows of a cell that may keep its state."""

    tid: int
    """Where the C library has the thread's id."""
    processes: int
    disk: int
    roots: tuple[str, ...]


@cache
def seal(keeps: bool) -> bytes:
    """The filter that takes from a process what only a keeper may do."""
    return bpf.encode(seccomp.seal(keeps))


def prepare() -> None:
    """Assemble, once for all cells, what each of them needs when somebody waits."""
    seal(True)
    seal(False)
    copies.asking()


class Lost(Exception):
    """There is no way back."""


class Keeper:
    """The watching process of one cell."""

    def __init__(self, terms: Terms) -> None:
        """Raises OSError."""
        self._terms = terms
        self._host = socket.socket(fileno=os.dup(_CHANNEL))
        os.set_inheritable(self._host.fileno(), False)
        self._listener = copies.Listener()
        self._hand: socket.socket | None = None
        """By which a checkpoint gets what it needs when it is woken, and runners excuse themselves."""
        self._files = KeptFiles(terms.roots, terms.disk)
        self._woken, self._wakes = os.pipe()
        """Where the kernel's word that a child stopped or ended arrives, so that it can be waited for together with questions."""
        for fd in (self._woken, self._wakes):
            os.set_blocking(fd, False)
        self._poll = select.poll()
        self._runner = self._pidfd = -1
        self._checkpoint = 0
        """The stopped copy; 0 when there is none, -1 when this process itself is what to go back to."""
        self._asked = False
        """Whether the host asked for a checkpoint that was not taken."""
        self._waking: socket.socket | None = None
        """The host's end of the channel of a checkpoint that was woken and has no copy yet."""

    # -- in the keeper -----------------------------------------------------------------------------------------------------

    def serve(self) -> socket.socket:
        """Watch, as long as the host has use for it. Returns in every runner that is a copy of this process: where its channels come from."""
        self._files.save(True)
        self._checkpoint = -1
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _heard)
        self._poll.register(self._host, select.POLLIN)
        self._poll.register(self._listener.fd, select.POLLIN)
        found = self._spawn()
        while found is None:
            # One at a time: what is done about one may close, and open anew, a descriptor that another one names.
            fd, event = self._poll.poll()[0]
            if fd == self._host.fileno():
                found = self._order()
            elif fd == self._listener.fd:
                if event & select.POLLIN:
                    self._decide()
            elif fd == self._pidfd:
                self._runner_ended()
            elif self._hand is not None and fd == self._hand.fileno():
                self._excuse(self._hand)
        return found

    def _tell(self, kind: bytes, number: int = 0, fds: tuple[int, ...] = ()) -> None:
        data = keeping.MESSAGE.pack(kind, number)
        if fds:
            socket.send_fds(self._host, [data], fds)
        else:
            self._host.sendall(data)

    def _order(self) -> socket.socket | None:
        order = self._host.recv(1)
        if not order:
            os._exit(0)  # and with this process, everything
        if order == keeping.KEEP:
            self._asked = True
        elif order == keeping.BACK:
            try:
                return self._go_back()
            except (OSError, MemoryError, Lost) as error:
                self._give_up(error)
        return None

    def _give_up(self, error: BaseException) -> None:
        self._drop()
        if self._waking is not None:
            self._waking.close()
            self._waking = None
        self._tell(keeping.LOST, getattr(error, "errno", 0) or 0)

    def _drop(self) -> None:
        if self._checkpoint > 0:
            os.kill(self._checkpoint, signal.SIGKILL)
            _wait_for(self._checkpoint)
        self._checkpoint = 0

    def _spawn(self) -> socket.socket | None:
        """Copy this process. In the copy: where its channels come from."""
        self._forget_hand()  # a runner before it had the other end, and is dead
        self._hand, theirs = socket.socketpair()
        ours, channel = socket.socketpair()
        pid = copies.copy(seccomp.FORK, self._terms.tid)
        if pid == 0:
            # Before any code of the session: what only the keeper may have.
            for mine in (self._host, self._hand, ours):
                mine.close()
            self._listener.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._woken)
            os.close(self._wakes)
            os.dup2(channel.fileno(), _CHANNEL, inheritable=False)
            channel.close()
            seccomp.apply(seal(True))
            return theirs
        theirs.close()
        channel.close()
        self._poll.register(self._hand, select.POLLIN)
        with ours:
            self._watch(pid)
            self._tell(keeping.RUNNER, 0, (ours.fileno(), self._pidfd))
        return None

    def _forget_hand(self) -> None:
        if self._hand is not None:
            self._poll.unregister(self._hand)
            self._hand.close()
            self._hand = None

    def _watch(self, pid: int) -> None:
        self._unwatch()
        self._runner, self._pidfd = pid, os.pidfd_open(pid)
        self._poll.register(self._pidfd, select.POLLIN)

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            self._poll.unregister(self._pidfd)
            os.close(self._pidfd)
        self._pidfd = -1

    def _runner_ended(self) -> None:
        """Tell the host how: nobody else could know it for sure."""
        _, status = os.waitpid(self._runner, 0)
        self._unwatch()
        self._runner = -1
        self._tell(keeping.ENDED, os.waitstatus_to_exitcode(status))
        if self._waking is not None:
            self._give_up(Lost())

    def _excuse(self, hand: socket.socket) -> None:
        # The session says that it cannot be kept now. Its word is as good as its silence: nothing else depends on it.
        said = hand.recv(4096)
        if not said:
            self._forget_hand()
        elif self._asked:
            self._miss(keeping.THREADS if said[-1:] == _BUSY else keeping.FILES)

    def _miss(self, why: int) -> None:
        """No checkpoint this time. The one before must go: it is older than the last step."""
        if self._waking is not None:
            self._give_up(Lost())
            return
        self._asked = False
        self._drop()
        self._tell(keeping.MISSED, why)

    def _decide(self) -> None:
        if not self._asked and waiting.ready(self._host.fileno(), 0):
            return  # the host's order first: it was sent before the request that makes a runner ask
        question = self._listener.question()
        if question is None:
            return
        if not self._asked or question.pid != self._runner:
            self._listener.refuse(question)
            return
        try:
            # While who could change them waits. After going back, too: some may be other files under the same names.
            self._files.save(bool(question.note))
        except (OSError, MemoryError):
            self._listener.refuse(question)
            self._miss(keeping.FILES)
            return
        if self._terms.processes < 2:
            self._drop()  # the limit has room for one checkpoint, and for a second one only where it has for a thread
        if not self._listener.agree(question):
            return  # a signal came in between: it will ask again
        self._asked = False
        copied = self._await_copy()
        if copied is None:
            self._drop()  # older than the last step
            return
        old, self._checkpoint = self._checkpoint, copied
        if self._waking is not None:
            with self._waking as ours:
                self._tell(keeping.RUNNER, 0, (ours.fileno(), self._pidfd))
            self._waking = None
            return
        self._tell(keeping.KEPT)
        if old > 0:
            os.kill(old, signal.SIGKILL)
            _wait_for(old)

    def _await_copy(self) -> int | None:
        """The copy that was agreed to, once it has stopped itself; None when the runner ended first. The kernel says who it is."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(self._listener.fd, select.POLLIN)
        while True:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOWAIT | os.WNOHANG)
            if info is None:
                ready = {fd for fd, event in poll.poll() if event & select.POLLIN}
                if self._woken in ready:
                    os.read(self._woken, 4096)
                if self._listener.fd in ready:
                    self._repeat()
                continue
            pid, stopped = info.si_pid, info.si_code == os.CLD_STOPPED
            if pid == self._runner and not stopped:
                return None  # its end is told in its turn
            os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED)
            if pid == self._checkpoint:
                if not stopped:
                    self._checkpoint = 0
            elif pid != self._runner and stopped:
                return pid

    def _repeat(self) -> None:
        """A signal that cannot be blocked (a session at rest is stopped) makes the kernel begin a call anew that was agreed to."""
        question = self._listener.question()
        if question is not None and question.pid == self._runner:
            self._listener.agree(question)
        elif question is not None:
            self._listener.refuse(question)

    def _go_back(self) -> socket.socket | None:
        if self._runner > 0:
            os.kill(self._runner, signal.SIGKILL)
            self._runner_ended()
        if not self._checkpoint or self._asked:
            raise Lost
        replaced = self._files.restore()
        if self._checkpoint < 0:
            return self._spawn()
        if self._hand is None:
            raise Lost
        self._waking, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._hand, [keeping.replaced(replaced)], [theirs.fileno()])
        pid, self._checkpoint = self._checkpoint, 0
        self._asked = True
        self._watch(pid)
        os.kill(pid, signal.SIGCONT)
        return None


def _heard(*_: object) -> None:
    """The descriptor that wakes says it."""


def _wait_for(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


class CellGuest(guest.Guest):
    """The guest program in a cell that may keep its state."""

    def __init__(self, descriptor: int, language: Any, terms: Terms) -> None:
        super().__init__(guest.FdChannel(descriptor), language)
        self._terms = terms
        self._sealed = False
        self._hand: socket.socket | None = None

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
        if self._hand is not None:
            self._be_copied(self._hand)
        elif not self._sealed:
            try:
                keeper = Keeper(self._terms)
            except OSError as error:
                os.write(_CHANNEL, keeping.MESSAGE.pack(keeping.LOST, error.errno or 0))
                return
            self._hand = keeper.serve()
            self._sealed = True
            self._fresh_channel()

    def _be_copied(self, hand: socket.socket) -> None:
        while True:
            if _thread._count() > 0:
                hand.send(_BUSY)  # a copy would not have them
                return
            try:
                files = open_files.OpenFiles()
                mapped = "mmap" in sys.modules or "sqlite3" in sys.modules
                # A signal makes the kernel begin the call anew: alarms of the session must not keep it from ever being made.
                mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
                try:
                    copied = copies.copy(seccomp.KEEP, self._terms.tid, int(mapped))
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                if copied:
                    return
            except (OSError, MemoryError, open_files.NotKept):
                hand.send(_OPEN)
                return
            self._sleep(hand, files)

    def _sleep(self, hand: socket.socket, files: open_files.OpenFiles) -> None:
        """The checkpoint's whole life, until it becomes the runner."""
        try:
            os.close(_CHANNEL)  # the runner's: with the last of it the host knows that the runner is gone
            os.kill(os.getpid(), signal.SIGSTOP)
            text, fds, _, _ = socket.recv_fds(hand, keeping.MOST, 1)
            if fds[0] != _CHANNEL:
                os.dup2(fds[0], _CHANNEL, inheritable=False)
                os.close(fds[0])
            files.restore(keeping.read_replaced(text))
            open_files.renew_loop(self._loop)
        except BaseException:
            os._exit(1)  # nothing that could be relied on
        self._fresh_channel()

    def _fresh_channel(self) -> None:
        self._channel = guest.FdChannel(_CHANNEL)
