"""A worker: many sessions' instances in one hardened process, and the loop that serves them.

The host sends orders over one control socket: start a session (with the session's own socket), interrupt it, kill it. Each session's frames go
over its own socket, as bytes: nothing here parses what a guest sends. A few threads wait for requests; whichever gets one runs that
step to its end, so no request is handed from thread to thread, and there is always one more thread that waits.
"""

from __future__ import annotations

import functools
import math
import os
import select
import socket
import threading
import time
from typing import Any, Final

from safeexec import wire
from safeexec.policy import Limits
from safeexec_backends.local import control

from . import abi, snapshot, writer
from .agreed import AHEAD, BEGIN, GREETING, KEEP, LAST, WORD, WRITE
from .checkpoint import Past, Rest, revive
from .host import Host, Killed
from .instance import STEP, Reason, Runtime, file_report, fresh
from .limits import THREAD_STACK

MAX_THREADS: Final = 4096
IDLE_THREADS: Final = 4
_DONE: Final = b'{"t":"done",'
_RECEIVE: Final = 1 << 16
_PIECE: Final = 1 << 20


@functools.lru_cache(64)
def _limits(memory: int, disk: int) -> Limits:
    return Limits(memory=memory, disk=disk)


class SessionHost(Host):
    """A host whose frames come from a socket."""

    socket: socket.socket
    buffer: bytearray
    wake: int = -1
    """Written to by interrupts while the guest waits for a frame."""

    def _notify(self) -> None:
        super()._notify()
        if self.wake >= 0:
            os.eventfd_write(self.wake, 1)

    def wait(self, seconds: float) -> int:
        return int(self._has_frame() or self._wait_for_bytes(None if seconds < 0 else seconds))

    def receive(self) -> int:
        while not self._has_frame():
            self._wait_for_bytes(None, interruptible=False)
        return int.from_bytes(self.buffer[:4], "little")

    def take(self, size: int) -> tuple[bytes]:
        frame = bytes(memoryview(self.buffer)[4 : 4 + size])
        del self.buffer[: 4 + size]
        return (frame,)

    def _has_frame(self) -> bool:
        return len(self.buffer) >= 4 and len(self.buffer) >= 4 + int.from_bytes(self.buffer[:4], "little")

    def _wait_for_bytes(self, seconds: float | None, interruptible: bool = True) -> bool:
        """Wait for the host's bytes; whether a whole frame is there. Raises Killed, also when the host has hung up."""
        deadline = None if seconds is None else time.monotonic() + seconds
        wake = self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            poll = select.poll()
            poll.register(self.socket, select.POLLIN)
            poll.register(wake, select.POLLIN)
            while True:
                if self.killed:
                    raise Killed
                if interruptible and self.interrupted():
                    return False
                left = None if deadline is None else (deadline - time.monotonic()) * 1000
                if left is not None and left <= 0:
                    left = 0
                ready = poll.poll(left)
                if not ready and left is not None:
                    return False
                if any(fd == wake for fd, _ in ready):
                    os.eventfd_read(wake)
                if any(fd != wake for fd, _ in ready):
                    self.fill()
                    if self._has_frame():
                        return True
        finally:
            with (
                self._wake
            ):  # whoever notifies holds it: else he could write to whatever gets the descriptor's number next
                self.wake = -1
                os.close(wake)

    def fill(self) -> None:
        """Read what there is. Raises Killed at the end of the stream."""
        try:
            data = self.socket.recv(_RECEIVE)
        except OSError:
            data = b""
        if not data:
            raise Killed
        self.buffer += data
        # A large frame: make room once, and read the rest where it belongs.
        if len(self.buffer) >= 4:
            missing = 4 + int.from_bytes(self.buffer[:4], "little") - len(self.buffer)
            if missing > _RECEIVE:
                start = len(self.buffer)
                self.buffer += bytes(missing)
                view = memoryview(self.buffer)[start:]
                try:
                    while view:
                        count = self.socket.recv_into(view)
                        if not count:
                            raise Killed
                        view = view[count:]
                except OSError as error:
                    raise Killed from error
                finally:
                    view.release()

    def emit(self, frame: bytes) -> None:
        """Send a frame to the host. Raises Killed when it is gone."""
        try:
            self.socket.sendall(frame)
        except OSError as error:
            raise Killed from error


class WorkerSession:
    """One session: its instance, its socket, its past.

    The host speaks to the guest in frames. To the worker itself it speaks in frames of one byte, which no frame of the protocol is.
    """

    def __init__(
        self, runtime: Runtime, sock: socket.socket, number: int, order: control.Message, origin: WorkerSession | None
    ) -> None:
        self.socket = sock
        self.number = number
        self.descriptor = sock.fileno()
        self._runtime = runtime
        self._order = order
        self._origin = origin
        self._host: SessionHost | None = None
        self._past: Past | None = None
        self._lock = threading.Lock()
        self._serving = threading.Lock()
        """Held while the instance runs, and by a session that is made of this one."""
        self._ended = False
        self._in_order = False
        """It ended between two requests."""
        self._last = False
        """The host has said that the next request is the last."""
        self._over = False
        """That request has been answered."""
        self.dropped = False
        """The host will not come back to it."""
        self.kept = False
        """The host has asked for a checkpoint, and says when it has no more use for that."""
        self._known: dict[str, tuple[int, int]] = {}
        self._changes = 0
        self._started = 0.0
        self._runs_since = math.inf
        """When the guest was given the request in which it runs."""

    def serve(self) -> bool:
        """Handle the request that waits; whether the session goes on."""
        try:
            with self._serving:
                host = self._host
                if host is None:
                    host = self._make()
                try:
                    while not host._has_frame():
                        host.fill()
                except Killed:
                    self._in_order = not host.buffer
                    raise
                while host._has_frame() and not self._over:  # what was read together is not announced again
                    self._handle(host)
                self._in_order = self._over and not host.buffer
            return not self._over
        except BaseException as error:
            if not self._in_order:
                self._say_why(error)
            return False

    def _handle(self, host: SessionHost) -> None:
        if host.buffer[:4] == WORD:
            word = host.buffer[4]
            del host.buffer[:5]
            self._obey(word, host)
            return
        if self._past is not None:
            self._past.moves(host, self._known, self._changes)
        self._started = time.thread_time()
        self._runs_since = time.monotonic()
        if host.instance.call(STEP, host.receive()):
            raise abi.Trap("the guest program ended without an answer")
        self._runs_since = math.inf
        self._over = self._last

    # The making

    def _make(self) -> SessionHost:
        buffer = self._greeted() if self._order["mode"] == "fresh" else bytearray()
        host = self._made()
        host.socket, host.buffer = self.socket, buffer
        host.on_frame = self._frame
        host.on_output = self._raw_output
        with self._lock:
            self._host = host
            if self._ended:
                raise Killed
        if self._past is None:
            self._past = Past(self._runtime.rest(host), unused=self._order["mode"] == "fresh")
        return host

    def _greeted(self) -> bytearray:
        """What a fresh session may use is the first thing that the host sends; returns what it sent with it."""
        buffer = bytearray()
        while len(buffer) < GREETING.size:
            try:
                data = self.socket.recv(_RECEIVE)
            except OSError as error:
                raise Killed from error
            if not data:
                self._in_order = True  # it was never used
                raise Killed
            buffer += data
        memory, disk = GREETING.unpack_from(buffer)
        del buffer[: GREETING.size]
        self._order = {**self._order, "memory": memory, "disk": disk}
        return buffer

    def _fresh(self) -> SessionHost:
        return fresh(self._runtime, _limits(self._order["memory"], self._order["disk"]), SessionHost)

    def _made(self) -> SessionHost:
        mode, origin = self._order["mode"], self._origin
        if mode == "fresh":
            return self._fresh()
        if mode == "written":
            host = snapshot.load(self._receive_state(), self._fresh, self._runtime)
            self._changes, self._known = host.files.changes, file_report(host.files, {})[1]
            return host
        if origin is None:
            raise abi.EngineError("the session it comes from is gone")
        self._origin = None
        with origin._serving:  # until it has stopped
            if mode == "back":
                self._past, origin._past = origin._past, None
                self.kept = True
                if self._past is None:
                    raise abi.EngineError("no checkpoint was taken")
                host, state = self._past.back(self._fresh)
            else:
                if origin._host is None or origin._past is None:
                    raise abi.EngineError("the session it comes from is gone")
                state, source = origin._past.branch(origin._host, origin._known, origin._changes)
                host = revive(self._fresh, state, source)
        self._known, self._changes = state.known, state.changes
        return host

    def _receive_state(self) -> bytes:
        size = self._order["size"]
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self.socket.recv_into(view)
            if not count:
                raise Killed
            view = view[count:]
        return bytes(data)

    def _obey(self, word: int, host: SessionHost) -> None:
        """What the host says to the worker."""
        assert self._past is not None
        if word == KEEP:
            self.kept = True
            self._past.want()
            if self._past.large():
                self._past.keep(host, self._known, self._changes)
        elif word == LAST:
            self._last = True
        elif word == BEGIN:
            host.emit(bytes(wire.pack({"t": "ready"})[0]))
        elif word == WRITE:
            state = memoryview(snapshot.dump(host, self._past.rest, self._runtime))
            for start in range(0, len(state), _PIECE):
                piece = state[start : start + _PIECE]
                header = {"t": "state", "more": start + _PIECE < len(state)}
                host.emit(b"".join(wire.pack(header, [piece])))

    def _frame(self, frame: bytes) -> None:
        assert self._host is not None
        if frame[8 : 8 + len(_DONE)] == _DONE:
            frame = self._measured(frame)
        self._host.emit(frame)

    def _measured(self, frame: bytes) -> bytes:
        """The closing frame with the host's figures at the end of its header, where they win over the guest's own."""
        host = self._host
        assert host is not None
        length = int.from_bytes(frame[4:8], "little")
        used = max(host.memory.size - self._runtime.memory, 0)
        extra = f',"cpu":{time.thread_time() - self._started:.6f},"rss":{used}'
        if host.files.changes != self._changes:
            self._changes = host.files.changes
            changed, self._known = file_report(host.files, self._known)
            extra += f',"files":{wire._dump(changed)}'
        if not 12 <= length <= len(frame) - 8 or frame[8 + length - 1] != 0x7D:
            return frame  # not what the guest program sends: let the host refuse it
        text = extra.encode() + b"}"
        total = len(frame) - 4 + len(text) - 1
        head = total.to_bytes(4, "little") + (length + len(text) - 1).to_bytes(4, "little")
        return b"".join((head, frame[8 : 8 + length - 1], text, frame[8 + length :]))

    def _raw_output(self, stream: int, data: bytes) -> None:
        assert self._host is not None
        for start in range(0, len(data), _RECEIVE):
            parts = wire.pack({"t": "out", "s": stream}, [data[start : start + _RECEIVE]])
            self._host.emit(b"".join(parts))

    def _say_why(self, error: BaseException) -> None:
        """The last frame of a session that cannot go on."""
        kind, message = Reason.of(error, self._host)
        try:
            self.socket.settimeout(1.0)
            self.socket.sendall(wire.pack({"t": "died", "kind": kind, "message": message})[0])
        except OSError:
            pass  # the host hung up first

    def interrupt(self) -> None:
        """From the control thread."""
        with self._lock:
            if self._host is not None and not self._ended:
                self._host.interrupt()

    def kill(self) -> None:
        """From the control thread: the thread that serves the session, or the next event on its socket, closes it."""
        with self._lock:
            self._ended = True
            if self._host is not None:
                self._host.kill()

    def rest(self, at: float) -> None:
        """From the control thread: at that time the host waited for nothing. A guest that runs since before it goes on behind its answer."""
        if self._runs_since < at:
            self.kill()

    def close(self) -> None:
        """Free the instance. Only the thread that serves the session may. Its past stays until the host drops it."""
        with self._serving, self._lock:
            self._ended = True
            host, self._host = self._host, None
            if host is not None:
                if self._past is not None and self._past.wanted and not self.dropped:
                    # The request after which the host may want to go back never came to run.
                    self._past.keep(host, self._known, self._changes)
                if self._in_order and not host.killed:
                    self._runtime.spares.give(host)
                else:
                    host.close()
            self.socket.close()
        self.forget()

    def draft(self, most: int) -> tuple[snapshot.Draft, Rest] | None:
        """A copy of its state, of up to `most` bytes, from any thread; None while it runs. Raises snapshot.TooLarge, Unsettled, OSError."""
        if not self._serving.acquire(blocking=False):
            return None
        try:
            if self._host is None or self._past is None or self._ended:
                return None
            return snapshot.draft(self._host, self._past.rest, most), self._past.rest
        finally:
            self._serving.release()
            self.forget()  # it may have been dropped meanwhile

    def drop(self) -> None:
        """From the control thread: the host has no more use for it. It hangs up as well, and has it killed if it runs."""
        self.dropped = True
        self.forget()

    def forget(self) -> None:
        """Free the past, if nobody will come back to it and nothing of it is in use."""
        if self.dropped and self._serving.acquire(blocking=False):  # else whoever uses it comes here afterwards
            try:
                past, self._past = self._past, None
                if past is not None:
                    past.close()
            finally:
                self._serving.release()


class Worker:
    """The process's sessions and the threads that serve them."""

    def __init__(self, runtime: Runtime, channel: socket.socket) -> None:
        self._runtime = runtime
        self._channel = channel
        self._epoll = select.epoll()
        self._sessions: dict[int, WorkerSession] = {}
        self._by_number: dict[int, WorkerSession] = {}
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    def serve(self) -> None:
        """Take the host's orders until it hangs up."""
        threading.stack_size(THREAD_STACK)
        self._spawn()
        while True:
            try:
                message, fds = control.receive(self._channel, AHEAD)
            except (EOFError, OSError):
                os._exit(0)  # the host is gone; so are its sessions
            self._obey(message, fds)

    def _obey(self, message: control.Message, fds: list[int]) -> None:
        if message["op"] == "start":
            origin = self._find(message.get("of", 0))
            if message["mode"] == "back" and origin is not None:
                origin.kill()
            for number, fd in zip(message["ids"], fds, strict=True):
                session = WorkerSession(self._runtime, socket.socket(fileno=fd), number, message, origin)
                with self._lock:
                    self._sessions[fd] = session
                    self._by_number[number] = session
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
            return
        if message["op"] == "write":
            channel = socket.socket(fileno=fds[0])
            try:
                threading.Thread(target=writer.serve, args=(channel, self._find, self._runtime), daemon=True).start()
            except RuntimeError:
                channel.close()  # no more threads: the host hears that its states are not kept
            return
        if message["op"] == "rest":
            for number in message["ids"]:
                resting = self._find(number)
                if resting is not None:
                    resting.rest(message["at"])
            return
        found = self._find(message["id"])
        if found is None:
            return
        if message["op"] == "kill":
            found.kill()
        elif message["op"] == "drop":
            found.drop()
            with self._lock:
                if self._sessions.get(found.descriptor) is not found:
                    self._by_number.pop(found.number, None)
                # Else it waits for its hang-up, or it runs behind a forged answer, and must be found when that is looked for.
        elif message["op"] == "interrupt":
            found.interrupt()

    def _find(self, number: int) -> WorkerSession | None:
        with self._lock:
            return self._by_number.get(number)

    def _spawn(self) -> None:
        try:
            threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError:
            return  # no more threads to be had: requests wait until a step ends
        self._threads += 1

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._idle >= IDLE_THREADS:
                    self._threads -= 1
                    return
                self._idle += 1
            events: list[Any] = []
            while not events:
                events = self._epoll.poll(maxevents=1)
            with self._lock:
                self._idle -= 1
                if not self._idle and self._threads < MAX_THREADS:
                    self._spawn()
                session = self._sessions[events[0][0]]
            if session.serve():
                self._epoll.modify(session.socket.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
            else:
                self._drop(session)

    def _drop(self, session: WorkerSession) -> None:
        fd = session.socket.fileno()
        self._epoll.unregister(fd)
        with self._lock:
            del self._sessions[fd]
            # Else the host may come back to its checkpoint, and says when it will not.
            if session.dropped or not session.kept:
                self._by_number.pop(session.number, None)
                session.dropped = True
        session.close()
