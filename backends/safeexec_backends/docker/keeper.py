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

import ctypes
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeexec_backends._hardening import kept_files, open_files
    from safeexec_backends.docker import orders
else:
    try:
        import safeexec_kept_files as kept_files
        import safeexec_open_files as open_files
        import safeexec_orders as orders
    except ImportError:
        from safeexec_backends._hardening import kept_files, open_files
        from safeexec_backends.docker import orders

_HAND = struct.Struct("<cqq")
_KEPT, _MISSED, _WAKE = b"k", b"m", b"w"
_PATIENCE = 0.25
"""Seconds that a checkpoint is waited for which is being taken when the step behind it is to be killed."""
_BURIAL = 0.02
"""Seconds that a thread or a process which has ended may still be seen."""
_ROOTS = ("/sandbox", "/tmp", "/dev/shm")
_CLONE = {"x86_64": 56, "aarch64": 220}
# include/uapi/linux/sched.h
_PARENT, _CLEARTID, _SETTID = 0x8000, 0x200000, 0x1000000
_PAGE = 4096


class _Missed(Exception):
    """There is no checkpoint this time; the argument says why."""


def _libc() -> Any:
    library = ctypes.PyDLL(None, use_errno=True)  # which keeps the GIL: there is nobody to take it in a copy
    library.syscall.restype = ctypes.c_long
    library.mmap.restype = ctypes.c_void_p
    return library


def thread_id_address() -> int:
    """Where the C library has the thread's id, which the kernel must renew in a copy; 0 where that is not known."""
    address = ctypes.c_void_p()
    # PR_GET_TID_ADDRESS
    if ctypes.PyDLL(None).prctl(40, ctypes.byref(address), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0)):
        return 0
    if not address.value or ctypes.c_int.from_address(address.value).value != os.getpid():
        return 0
    return address.value


def _copy(flags: int) -> int:
    """This process once more: 0 in the copy, its id in the original. Raises OSError.

    Past fork(): no handlers, neither the C library's nor Python's, so that the copy is exactly what the original is, its random numbers included.
    Only for a process with one thread.
    """
    tid = thread_id_address()
    number = _CLONE.get(os.uname().machine)
    if not tid or number is None:
        raise OSError(38, "this process cannot be copied")
    order = (tid, 0) if number == 56 else (0, tid)  # aarch64 takes tls before child_tid
    words = (number, flags | _CLEARTID | _SETTID | signal.SIGCHLD, 0, 0, *order)
    pid: int = _libc().syscall(*(ctypes.c_long(word) for word in words))
    if pid < 0:
        raise OSError(ctypes.get_errno(), "this process cannot be copied")
    return pid


def _others(known: set[int]) -> list[int]:
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid not in known]


def _out_of_memory() -> int:
    """How many processes of this container were killed for their memory."""
    for path in ("memory.events", "memory/memory.oom_control"):
        try:
            with open("/sys/fs/cgroup/" + path) as file:
                words = file.read().split()
            return int(words[words.index("oom_kill") + 1])
        except (OSError, ValueError):
            continue
    return 0


class Past:
    """What a guest does about its past. `channel` is its channel: the keeper and the runner part there."""

    def __init__(self, channel: Any, control: int) -> None:
        self.channel = channel
        self._control = control
        self._hand: socket.socket | None = None
        self._files = kept_files.KeptFiles(tuple(root for root in _ROOTS if os.path.isdir(root)), 2**40)
        self._keeper = self._checkpoint = 0
        self._counts = ["/sys/fs/cgroup/pids.current", "/sys/fs/cgroup/pids/pids.current"]
        """Where the kernel may say how many threads there are in the container: one number, in place of a list of processes."""
        self.word: Any = None
        """The number of the step that is to be interrupted, in memory that the keeper and all runners share."""

    @property
    def divided(self) -> bool:
        """Whether another process reads the host's orders."""
        return self._hand is not None

    def keep(self, number: int, room: int) -> None:
        """Keep the state as it is, under `number`; it may take `room` bytes. Returns in the runner."""
        try:
            self._alone()
            if self.divided and self.channel.parked():
                self._keep(number, room)
                self.channel.resume()  # if this is a copy that has come back
                return
            if not self.channel.pause():
                raise _Missed(orders.THREADS)
            try:
                self._keep(number, room)
            finally:
                self.channel.resume()
        except _Missed as reason:
            self._say(_MISSED, number, reason.args[0])
        except (OSError, MemoryError):
            self._say(_MISSED, number, orders.FAILED)

    def _say(self, kind: bytes, number: int, value: int) -> None:
        if self._hand is not None:
            self._hand.send(_HAND.pack(kind, number, value))

    def _keep(self, number: int, room: int) -> None:
        self._one_thread()
        with open("/proc/self/statm") as file:
            pages = file.read().split()
        left = room - (int(pages[1]) - int(pages[2])) * _PAGE
        if left < 0:
            raise _Missed(orders.MEMORY)
        try:
            self._files.save("mmap" in sys.modules or "sqlite3" in sys.modules, left)
        except (OSError, MemoryError):
            raise _Missed(orders.FILES) from None
        if self._hand is None:
            self._divide(number)
        else:
            self._be_copied(number)

    # -- whether a copy would be the whole session -------------------------------------------------------------------------

    def _alone(self) -> None:
        """That no process of the session lives, and no thread of it: raises _Missed."""
        known = {1, os.getpid(), self._keeper, self._checkpoint} - {0}
        for path in list(self._counts):
            try:
                with open(path) as file:
                    if int(file.read()) == len(known) + self.channel.threads():
                        return
                break
            except (OSError, ValueError):
                self._counts.remove(path)
        deadline = time.monotonic() + _BURIAL
        while _others(known):
            if time.monotonic() > deadline:
                raise _Missed(orders.PROCESSES)
            time.sleep(0.001)

    def _one_thread(self) -> None:
        deadline = time.monotonic() + _BURIAL
        # Ours have said that they end, which is not yet their end.
        while len(os.listdir("/proc/self/task")) > 1 + self.channel.threads():
            if time.monotonic() > deadline:
                raise _Missed(orders.THREADS)
            time.sleep(0.0001)

    # -- copies ------------------------------------------------------------------------------------------------------------

    def _be_copied(self, number: int) -> None:
        try:
            files = open_files.OpenFiles(int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2)
        except (OSError, MemoryError, open_files.NotKept):
            raise _Missed(orders.FILES) from None
        # No handler of the session's may run in a copy that sleeps.
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            while True:
                pid = _copy(_PARENT)
                if pid:
                    self._checkpoint = pid
                    self._say(_KEPT, number, pid)
                    return
                self.channel.copied()
                self._sleep(files)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _sleep(self, files: open_files.OpenFiles) -> None:
        """The checkpoint's whole life, until it becomes the runner."""
        try:
            assert self._hand is not None
            _endure(True)
            # The runner's connection: with the last of it the host knows that the runner is gone.
            os.close(self.channel.descriptor)
            said, fds, _, _ = socket.recv_fds(self._hand, _HAND.size, 1)
            if not said:
                os._exit(0)
            _endure(False)
            while signal.sigtimedwait(signal.valid_signals(), 0) is not None:
                pass  # they were the runner's
            replaced = self.come_back(fds[0])
            files.restore(replaced)
            open_files.renew_loop(self.channel.guest._loop)
        except BaseException:
            os._exit(1)  # nothing that could be relied on

    def come_back(self, frames: int) -> dict[int, str]:
        """Put the files back, and go on with a new connection to the host. Which files are others now: paths by inode. Raises OSError."""
        replaced = self._files.restore()
        self.channel.renew(frames)
        return replaced

    def _divide(self, number: int) -> None:
        """Become the keeper. Returns in every runner that is a copy of it."""
        # A word of memory that all copies share. PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS
        size, start = ctypes.c_size_t(_PAGE), ctypes.c_long(0)
        address = _libc().mmap(None, size, 3, 0x21, -1, start)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise OSError(12, "no memory to share")
        self.word = ctypes.c_uint64.from_address(address)
        self.word.value = self.channel.wanted  # for a step that may wait behind this request
        ours, self._hand = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._keeper = os.getpid()
        Keeper(self, ours, self._control, self.word, number).serve()


def _endure(kept: bool) -> None:
    """When the memory is used up, what runs the session's code is killed first, and what it goes back to last."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("0" if kept else "1000")
    except OSError:
        return  # a kernel that kills whoever it likes: then there may be no way back


class Keeper:
    """The watching process."""

    def __init__(self, past: Past, hand: socket.socket, control: int, word: Any, number: int) -> None:
        self._past = past
        self._hand = hand
        self._control = socket.socket(fileno=control)
        self._word = word
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
        _endure(False)

    def _watch(self, woken: int) -> None:
        poll = select.poll()
        for fd in (self._control.fileno(), self._hand.fileno(), woken):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
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
        self._killed = _out_of_memory()
        self._runner = _copy(0)
        return self._runner != 0

    # -- orders ------------------------------------------------------------------------------------------------------------

    def _order(self) -> bool:
        """Do what the host says; True in a new runner."""
        said, fds, _, _ = socket.recv_fds(self._control, orders.ORDER, 1)
        if len(said) != orders.ORDER:
            os._exit(0)  # the host is gone
        number, kind = int.from_bytes(said[:7], "little"), said[7]
        if kind == orders.INTERRUPT:
            self._word.value = number
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
        while self._runner and max(self._kept, self._missed) < number:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return
            self._hear()

    def _go_back(self, number: int, frames: int) -> bool:
        if self._kept != number:
            self._lost(self._why if self._missed == number else orders.NONE)
            os.close(frames)
            return False
        if self._checkpoint:
            pid, self._checkpoint, self._kept = self._checkpoint, 0, -1  # until it says that it is kept again
            self._killed = _out_of_memory()
            socket.send_fds(self._hand, [_HAND.pack(_WAKE, number, 0)], [frames])
            os.close(frames)
            self._runner = pid
            os.kill(pid, signal.SIGCONT)
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
        spared = {1, os.getpid(), self._checkpoint}
        try:
            # First all at once: a program that forks faster than it can be killed is stopped by the kernel in no place between two of them.
            os.kill(-1, signal.SIGSTOP)
        except ProcessLookupError:
            return
        while True:
            others = _others(spared)
            for pid in others:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._bury()
            if not others:
                return
            time.sleep(0.0002)

    # -- news --------------------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        """What the runner says of its checkpoint. It may lie to its own harm."""
        said = self._hand.recv(64)
        if len(said) != _HAND.size:
            return
        kind, number, value = _HAND.unpack(said)
        old = self._checkpoint
        if kind == _KEPT:
            self._kept, self._checkpoint = number, value
        elif kind == _MISSED:
            self._missed, self._why, self._kept, self._checkpoint = number, value, -1, 0
        if old and old != self._checkpoint:
            try:
                os.kill(old, signal.SIGKILL)
                os.waitpid(old, 0)
            except (ProcessLookupError, ChildProcessError):
                return

    def _bury(self) -> bool:
        """Take note of who has ended; whether the runner has."""
        found = False
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
        killed = _out_of_memory() > self._killed
        self._tell(orders.OUT_OF_MEMORY if killed else orders.ENDED, code if code >= 0 else 128 - code)

    def _lost(self, why: int) -> None:
        self._tell(orders.LOST, why)

    def _tell(self, what: int, number: int) -> None:
        try:
            self._control.send(orders.SAID.pack(self._backs, what, number), socket.MSG_DONTWAIT)
        except OSError:
            return  # the host is gone, or does not listen: it finds out by itself


def _heard(*_: object) -> None:
    """The descriptor that wakes says it."""
