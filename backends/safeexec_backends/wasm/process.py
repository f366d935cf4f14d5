"""The host's handles of the worker processes and of the sessions in them."""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from safeexec import wire
from safeexec.backend import GuestDied, OnFrame, StreamGuest
from safeexec.errors import BackendUnavailable
from safeexec.policy import Policy
from safeexec.wire import Frame
from safeexec_backends.local import control, library
from safeexec_backends.local.process import ZygoteDied, ZygoteProcess

from .first import First

_numbers = itertools.count(1)
_KINDS = ("memory", "crash", "time", "output", "protocol")
_CONTROL_TIMEOUT = 2.0
_DISK = 1 << 20  # of the worker itself, which keeps its sessions' files in memory
_THREADS = 4200
_DESCRIPTORS = 16_384
_AHEAD = 8
"""Channels of sessions to come that are kept ready in each worker."""

WORKER_ORDER: control.Message = {
    "op": "cell", "memory": 0, "disk": _DISK, "processes": _THREADS, "open_files": _DESCRIPTORS, "imports": [], "preload": [],
}  # fmt: skip


class WasmZygoteProcess(ZygoteProcess):
    """The zygote of the workers."""

    module = "safeexec_backends.wasm.zygote"


def launch(image: Path) -> WasmZygoteProcess:
    """Start a zygote on a cached image. Raises BackendUnavailable."""
    deny: dict[str, str] = {}
    while True:
        zygote = WasmZygoteProcess(
            {
                "readable": library.readable(),
                "deny": deny,
                "extra": [],
                "portable": False,
                "language": "full",
                "idle": [],
                "skip": [],
                "first": WORKER_ORDER,
                "image": str(image),
            }
        )
        if not zygote.retry:
            return zygote
        deny = {**deny, **zygote.retry}
        zygote.close()


class WorkerProcess:
    """One worker."""

    def __init__(self, zygote: ZygoteProcess) -> None:
        """Raises ZygoteDied, BackendUnavailable."""
        self.pid, (channel, self._status, *pidfd) = zygote.spawn(WORKER_ORDER)
        self._zygote = zygote
        self._pidfd = pidfd[0] if pidfd else -1
        self._channel = socket.socket(fileno=channel)
        # A worker that does not take orders is broken, and must not hang whoever gives one.
        self._channel.settimeout(_CONTROL_TIMEOUT)
        self._lock = threading.Lock()
        self._closed = False
        self._ahead: list[tuple[socket.socket, int]] = []
        self.sessions: set[WorkerGuest] = set()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        with self._lock:
            return not self._closed and not self._ended(0.0)

    def _ended(self, timeout: float) -> bool:
        watched = self._pidfd if self._pidfd >= 0 else self._status
        return bool(select.select([watched], [], [], timeout)[0])

    def start(self, policy: Policy, forget: Callable[[WorkerGuest], None]) -> WorkerGuest:
        """A new session in this worker. Raises OSError if it is gone."""
        try:
            stream, number = self._ahead.pop()
        except IndexError:
            stream, number = self._channel_of_session()
        return WorkerGuest(stream, number, policy, self, forget)

    def prepare(self) -> None:
        """Get the channel of a later session ready, while nobody waits for it. Raises nothing: whoever needs one finds out."""
        if len(self._ahead) < _AHEAD:
            try:
                self._ahead.append(self._channel_of_session())
            except OSError:
                return

    def _channel_of_session(self) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        number = next(_numbers)
        try:
            with theirs:
                self.order({"op": "start", "id": number}, [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        return ours, number

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

    def why(self) -> str:
        """Why its sessions ended, as far as the host can tell."""
        with self._lock:
            if self._closed or self._ended(0.5):
                return "the worker process of the session died"
        return "the session was killed"

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
            self._kill()
            self._channel.close()
            self._ended(5.0)
            if self._pidfd >= 0:
                os.close(self._pidfd)
            os.close(self._status)
        while self._ahead:
            self._ahead.pop()[0].close()
        self._zygote.done()


class WorkerGuest(StreamGuest):
    """One session in a worker."""

    def __init__(
        self,
        stream: socket.socket,
        number: int,
        policy: Policy,
        worker: WorkerProcess,
        forget: Callable[[WorkerGuest], None],
    ) -> None:
        super().__init__(stream, policy.limits.value + wire.MAX_HEADER)
        self.number = number
        self.worker = worker
        self._forget = forget
        self._first = First(policy)
        # Travels with the first request: making the session is no round trip of its own.
        self._greeting = wire.pack({"memory": policy.limits.memory, "disk": policy.limits.disk})[0]
        self._state = threading.Lock()
        self._busy = False
        """The worker may be running code of this session."""
        self._killed = False
        self._closed = False

    def exchange(self, frame: Frame, on_frame: OnFrame) -> None:
        header, blobs = frame
        answer = self._first.answers(header)
        if answer is not None and not self._killed:
            on_frame((answer, ()))
            return

        def checked(answer: Frame) -> bool:
            if answer[0].get("t") == "died":
                raise _death(answer[0])
            return on_frame(answer)

        with self._state:
            if self._killed:
                raise self.death()
            self._busy = True
        super().exchange((self._first.completes(header), blobs), checked)
        self._busy = False  # not after an exception: then nobody knows what the worker is doing

    def _write(self, buffers: Sequence[wire.Blob]) -> None:
        if self._greeting:
            buffers = [b"".join((self._greeting, buffers[0])), *buffers[1:]]
            self._greeting = b""
        super()._write(buffers)

    def interrupt(self) -> None:
        self._order("interrupt")

    def kill(self) -> None:
        with self._state:
            if self._killed:
                return
            self._killed = True
            busy = self._busy
        if busy:  # else it waits for a request, and learns from the hang-up that none will come
            self._order("kill")
        self.hang_up()

    def _order(self, op: str) -> None:
        try:
            self.worker.order({"op": op, "id": self.number})
        except OSError:
            pass  # the worker is gone, and the session with it

    def death(self) -> GuestDied:
        return GuestDied("crash", "the guest was killed" if self._killed else self.worker.why())

    def close(self) -> None:
        self.kill()
        if not self._closed:
            self._closed = True
            super().close()
            self._forget(self)
            if not self._busy:
                self.worker.prepare()


def _death(header: wire.Header) -> GuestDied:
    kind, message = header.get("kind"), header.get("message")
    if kind not in _KINDS or type(message) is not str:
        return GuestDied("protocol", "the guest ended in a way that makes no sense")
    return GuestDied(kind, message[:2000])


__all__ = ["BackendUnavailable", "WorkerGuest", "WorkerProcess", "ZygoteDied", "launch"]
