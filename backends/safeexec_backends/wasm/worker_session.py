"""One session in a worker, from the host's first bytes to the end of its instance."""

from __future__ import annotations

import functools
import math
import socket
import threading
import time
from collections.abc import Sequence
from typing import Final

from safeexec import wire
from safeexec.policy import Limits
from safeexec_backends.local import control

from . import abi, snapshot
from .agreed import BEGIN, GREETING, KEEP, LAST, PIECE, WORD, WRITE
from .checkpoint import Past, Rest, revive
from .host import Killed
from .instance import STEP, Reason, Runtime, file_report, fresh
from .session_host import RECEIVE, SessionHost

_DONE: Final = b'{"t":"done",'


@functools.lru_cache(64)
def _limits(memory: int, disk: int) -> Limits:
    return Limits(memory=memory, disk=disk)


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
                    if self._ended:  # it goes back to its past, which freed its instance before its hang-up was heard
                        return False
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
        host.begun = False
        try:
            if host.instance.call(STEP, host.receive()):
                raise abi.Trap("the guest program ended without an answer")
        finally:
            host.rest()
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
                data = self.socket.recv(RECEIVE)
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
                # Before there is a new one: a session that goes back would else take the host three times its memory, until its hang-up is heard.
                origin._let_go()
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
            host.emit(*wire.pack({"t": "ready"}))
        elif word == WRITE:
            state = memoryview(snapshot.dump(host, self._past.rest, self._runtime))
            for start in range(0, len(state), PIECE):
                piece = state[start : start + PIECE]
                header = {"t": "state", "more": start + PIECE < len(state)}
                host.emit(*wire.pack(header, [piece]))

    def _frame(self, parts: Sequence[bytes]) -> None:
        assert self._host is not None
        if parts[0][8 : 8 + len(_DONE)] == _DONE:
            parts = self._measured(*parts)
        self._host.emit(*parts)

    def _measured(self, first: bytes, *rest: bytes) -> Sequence[bytes]:
        """The closing frame with the host's figures at the end of its header, where they win over the guest's own.

        The guest program sends the header whole, in its first part.
        """
        host = self._host
        assert host is not None
        length = int.from_bytes(first[4:8], "little")
        used = max(host.memory.size - self._runtime.memory, 0)
        extra = f',"cpu":{time.thread_time() - self._started:.6f},"rss":{used}'
        if host.files.changes != self._changes:
            self._changes = host.files.changes
            changed, self._known = file_report(host.files, self._known)
            extra += f',"files":{wire._dump(changed)}'
        if not 12 <= length <= len(first) - 8 or first[8 + length - 1] != 0x7D:
            return (first, *rest)  # not what the guest program sends: let the host refuse it
        text = extra.encode() + b"}"
        total = len(first) - 4 + len(text) - 1 + sum(map(len, rest))
        head = total.to_bytes(4, "little") + (length + len(text) - 1).to_bytes(4, "little")
        return (b"".join((head, first[8 : 8 + length - 1], text, first[8 + length :])), *rest)

    def _raw_output(self, stream: int, data: bytes) -> None:
        assert self._host is not None
        for start in range(0, len(data), RECEIVE):
            self._host.emit(*wire.pack({"t": "out", "s": stream}, [data[start : start + RECEIVE]]))

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
        with self._serving:
            self._let_go()
            self.socket.close()
        self.forget()

    def _let_go(self) -> None:
        """Free the instance, once nothing runs in it any more: `_serving` is held."""
        with self._lock:
            self._ended = True
            host, self._host = self._host, None
            if host is None:
                return
            if self._past is not None and self._past.wanted and not self.dropped:
                # The request after which the host may want to go back never came to run.
                self._past.keep(host, self._known, self._changes)
            if self._in_order and not host.killed:
                self._runtime.spares.give(host)
            else:
                host.close()

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
