"""Steps that can be undone: copies of a session's process, and the process that watches over them.

The first process of a cell is the **keeper**, for good: the first one of the cell's pid namespace, which nothing inside can signal, and which runs
none of the session's code. Before anybody wants the cell it copies itself; the copy is the **runner** and goes on as the session. The keeper
itself is what the session was before its first request. Whenever the host wants a state *kept* the runner is copied: the copy, the
**checkpoint**, gives up its channel and stops itself. To go back the keeper kills the runner, puts the files back and wakes the
checkpoint, which is copied in turn (a checkpoint stays) and is the runner from then on.

A **branch** begins with the checkpoint of the session that it comes from. The sessions of one cell take turns: one of them has the runner, and the cell's
files are its files; of the others there are stopped copies, and their files are in the keeper's memory. To change over is to go back, to the state of
another one.

All of them are the keeper's children (CLONE_PARENT), so it hears from the kernel, and from nobody else, who stopped and who ended how. A process behind the
seal can copy itself in this one way, and only when the keeper agrees: once for each time that the host asked for a checkpoint. And none can signal
another. So there are a keeper, a runner and a checkpoint for each session, each within the session's limits.

Each runner has a channel to the host of its own, so what a killed one wrote, or left unread, concerns no other. One that was woken gets it from the
keeper in answer to a system call: there is no descriptor, which a runner before it could have spoiled, by which they are connected.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import time
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from safeexec_backends._hardening import bpf, copies, seccomp, waiting
from safeexec_backends._hardening.kept_files import KeptFiles
from safeexec_backends.local import keeping, strays
from safeexec_backends.local.states import HERE, State, States, end

CHANNEL = 3
_PATIENCE = 5.0
"""Seconds, a thousand times what a copy takes to come to rest."""
_WAKING = 4.0
"""Seconds, a thousand times what a checkpoint takes to wake; with those of its own copy, less than the host waits."""
_REPEATS = 16
"""More signals than the host sends to a session while it is copied."""
_LAST = 1.0
"""Seconds, for the copy of a runner that has ended."""


class Terms(NamedTuple):
    """What the zygote knows of a cell that may keep its state."""

    tid: int
    """Where the C library has the thread's id."""
    processes: int
    disk: int
    roots: tuple[str, ...]


@cache
def seal() -> bytes:
    """The filter that takes from a process what only a keeper may do."""
    return bpf.encode(seccomp.seal())


def prepare() -> None:
    """Assemble, once for all cells, what each of them needs when somebody waits."""
    seal()
    copies.asking()


class Lost(Exception):
    """There is no way back."""


class Keeper:
    """The watching process of one cell."""

    def __init__(self, terms: Terms) -> None:
        """Raises OSError."""
        self.first = True
        """In a runner: whether it is the first one."""
        self._terms = terms
        self._host = socket.socket(fileno=os.dup(CHANNEL))
        os.set_inheritable(self._host.fileno(), False)
        self._listener = copies.Listener()
        self._woken, self._wakes = os.pipe()
        """Where the kernel's word that a child stopped or ended arrives, so that it can be waited for together with questions."""
        for fd in (self._woken, self._wakes):
            os.set_blocking(fd, False)
        self._poll = select.poll()
        self._runner = self._pidfd = -1
        self._status: int | None = None
        """How the runner ended, if that is known before its turn to be told."""
        self._dying: set[int] = set()
        """Checkpoints that were ended and not waited for."""
        self._states = States(State(HERE, KeptFiles(terms.roots, terms.disk)))
        self._asked = False
        """Whether the host asked for a checkpoint that was not taken."""
        self._keeping = self._going = self._made = 0
        """The numbers of the orders: to keep, to go, and what the runner was made by."""
        self._waking: socket.socket | None = None
        """The host's end of the channel of a checkpoint that was woken and has no copy yet."""
        self._theirs: socket.socket | None = None
        """The other end, which the one that was woken asks for."""
        self._awake_by = 0.0

    # -- in the keeper -----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Watch, as long as the host has use for it. Returns in every runner that is a copy of this process."""
        self._states.mine().files.save(True)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _heard)
        self._poll.register(self._host, select.POLLIN)
        self._poll.register(self._listener.fd, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        try:
            is_runner = self._spawn()
        except OSError as error:  # no process is to be had
            self._tell(keeping.LOST, 0, error.errno or 0)
            os._exit(0)
        self.first = self.first and is_runner
        while not is_runner:
            # One at a time: what is done about one may close, and open anew, a descriptor that another one names.
            fd, event = self._next(self._poll)
            if fd < 0:
                self._runner_ended(kill=True)  # it does not want to wake
            elif fd == self._host.fileno():
                is_runner = self._order()
            elif fd == self._listener.fd:
                if event & select.POLLIN:
                    self._decide()
            elif fd == self._woken:
                os.read(self._woken, 4096)
                self._bury()
            elif fd == self._pidfd:
                self._runner_ended()

    def _next(self, poll: select.poll) -> tuple[int, int]:
        """What has happened; (-1, 0) when a checkpoint has been waking for too long."""
        if self._waking is None:
            return poll.poll()[0]
        left = self._awake_by - time.monotonic()
        return ((poll.poll(left * 1000) if left > 0 else None) or [(-1, 0)])[0]

    def _bury(self) -> None:
        """Wait for those that were ended and are gone; until then they count."""
        for pid in list(self._dying):
            try:
                gone = os.waitpid(pid, os.WNOHANG)[0]
            except ChildProcessError:
                gone = pid
            if gone:
                self._dying.remove(pid)
                self._allow()

    def _tell(self, kind: bytes, order: int, number: int = 0, fds: tuple[int, ...] = ()) -> None:
        data = keeping.MESSAGE.pack(kind, number, order)
        if fds:
            socket.send_fds(self._host, [data], fds)
        else:
            self._host.sendall(data)

    def _order(self) -> bool:
        order = self._host.recv(keeping.ORDER.size, socket.MSG_WAITALL)
        if len(order) < keeping.ORDER.size:
            os._exit(0)  # and with this process, everything
        kind, session, number = keeping.ORDER.unpack(order)
        self._finish_waking()
        if kind == keeping.KEEP:
            self._asked, self._keeping = session == self._states.active, number
        elif kind == keeping.FORK:
            self._fork(session, number)
        elif kind == keeping.DROP:
            self._forget(session)
            self._tell(keeping.DROPPED, number)
        elif kind == keeping.GO:
            self._going = number
            try:
                return self._go(session)
            except (OSError, MemoryError, Lost) as error:
                self._give_up(error)
        return False

    def _give_up(self, error: BaseException) -> None:
        self._states.drop()
        self._stop_waking()
        self._tell(keeping.LOST, self._going, getattr(error, "errno", 0) or 0)

    def _finish_waking(self) -> None:
        """Who gives an order amid a changeover was interrupted in it: until the copy that was woken has one of its own, it is all there is of its sessions."""
        while self._waking is not None:
            poll = select.poll()
            poll.register(self._listener.fd, select.POLLIN)
            poll.register(self._pidfd, select.POLLIN)
            fd, _ = self._next(poll)
            if fd == self._listener.fd:
                self._decide()
            else:
                self._runner_ended(kill=fd < 0)

    def _stop_waking(self) -> None:
        for line in (self._waking, self._theirs):
            if line is not None:
                line.close()
        self._waking = self._theirs = None

    # -- states ------------------------------------------------------------------------------------------------------------

    def _fork(self, session: int, new: int) -> None:
        if self._states.full():
            self._tell(keeping.LOST, new, errno.EAGAIN)
        elif self._asked and session == self._states.active:
            self._tell(keeping.LOST, new)
        else:
            self._tell(keeping.FORKED if self._states.fork(session, new) else keeping.LOST, new)

    def _forget(self, session: int) -> None:
        if session == self._states.active:
            if self._runner > 0:
                self._reap(kill=True)
            self._stop_waking()
            self._asked = False
        self._states.release(session)
        self._allow()

    def _allow(self) -> None:
        """Let the runner have the threads of its session's limit, however many states there are beside it, and others that are about to go."""
        if self._runner > 0 and self._status is None:
            kept = self._states.processes() + len(self._dying)
            most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
            # The keeper, the checkpoint; the kernel counts all that this user namespace has.
            resource.prlimit(self._runner, resource.RLIMIT_NPROC, (min(self._terms.processes + 2 + kept, most), most))

    # -- the runner --------------------------------------------------------------------------------------------------------

    def _spawn(self) -> bool:
        """Copy this process. Whether this is the copy."""
        ours, channel = socket.socketpair()
        pid = copies.copy(seccomp.FORK, self._terms.tid)
        if pid == 0:
            ours.close()
            os.dup2(channel.fileno(), CHANNEL, inheritable=False)
            channel.close()
            self._leave()
            return True
        channel.close()
        with ours:
            self._watch(pid)
            self._tell(keeping.RUNNER, self._going, fds=(ours.fileno(), self._pidfd))
        return False

    def _leave(self) -> None:
        """Be no keeper, in a copy of it: before any code of the session, what only a keeper may have."""
        self._host.close()
        self._listener.close()
        with suppress(OSError):  # not there where the kernel keeps no such list
            os.close(keeping.CHILDREN)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self._woken)
        os.close(self._wakes)
        if self._pidfd >= 0:
            os.close(self._pidfd)
        seccomp.apply(seal())

    def _watch(self, pid: int) -> None:
        self._unwatch()
        self._runner, self._pidfd, self._made = pid, os.pidfd_open(pid), self._going
        self._poll.register(self._pidfd, select.POLLIN)
        self._allow()

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            self._poll.unregister(self._pidfd)
            os.close(self._pidfd)
        self._runner = self._pidfd = -1
        self._status = None

    def _reap(self, kill: bool = False) -> int:
        """The runner's exit status, once it has ended."""
        status = self._status
        if status is None:
            if kill:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            _, status = os.waitpid(self._runner, 0)
        self._unwatch()
        return status

    def _runner_ended(self, kill: bool = False) -> None:
        """Tell the host how: nobody else could know it for sure."""
        self._tell(keeping.ENDED, self._made, os.waitstatus_to_exitcode(self._reap(kill)))
        if self._waking is not None:
            self._give_up(Lost())

    def _miss(self, why: int) -> None:
        """No checkpoint this time. The one before must go: it is older than the last step."""
        if self._waking is not None:
            self._give_up(Lost())
            return
        self._asked = False
        self._states.drop()
        self._tell(keeping.MISSED, self._keeping, why)

    # -- questions ---------------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        if not self._asked and waiting.ready(self._host.fileno(), 0):
            return  # the host's order first: it was sent before the request that makes a runner ask
        question = self._listener.question()
        if question is None:
            return
        if not question.copies:
            self._signals(question)
        elif not self._asked or question.pid != self._runner:
            self._listener.refuse(question)
        elif question.note == keeping.CHANNEL:
            self._hand_over(question)
        elif question.note in (keeping.BUSY, keeping.OPEN):
            # The session says that it cannot be kept now. Its word is as good as its silence: nothing else depends on it.
            self._miss(keeping.THREADS if question.note == keeping.BUSY else keeping.FILES)
            self._listener.refuse(question)  # last: what the checkpoint before held, disk space for one, is free by now
        else:
            self._copy(question)

    def _signals(self, question: copies.Question) -> None:
        """Every process signals itself alone: the others here are the states of the session, and of its branches."""
        if question.first in (question.pid, self._runner):
            self._listener.agree(question)
        else:
            self._listener.refuse(question)

    def _hand_over(self, question: copies.Question) -> None:
        if self._theirs is None:
            self._listener.refuse(question)
            return
        try:
            self._listener.give(question, self._theirs.fileno(), CHANNEL)
        except OSError:  # it allows itself no descriptor: its own loss, and none of its branches'
            self._listener.refuse(question)

    def _copy(self, question: copies.Question) -> None:
        state = self._states.own(self._waking is not None)
        try:
            # While who could change them waits. After going back, too: some may be other files under the same names.
            state.files.save(question.note == keeping.MAPPED)
        except (OSError, MemoryError):
            self._miss(keeping.FILES)
            self._listener.refuse(question)
            return
        if self._terms.processes < 2 and state.pid > 0:
            end(state.pid)  # the limit has room for one checkpoint, and for a second one only where it has for a thread
            state.pid = 0
        self._allow()
        if not self._listener.agree(question):
            return  # a signal came in between: it will ask again
        self._asked = False
        copied = self._await_copy()
        if copied is None:
            self._states.drop()  # older than the last step
            return
        if copied < 0:
            self._miss(keeping.FILES)
            return
        old, state.pid = state.pid, copied
        if self._waking is not None:
            self._tell(keeping.RUNNER, self._going, fds=(self._waking.fileno(), self._pidfd))
            self._stop_waking()
            return
        self._tell(keeping.KEPT, self._keeping)
        if old > 0:
            self._dying.add(old)  # which takes as long as making one, and nobody needs to wait for
            end(old, wait=False)

    def _await_copy(self) -> int | None:
        """The copy that was agreed to, once it has stopped itself; -1 when it could not be made, None when the runner ended before it. The kernel says
        who it is. The runner goes on meanwhile, and may end."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        poll.register(self._listener.fd, select.POLLIN)
        repeats = 0
        late = time.monotonic() + _PATIENCE
        while True:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOWAIT | os.WNOHANG)
            if info is None:
                ready = {fd for fd, event in poll.poll(_PATIENCE * 1000) if event & select.POLLIN}
                if time.monotonic() > late:
                    # Was it made, and runs, while the session seems to rest? Or did the host stop the runner before it could be made?
                    if self._strays():
                        self._end_strays(self._status is None)
                        return -1 if self._status is None else None
                    late = time.monotonic() + 2 * _PATIENCE
                if self._woken in ready:
                    os.read(self._woken, 4096)
                if self._listener.fd in ready:
                    repeats += 1
                    if not self._repeat(repeats):
                        self._end_strays(True)
                        return -1
                continue
            try:
                pid, status = os.waitpid(info.si_pid, os.WUNTRACED | os.WNOHANG)
            except ChildProcessError:
                continue
            stopped = os.WIFSTOPPED(status)
            state = self._states.of(pid)
            if pid == 0:
                continue  # the host let it go on meanwhile
            if pid == self._runner:
                if not stopped:  # which is told in its turn
                    self._status = status
                    if not self._strays():
                        return None
                    late = time.monotonic() + _LAST
            elif state is not None:
                state.pid = state.pid if stopped else 0
            elif not stopped:
                self._dying.discard(pid)
            elif pid not in self._dying:
                return pid

    def _strays(self) -> bool:
        """Whether there is more in the cell than this process, the runner and the states: another process, or threads of the runner."""
        for pid in self._dying:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._dying.clear()
        runs = self._runner > 0 and self._status is None
        return strays.any_beyond(1 + runs + len(self._states.pids()), self._terms.tid)

    def _end_strays(self, runs: bool) -> None:
        """A copy that was agreed to was not seen to stop. It may have been made all the same: it must not be taken for another's, nor stay. `runs`: the
        runner does, and may have threads."""
        if not self._strays():
            return
        with suppress(OSError):
            strays.end_beyond(self._states.pids() | {self._runner}, self._terms.tid)
            if runs or not self._strays():
                return
        os._exit(1)  # what cannot be told apart must not go on

    def _repeat(self, times: int) -> bool:
        """A signal that cannot be blocked (a session at rest is stopped) makes the kernel begin a call anew that was agreed to. Whether the copy is still to
        be waited for: what was agreed to may have failed, for want of memory or of processes; and whoever asks without end wants more than one."""
        question = self._listener.question()
        if question is None:
            return True
        if not question.copies:
            self._signals(question)
        elif question.pid != self._runner:
            self._listener.refuse(question)
        elif question.note not in (keeping.COPY, keeping.MAPPED) or times >= _REPEATS:
            self._listener.refuse(question)
            return False
        elif self._strays():  # it has one, which will come to rest; or threads by now, after it got one
            self._listener.refuse(question)
        else:
            self._listener.agree(question)
        return True

    def _go(self, session: int) -> bool:
        """Be that session as it was; whether this is its new runner."""
        if self._runner > 0:
            self._runner_ended(kill=True)
        if self._asked:
            self._states.drop()
            self._asked = False
        leaves, self._states.active = self._states.get(self._states.active), session
        state = self._states.get(session)
        if state is None or not state.pid:
            raise Lost
        if leaves is not None and leaves is not state:
            leaves.files.make_room(state.files)
        replaced = state.files.restore()
        if state.pid == HERE:
            return self._spawn()
        self._waking, self._theirs = socket.socketpair()
        self._waking.sendall(keeping.replaced(replaced))
        pid, state.pid = state.pid, 0
        self._awake_by = time.monotonic() + _WAKING
        self._asked = True
        self._watch(pid)
        signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)
        return False


def _heard(*_: object) -> None:
    """The descriptor that wakes says it."""
