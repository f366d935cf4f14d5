"""How the host speaks with a worker on one session's line: frames for the guest, and words of one byte for the worker itself.

Words that need no answer travel with the next request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from safeexec import watchdog, wire
from safeexec.backend import GuestDied, StreamGuest
from safeexec.policy import Policy
from safeexec.wire import Frame

from .agreed import BEGIN, GREETING, KEEP, LAST, PIECE, WORD, WRITE
from .process import Line, WorkerProcess

KEEP_WORD = WORD + bytes((KEEP,))
_LAST_WORD = WORD + bytes((LAST,))
_KINDS = ("memory", "crash", "time", "output", "protocol")
_PATIENCE = 30.0
"""Seconds for work that the worker does without running any guest code."""
_SLOWEST = 1 << 20
"""Bytes of a state that a worker takes in a second, at least."""
_MOST_ABOUT = 16 << 20
"""Bytes that say in a state what is where, at most."""


class WorkerChannel(StreamGuest):
    """A session's line to its worker."""

    def __init__(self, line: Line, policy: Policy, worker: WorkerProcess, greet: bool) -> None:
        super().__init__(line.socket, policy.limits.value + wire.MAX_HEADER)
        self.number = line.number
        self.worker = worker
        self._policy = policy
        # Travels with the first request: making the session is no round trip of its own.
        self._greeting = GREETING.pack(policy.limits.memory, policy.limits.disk) if greet else b""
        self._last = False
        """The worker has yet to be told that nothing comes after the next request."""
        self._wanted = False
        """The worker has yet to be told to take a checkpoint."""
        self._killed = False

    def _write(self, buffers: Sequence[wire.Blob]) -> None:
        if self._greeting or self._wanted or self._last:
            buffers = [b"".join((self._unsaid(), buffers[0])), *buffers[1:]]
        super()._write(buffers)

    def _unsaid(self, seconds: float = -1) -> bytes:
        """What goes before the next thing that is sent. Raises TimeoutError where somebody else has not sent his for `seconds`."""
        if not self._send_lock.acquire(timeout=seconds):
            raise TimeoutError("the guest does not read")
        said = self._greeting
        if self._wanted:
            said += KEEP_WORD
        if self._last:
            said += _LAST_WORD
        self._greeting, self._wanted, self._last = b"", False, False
        self._send_lock.release()
        return said

    def _order(self, op: str, number: int | None = None) -> None:
        try:
            self.worker.order({"op": op, "id": self.number if number is None else number})
        except OSError:
            pass  # the worker is gone, and the session with it

    def _say(self, word: int) -> None:
        self._write_soon([self._unsaid(_PATIENCE) + WORD + bytes((word,))], _PATIENCE)

    def _wait(self, kind: str) -> Frame:
        """The worker's own next frame. Raises GuestDied."""
        try:
            with self._within(_PATIENCE):
                frame = self._reader.next()
        except (EOFError, OSError, wire.WireError) as error:
            raise self.death() from error
        if frame[0].get("t") == "died":
            raise death_of(frame[0])
        if frame[0].get("t") != kind:
            raise GuestDied("protocol", "the guest sent a frame outside a request")
        return frame

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Hang up after so many seconds. Not a time limit of the socket: a worker that was taken over could send a byte now and then for ever."""
        deadline, key = monotonic() + seconds, object()
        watchdog.watch(id(key), lambda now: self.hang_up() if now > deadline else None)
        try:
            yield
        finally:
            watchdog.unwatch(id(key))

    def begin(self, state: bytes = b"") -> None:
        """Wait until a session that was made of another, or of `state`, stands. Raises GuestDied."""
        assert self._socket is not None
        try:
            with self._send_lock, self._within(_PATIENCE + len(state) / _SLOWEST):
                self._socket.sendall(state)
            self._say(BEGIN)
        except OSError:
            pass  # it says why
        self._wait("ready")

    def _read_state(self) -> bytes:
        """What the worker writes down of the session. Raises GuestDied."""
        try:
            self._say(WRITE)
        except OSError:
            raise self.death() from None
        state = bytearray()
        most = self.worker.image + self._policy.limits.memory + self._policy.limits.disk
        bound = most + most // 16 + _MOST_ABOUT  # the places of its pages, and what does not get smaller by packing
        more = True
        while more:
            header, blobs = self._wait("state")
            more = header.get("more") is True
            # Guest code that forged its last answer could send them, and a worker that was taken over could for ever: nothing in each, say.
            if len(blobs) != 1 or len(blobs[0]) > PIECE or (more and len(blobs[0]) != PIECE):
                raise GuestDied("protocol", "a malformed piece of state")
            state += blobs[0]
            if len(state) > bound:
                raise GuestDied("protocol", "a state that is larger than the limits allow")
        return bytes(state)

    def death(self) -> GuestDied:
        return GuestDied("crash", "the guest was killed" if self._killed else self.worker.why())


def death_of(header: wire.Header) -> GuestDied:
    """What the worker says of the end of a session."""
    kind, message = header.get("kind"), header.get("message")
    if kind not in _KINDS or type(message) is not str:
        return GuestDied("protocol", "the guest ended in a way that makes no sense")
    return GuestDied(kind, message[:2000])
