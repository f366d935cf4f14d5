"""What the guest program in a container does about its past: it is copied while it rests. Who watches over the copies: ``keeper``.

Shipped as text next to inside.py; CPython 3.9 and later.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import ctypes
import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeexec_backends._hardening import kept_files, open_files
    from safeexec_backends.docker import copies, keeper, orders, warmth
else:
    try:
        import safeexec_copies as copies
        import safeexec_keeper as keeper
        import safeexec_kept_files as kept_files
        import safeexec_open_files as open_files
        import safeexec_orders as orders
        import safeexec_warmth as warmth
    except ImportError:
        from safeexec_backends._hardening import kept_files, open_files
        from safeexec_backends.docker import copies, keeper, orders, warmth

_BURIAL = 0.02
"""Seconds that a thread or a process which has ended may still be seen."""
_REST = 3
"""Milliseconds without a request after which the host is taken to think."""
_BEHIND = 2
"""Checkpoints that the keeper may have yet to end before it is waited for: each holds pages of its own."""
_ROOTS = ("/sandbox", "/tmp", "/dev/shm")
_GROWN = 2**20
"""Bytes by which the session has to have grown before it is asked whether some of that is free again."""
_ALL = tuple(int(number) for number in signal.valid_signals())
"""For ``_signal``, whose sets are of plain numbers: making enumerations takes as long as looking at the files."""


_ROOM = socket.CMSG_SPACE(4)


class _Missed(Exception):
    """There is no checkpoint this time; the argument says why."""


class Past:
    """What a guest does about its past. `channel` is its channel: the keeper and the runner part there."""

    def __init__(self, channel: Any, control: int) -> None:
        self.channel = channel
        self._control = control
        self._hand: socket.socket | None = None
        self._files = kept_files.KeptFiles(tuple(root for root in _ROOTS if os.path.isdir(root)), 2**40)
        self._keeper = self._checkpoint = 0
        self._former: list[int] = []
        """Checkpoints that the keeper has yet to end."""
        self._lasting: set[int] = set()
        """Processes of the session that were there after a step."""
        self._counts = ["/sys/fs/cgroup/pids.current", "/sys/fs/cgroup/pids/pids.current"]
        """Where the kernel may say how many threads there are in the container: one number, in place of a list of processes."""
        self._resident = 0
        self._warmth: warmth.Warmth | None = warmth.Warmth()
        """None where the kernel does not tell, or do, what it takes."""
        self._times = 0
        self.word: Any = None
        """The number of the step that is to be interrupted, in memory that the keeper and all runners share."""
        self.kept: Any = None
        """The last checkpoint, there too: its number, and in the lower bits its process."""

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
                self._one_thread()
                self._keep(number, room)
            finally:
                self.channel.resume()
        except _Missed as reason:
            self._say(keeper.MISSED, number, reason.args[0])
        except (OSError, MemoryError):
            self._say(keeper.MISSED, number, orders.FAILED)

    def rest(self) -> None:
        """Use the time until the next request, if there is any."""
        if self._warmth is None or self._times < 2 or self.channel.waiting(_REST):
            return
        try:
            if not self._warmth.touch():
                self._warmth = None
        except (OSError, MemoryError):
            self._warmth = None

    def _say(self, kind: bytes, number: int, value: int) -> None:
        if self._hand is not None:
            self._hand.send(keeper.HAND.pack(kind, number, value))

    def _keep(self, number: int, room: int) -> None:
        held = _held()
        if held > self._resident + _GROWN:
            copies.trim()
            held = _held()
        self._resident = held
        left = room - held
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
        known = {1, os.getpid(), self._keeper} - {0}
        for path in list(self._counts):
            try:
                there = int(copies.read(path))
            except (OSError, ValueError):
                self._counts.remove(path)
                continue
            # Looked at after they were counted: whoever is still there was counted.
            self._former = [pid for pid in self._former if _lives(pid)]
            ours = len(known) + len(self._former) + self.channel.threads()
            if there == ours + (self._checkpoint > 0 and _lives(self._checkpoint)) and len(self._former) <= _BEHIND:
                return
            break
        known.add(self._checkpoint)
        deadline = time.monotonic() + _BURIAL
        while True:
            others = set(copies.others(known))
            self._former = [pid for pid in self._former if pid in others]
            strangers = others.difference(self._former)
            if not strangers and len(self._former) <= _BEHIND:
                break
            if strangers and strangers <= self._lasting:
                raise _Missed(orders.PROCESSES)  # as it was after the last step: not again is their end waited for
            if time.monotonic() > deadline:
                self._lasting = strangers
                if strangers:
                    raise _Missed(orders.PROCESSES)
                break
            time.sleep(0.001)
        self._one_thread()

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
        assert self._hand is not None
        self._times += 1
        if self._warmth is not None and self._times > 1 and not self._times & self._times - 1:
            try:
                self._warmth.learn()
            except (OSError, MemoryError):
                self._warmth = None
        # Looked up ahead: each function that a copy runs before it sleeps, and each object that it looks at, are pages copied for nothing.
        connection, hand, pack, getpid, close = (
            self.channel.descriptor,
            self._hand,
            keeper.HAND.pack,
            os.getpid,
            os.close,
        )
        kept, size = keeper.KEPT, keeper.HAND.size
        # No handler of the session's may run in a copy that sleeps.
        mask = _signal.pthread_sigmask(signal.SIG_SETMASK, _ALL)
        try:
            while True:
                pid = copies.copy(copies.PARENT)
                if pid:
                    # Nobody is woken for it: who is would take the processor from the next step.
                    self.kept.value = number << keeper.PID_BITS | pid
                    if self._checkpoint:
                        self._former.append(self._checkpoint)
                    self._checkpoint = pid
                    return
                # The checkpoint's whole life, until it becomes the runner.
                try:
                    # The runner's connection: with the last of it the host knows that the runner is gone.
                    close(connection)
                    hand.send(pack(kept, number, getpid()))
                    said = hand.recvmsg(size, _ROOM)
                except BlockingIOError:  # the session has set the socket, which is the runner's too, not to wait
                    said = None
                except BaseException:
                    os._exit(1)
                self._wake(said, files)
                connection = self.channel.descriptor
        finally:
            _signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _wake(self, said: Any, files: open_files.OpenFiles) -> None:
        """Be the runner, in a checkpoint that was told to; `said` is what it was told, if it could wait for it so far."""
        try:
            assert self._hand is not None
            if said is None:
                poll = select.poll()
                poll.register(self._hand, select.POLLIN)
                poll.poll()
                said = self._hand.recvmsg(keeper.HAND.size, _ROOM)
            if not said[0]:
                os._exit(0)
            frames = int.from_bytes(said[1][0][2][:4], sys.byteorder)
            self.channel.copied()
            os.set_blocking(self._hand.fileno(), True)
            copies.endure(False)
            while signal.sigtimedwait(signal.valid_signals(), 0) is not None:
                pass  # they were the runner's
            replaced = self.come_back(frames)
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
        size, start = ctypes.c_size_t(warmth.PAGE), ctypes.c_long(0)
        address = copies.libc().mmap(None, size, 3, 0x21, -1, start)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise OSError(12, "no memory to share")
        self.word, self.kept = (ctypes.c_uint64.from_address(address + place) for place in (0, 8))
        self.word.value = self.channel.wanted  # for a step that may wait behind this request
        ours, self._hand = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._keeper = os.getpid()
        keeper.Keeper(self, ours, self._control, number).serve()


def _held() -> int:
    """Bytes of memory that are this process's own."""
    pages = copies.read("/proc/self/statm").split()
    return (int(pages[1]) - int(pages[2])) * warmth.PAGE


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
