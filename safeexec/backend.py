"""What a sandbox implements to stand behind an Executor.

A backend says where the guest program lives and how frames travel. The core does the rest: the protocol, the clock, tools, caps. Whoever writes one
owes its users the duties named below; ``safeexec.testing`` checks them.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, runtime_checkable

from safeexec import wire
from safeexec.frame_memory import frame_memory
from safeexec.loan import Loan, Serve, Work
from safeexec.policy import Policy
from safeexec.wire import Frame

if TYPE_CHECKING:
    import socket

OnFrame = Callable[[Frame], bool]


class Wall(NamedTuple):
    """One line of ``Executor.isolation``: whether a wall stands, and if not, why and what holds instead."""

    active: bool
    reason: str = ""


class Orphan(NamedTuple):
    """Something that a host left behind: what it is, for people, and how it is removed; `remove` is None where its owner lives or cannot be judged."""

    what: str
    remove: Callable[[], None] | None


class GuestDied(Exception):
    """The guest is gone. `kind` is one of "memory", "crash", "time", "output", "protocol"."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Guest(ABC):
    """One live sandbox with the guest program in it.

    Duties: nothing that runs in it reaches host files, host memory, the network or another session; when it is killed, closed or the host
    dies, no process, container, file or thread of it stays.
    """

    def prepare(self) -> None:  # noqa: B027
        """Wait for what the next :meth:`exchange` must wait for because of others, if anything: no clock runs yet. Raises nothing of its own."""

    cannot_fork: str = ""
    """Why this guest cannot be doubled, where others of its sandbox can."""

    @abstractmethod
    def exchange(self, frame: Frame, on_frame: OnFrame) -> None:
        """Send `frame`, then hand every frame that comes to `on_frame`, in this thread, until it returns True.

        Waits without a limit: the core's watchdog calls :meth:`interrupt` and :meth:`kill` when one passes. Raises GuestDied when the guest
        is gone, ``wire.WireError`` when it sends what is no frame; exceptions of `on_frame` pass through.
        """

    @abstractmethod
    def send(self, frame: Frame) -> None:
        """Send a frame while an exchange runs: the answer to a tool call. From any thread. Raises GuestDied."""

    def lend(self, work: Work, serve: Serve) -> Loan | None:
        """Run `work`, a tool, in another thread which then reads, and hands to `serve`, the calls that follow; called by `on_frame`.

        None where an exchange cannot be read but by its own thread: nothing was done then.
        """
        return None

    @abstractmethod
    def interrupt(self) -> None:
        """Ask the step to stop: KeyboardInterrupt in the guest's code. From any thread; never raises for a guest that is gone."""

    @abstractmethod
    def kill(self) -> None:
        """End the guest at once, whatever it does; a running exchange raises GuestDied. From any thread, more than once."""

    def abandon(self) -> None:
        """As :meth:`kill`, and for good: nobody will ask for :meth:`SupportsCheckpoint.rollback`. Only :meth:`close` follows, which may have to wait for
        the thread of a running exchange."""
        self.kill()

    @abstractmethod
    def close(self) -> None:
        """Free everything. Idempotent."""


class Backend(ABC):
    """One kind of sandbox, set up for one Executor."""

    name: ClassVar[str]

    @abstractmethod
    def start(self, policy: Policy) -> Guest:
        """A fresh guest that waits for its first request. From any thread.

        Raises BackendUnavailable with what to do, PolicyError for a field of `policy` it cannot honour: none is ever ignored.
        """

    def start_once(self, policy: Policy) -> Guest:
        """As :meth:`start`, for a guest that runs one step, of which nothing will be undone: where preparing for that costs something, it need not be."""
        return self.start(policy)

    @property
    @abstractmethod
    def isolation(self) -> Mapping[str, Wall]:
        """Which walls really stand: found out, not assumed."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What whoever looks for trouble wants to know beside the walls: versions, addresses, names. Shown by ``safeexec doctor``."""
        return {}

    @classmethod
    def orphans(cls) -> Sequence[Orphan] | None:
        """What hosts that are gone left behind on this machine, and what looks like it and is not theirs to remove; None: there is no place to look.

        For ``safeexec doctor --clean``; nothing is started. Raises BackendUnavailable when it cannot be found out.
        """
        return None

    survives_fork: bool = False
    """Whether all of it is in this process, so that a forked child has one of its own."""

    def disown(self) -> None:  # noqa: B027
        """In a forked child, to which nothing of this belongs: let go of what would end something of the parent's when the child ends.

        Where it survives a fork: of the guests that ran in other threads, which are not in the child.
        """

    @abstractmethod
    def close(self) -> None:
        """Free everything, guests included. Idempotent."""


# What not every sandbox can do. A guest that can has the methods; nothing else declares it. All are called between requests only, by one
# thread at a time, with `kill` from any other thread as ever.


@runtime_checkable
class SupportsCheckpoint(Protocol):
    """A guest that can be brought back to where it was."""

    def checkpoint(self) -> None:
        """Keep the state as it is between this request and the next, in place of what was kept before.

        Returns at once and raises nothing: the host may be about to think for seconds, so the work belongs behind its back, and the next
        exchange waits for it. What fails is reported by :meth:`rollback`.
        """

    def rollback(self) -> None:
        """Be again as at the last checkpoint, whatever happened since: after a failed exchange, the guest's death, a kill.

        The checkpoint stays. Raises GuestDied when it cannot; the guest is dead then.
        """


@runtime_checkable
class SupportsFork(Protocol):
    """A guest that can be doubled."""

    def fork(self) -> Guest:
        """Another guest with the same live state, independent from here on in everything: memory, files, limits, end.

        Raises GuestDied when this one is gone, BackendUnavailable when there is no room for another.
        """


@runtime_checkable
class SupportsSnapshot(Protocol):
    """A guest whose state can be written down."""

    def snapshot(self) -> tuple[str, bytes]:
        """The identity of the engine that can read it, and the state. Raises GuestDied."""


@runtime_checkable
class SupportsRestore(Protocol):
    """A backend that makes guests of what :meth:`SupportsSnapshot.snapshot` wrote."""

    def restore(self, engine: str, state: bytes, policy: Policy) -> Guest:
        """A guest with this state under this policy, waiting for a request.

        Both are guest data from anywhere, and may be made to attack: every field that becomes state of the host is checked like a frame.
        Raises SnapshotError for another engine's, for what is no state, and for one that does not fit the policy; else as
        :meth:`Backend.start`.
        """


_TOGETHER = 1 << 16
_END = 5.0
"""Seconds that a thread may take to notice that its stream has ended."""


class StreamGuest(Guest):
    """A guest at the other end of a socket, or of a pair of file descriptors.

    Owns them and closes them. Subclasses supply `interrupt`, `kill` and `death`.
    """

    def __init__(self, stream: socket.socket | tuple[int, int], max_frame: int) -> None:
        self._send_lock = threading.Lock()
        self._loan: Loan | None = None
        """Who reads next, if it is not the thread that made the request."""
        self._reads = 0
        """The thread that made the last request, and reads what comes of it."""
        self._socket: socket.socket | None = None
        self._fds = (-1, -1)
        if not isinstance(stream, tuple):
            stream.setblocking(True)
            self._socket = stream
            self._reader = wire.FrameReader(stream.recv_into, max_frame, room=frame_memory.room)
        else:
            self._fds = stream
            self._reader = wire.FrameReader(self._readinto, max_frame, room=frame_memory.room)

    def _readinto(self, view: memoryview) -> int:
        return os.readv(self._fds[0], [view])

    def exchange(self, frame: Frame, on_frame: OnFrame) -> None:
        self._reads = threading.get_ident()
        try:
            self._write(wire.pack(*frame))
            while not on_frame(self._next()):
                pass
        except (EOFError, OSError) as error:
            raise self.death() from error
        finally:
            if self._loan is not None:  # Ctrl-C: the other thread must not read on in what may soon be another's stream
                loan, self._loan = self._loan, None
                self.kill()
                loan.end(_END)

    def _next(self) -> Frame:
        if self._loan is not None:
            frame = self._loan.result()
            self._loan = None
            if isinstance(frame, GuestDied):  # an answer could not be sent; why, is asked in this thread
                raise EOFError from frame
            if isinstance(frame, BaseException):
                raise frame
            if frame is not None:
                return frame
        return self._reader.next()

    def lend(self, work: Work, serve: Serve) -> Loan | None:
        if self._reads != threading.get_ident():  # the exchange is a subclass's own, and knows nothing of this
            return None
        self._loan = Loan(self._reader.next, serve)
        self._loan.start(work)
        return self._loan

    def send(self, frame: Frame) -> None:
        try:
            self._write(wire.pack(*frame))
        except OSError as error:
            if self._reads == threading.get_ident():
                raise self.death() from error
            # An answer that comes late: the step may have been undone meanwhile, and what lives by now must not be asked why it died.
            raise GuestDied("crash", "the guest is gone") from error

    def _write(self, buffers: Sequence[wire.Blob]) -> None:
        with self._send_lock:
            if self._socket is not None:
                if len(buffers) == 1:
                    self._socket.sendall(buffers[0])
                    return
                if sum(map(len, buffers)) <= _TOGETHER:  # so that what waits for the frame is woken once
                    self._socket.sendall(b"".join(buffers))
                    return
                for buffer in buffers:
                    self._socket.sendall(buffer)
                return
            for buffer in buffers:
                view = memoryview(buffer)
                while len(view):
                    view = view[os.write(self._fds[1], view) :]

    def _write_soon(self, buffers: Sequence[wire.Blob], seconds: float) -> None:
        """Send what no step's clock bounds, while nobody reads. Raises TimeoutError where the guest leaves unread what it was sent before, OSError."""
        if not self._send_lock.acquire(timeout=seconds):  # an answer of a tool is on its way, and does not get there
            raise TimeoutError("the guest does not read")
        try:
            if self._socket is None:
                raise OSError("the guest has no socket")
            self._socket.settimeout(seconds)
            try:
                self._socket.sendall(b"".join(buffers))
            finally:
                self._socket.settimeout(None)
        finally:
            self._send_lock.release()

    def hang_up(self) -> None:
        """Shut the stream, so that a blocked exchange ends; the descriptors stay until :meth:`close`."""
        if self._socket is not None:
            try:
                self._socket.shutdown(2)  # SHUT_RDWR
            except OSError:
                pass

    def alive(self) -> bool:
        """Whether the stream is still open, without reading from it."""
        if self._socket is None:
            return self._fds[0] >= 0
        import select

        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN | select.POLLHUP)
            return not any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
        except (OSError, ValueError):
            return False

    @abstractmethod
    def death(self) -> GuestDied:
        """Why the stream ended, found out after the fact. May wait briefly for the exit status."""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            for fd in set(self._fds):
                if fd >= 0:
                    os.close(fd)
            self._fds = (-1, -1)
