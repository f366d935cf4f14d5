"""The host's handles of the worker processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import threading
from collections import OrderedDict, deque
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple

from safeexec import threads, watchdog
from safeexec.policy import Policy
from safeexec_backends.local import control
from safeexec_backends.local.process import ZygoteDied, ZygoteProcess, no_room

from .agreed import AHEAD, ANSWER, ASK, RESTLESS, WRITTEN
from .launch import MODULE, WORKER_ORDER, setup

if TYPE_CHECKING:
    from .worker_guest import WorkerGuest

_numbers = itertools.count(1)
_CONTROL_TIMEOUT = 2.0
_WRITING = 10.0
"""Seconds for writing a session down, while the worker does other things as well."""
_REST = 5.0
"""Seconds after its answer by which a guest has long come to rest, however busy its worker is."""
_LEFT = 0.25
"""The same once its session is closed: nobody can want it to go on."""
_NEWS = 0.5
"""Seconds until the kernel says that a process has ended."""
_FEW = 2
"""So many left, the next are made."""


class WasmZygoteProcess(ZygoteProcess):
    """The zygote of the workers."""

    module = MODULE
    sandbox = "wasm"


def launch(image: Path) -> WasmZygoteProcess:
    """Start a zygote on a cached image. Raises BackendUnavailable."""
    deny: dict[str, str] = {}
    while True:
        zygote = WasmZygoteProcess(setup(image, deny))
        if not zygote.retry:
            return zygote
        deny = {**deny, **zygote.retry}
        zygote.close()


class WorkerProcess:
    """One worker."""

    def __init__(self, zygote: ZygoteProcess, engine: str, image: int) -> None:
        """`engine` names the snapshots it reads and writes, `image` is how many bytes of memory a fresh instance has. Raises ZygoteDied, BackendUnavailable."""
        self.engine = engine
        self.image = image
        self.pid, (channel, self._status, *pidfd) = zygote.spawn(WORKER_ORDER)
        self._zygote = zygote
        self._pidfd = pidfd[0] if pidfd else -1
        self._channel = socket.socket(fileno=channel)
        # A worker that does not take orders is broken, and must not hang whoever gives one.
        self._channel.settimeout(_CONTROL_TIMEOUT)
        # Locks that may be taken once more by the thread that has them: what is collected amid anything may be a session that nobody closed.
        self._lock = threading.RLock()
        self._closed = False
        self._ahead: list[Line] = []
        self.sessions: set[WorkerGuest] = set()
        self.served = 0
        """Requests and sessions that were sent to it, roughly: whether it is in use."""
        self._writing: socket.socket | None = None
        self._chances = 3
        self._asking = threading.Lock()
        self._resting: OrderedDict[WorkerGuest, float] = OrderedDict()
        """Sessions that were answered since the last look, and when."""
        self._left: deque[tuple[float, int]] = deque()
        """The numbers of sessions that ended soon after an answer, and when."""
        self._resting_lock = threading.RLock()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        with self._lock:
            return not self._closed and not self._ended(0.0)

    def _ended(self, timeout: float) -> bool:
        watched = self._pidfd if self._pidfd >= 0 else self._status
        # Not select(), which takes no descriptor from 1024 on: a host with a thousand connections would get no session any more.
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def rests(self, guest: WorkerGuest) -> None:
        """A session's request was answered. If it still runs in some seconds it is ended: it forged the answer, to go on where no clock runs."""
        with self._resting_lock:
            self._resting[guest] = monotonic()
            self._watch()

    def _watch(self) -> None:
        if len(self._resting) + len(self._left) == 1 and not self._closed:
            watchdog.watch(id(self), self._look)

    def works(self, guest: WorkerGuest) -> None:
        """It has a request again."""
        with self._resting_lock:
            self._resting.pop(guest, None)

    def ends(self, guest: WorkerGuest) -> None:
        """It is closed. If it forged its last answer it still runs, and hears of nothing: it is looked for all the same."""
        with self._resting_lock:
            if self._resting.pop(guest, None) is not None:
                self._left.append((monotonic(), guest.number))
                self._watch()

    def _look(self, now: float) -> None:
        numbers = []
        with self._resting_lock:
            while self._resting:
                guest, since = self._resting.popitem(last=False)
                if now - since < _REST:
                    self._resting[guest] = since
                    self._resting.move_to_end(guest, last=False)
                    break
                if guest.at_rest:
                    numbers.append(guest.number)
            while self._left and now - self._left[0][0] >= _LEFT:
                numbers.append(self._left.popleft()[1])
            if not self._resting and not self._left:
                watchdog.unwatch(id(self))
        if numbers:  # in a thread: a worker that does not take orders must not stop all clocks
            threads.start_or_do(partial(self._end_restless, numbers, now))

    def _end_restless(self, numbers: list[int], now: float) -> None:
        with contextlib.suppress(OSError):  # it is gone
            self.order({"op": "rest", "ids": numbers, "at": now})

    def fresh(self) -> Line:
        """A fresh session in this worker. Raises OSError if it is gone."""
        try:
            return self._ahead.pop()
        except IndexError:
            return self._lines({"mode": "fresh"})[0]

    def prepare(self) -> None:
        """Get the channels of later sessions ready, while nobody waits for one. Raises nothing: whoever needs one finds out."""
        if len(self._ahead) <= _FEW:
            with contextlib.suppress(OSError):
                self._ahead += self._lines({"mode": "fresh"}, AHEAD)

    def line(self, policy: Policy, mode: str, of: int = 0, size: int = 0) -> Line:
        """A session that is made of session `of` ("back", "branch"), or of `size` bytes that come over the socket ("written"), and our end of
        its socket. Raises OSError if the worker is gone."""
        limits = policy.limits
        return self._lines({"mode": mode, "of": of, "size": size, "memory": limits.memory, "disk": limits.disk})[0]

    def _lines(self, order: control.Message, count: int = 1) -> list[Line]:
        """So many sessions of one kind."""
        self.served += 1
        lines: list[Line] = []
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            ends = []
            for _ in range(count):
                end, other = socket.socketpair()
                lines.append(Line(next(_numbers), ours.enter_context(end)))
                ends.append(theirs.enter_context(other).fileno())
            self.order({"op": "start", "ids": [line.number for line in lines], **order}, ends)
            ours.pop_all()
        return lines

    def order(self, message: control.Message, fds: tuple[int, ...] | list[int] = ()) -> None:
        """Send an order. Raises OSError if the worker is gone or does not listen."""
        with self._lock:
            if self._closed:
                raise OSError("the worker is closed")
            try:
                control.send(self._channel, message, fds)
            except TimeoutError:
                self._kill()
                raise

    def written(self, number: int, most: int) -> tuple[int, bytes]:
        """What became of writing down a session (see `agreed`), and its state, of up to `most` bytes: the worker's word. Raises MemoryError.

        A worker that does not answer as it should is not asked for ever.
        """
        with self._asking:
            try:
                if self._writing is None:
                    if not self._chances:
                        return RESTLESS, b""
                    self._writing, theirs = socket.socketpair()
                    with theirs:
                        self.order({"op": "write"}, [theirs.fileno()])
                return self._asked(self._writing, number, most)
            except BaseException as error:
                # Whatever it was: half an answer may be on its way, and the next one would be taken from the middle of it.
                self._chances -= 1
                self._stop_asking()
                if isinstance(error, OSError | EOFError):
                    return RESTLESS, b""
                raise

    def _stop_asking(self) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    def _asked(self, channel: socket.socket, number: int, most: int) -> tuple[int, bytes]:
        deadline = monotonic() + _WRITING
        channel.settimeout(_WRITING)
        channel.sendall(ASK.pack(number, most))
        outcome, size = ANSWER.unpack(_received(channel, ANSWER.size, deadline))
        if size > (most if outcome == WRITTEN else 0):  # it was taken over: nothing it says would end this
            raise EOFError
        return outcome, _received(channel, size, deadline)

    def why(self) -> str:
        """Why its sessions ended, as far as the host can tell."""
        # Not waiting under the lock, which orders about all its sessions need: one that ends with many calls of tools on their way asks as often.
        deadline = monotonic() + _NEWS
        while self.alive:
            if monotonic() > deadline:
                return "the session was killed"
            sleep(_NEWS / 25)
        return "the worker process of the session died"

    def _kill(self) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            self._zygote.signal(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            watchdog.unwatch(id(self))
            self._kill()
            self._channel.close()
            writing = self._writing
            if writing is not None:
                with contextlib.suppress(OSError):
                    writing.shutdown(socket.SHUT_RDWR)
            self._ended(5.0)
            if self._pidfd >= 0:
                os.close(self._pidfd)
            os.close(self._status)
        while self._ahead:
            self._ahead.pop().socket.close()
        with self._asking:  # whoever asks has heard of the end by now
            self._chances = 0
            self._stop_asking()
        self._zygote.done()


def _received(channel: socket.socket, size: int, deadline: float) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        channel.settimeout(left)
        count = channel.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(data)


class Line(NamedTuple):
    """A session's number in its worker, and the socket to it."""

    number: int
    socket: socket.socket


__all__ = ["WorkerProcess", "ZygoteDied", "launch", "no_room"]
