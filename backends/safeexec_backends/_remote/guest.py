"""The host's end of a guest that runs at a vendor."""

from __future__ import annotations

import json
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic

from safeexec import wire
from safeexec.backend import Guest, GuestDied, OnFrame
from safeexec.frame_memory import frame_memory
from safeexec_backends._remote.faults import Fault, Gone, Passing, retry
from safeexec_backends._remote.lines import CHUNK, LinesBroken, Receiver, Sender

BATCH = 4 * CHUNK
"""Bytes of data in one write at most."""
UNSENT = 2 * 2**20
"""Bytes that wait to be written, beside one frame more; then who sends waits."""
_LINGER = 0.5
"""Seconds that the thread which writes waits for more, before it ends: an idle session needs none."""
_IN_VAIN = 5
"""Connections that may break one after the other and bring nothing."""
_LASTED = 10.0
"""Seconds after which a connection that breaks is not held against the next."""
END_PATIENCE = 30.0
"""Seconds that closing waits for the vendor to end a sandbox."""
_WAITING = 64
"""Lines from the guest that wait for the host; then it stops reading, and the vendor's stream with it."""

log = logging.getLogger("safeexec.remote")


class _Ended(BaseException):
    """The guest has ended meanwhile: nobody wants what is read. Not an Exception: a vendor's SDK must not take it for one of its own."""


class Transport(ABC):
    """One sandbox at the vendor and the relay's process in it."""

    name: str
    """What to call the sandbox in a message: its identifier."""

    @abstractmethod
    def read(self, take: Callable[[bytes], None]) -> None:
        """Hand pieces of the relay's standard output to `take` until it ends. Called in a thread of its own.

        Raises Fault; after Passing, :meth:`reopen` is tried. What `take` raises passes through.
        """

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send to its standard input. Raises Passing when it may be repeated: what arrived twice does no harm. Raises Fault."""

    @abstractmethod
    def destroy(self) -> None:
        """End the sandbox. May be repeated. Raises Fault."""

    def reopen(self) -> None:
        """Connect to the process again after its stream broke, so that `read` can go on. May be repeated. Raises Fault."""
        raise Fault("the stream cannot be taken up again")

    def keep(self) -> None:  # noqa: B027
        """Put off the sandbox's expiry, where it has one that can be put off. Raises Fault."""

    def complaint(self) -> str:
        """What the relay wrote to standard error last. Called once at most, when its output has ended."""
        return ""


def destroy(transport: Transport) -> None:
    """End a sandbox, trying again. Nobody waits for this to succeed; the owner pays for a sandbox that stays, so it is said."""
    try:
        retry(transport.destroy)
    except Gone:
        pass  # as wanted
    except Fault as error:
        log.warning("sandbox %s could not be ended, it stays until it expires: %s", transport.name, error)


class RemoteGuest(Guest):
    """Frames over a transport. One thread reads; another writes while there is something to write, so that no caller waits for a network that hangs."""

    def __init__(self, transport: Transport, max_frame: int, forget: Callable[[RemoteGuest], object]) -> None:
        self.transport = transport
        self._forget = forget
        self._reader = wire.FrameReader(self._readinto, max_frame, room=frame_memory.room)
        self._lock = threading.Condition()
        self._inbox: deque[bytes] = deque()
        self._piece = memoryview(b"")
        self._outbox: deque[tuple[str, bytes]] = deque()
        self._unsent = 0
        """Bytes in it."""
        self._ready = False
        self._ended: GuestDied | None = None
        self._drained = False
        self._stop = threading.Event()
        self._destroyer: threading.Thread | None = None
        self._undone = False
        self._sender = Sender()
        self._writing = False
        threading.Thread(target=self._read_all, name="safeexec-remote-read", daemon=True).start()

    def wait_ready(self, patience: float) -> None:
        """Wait until the relay has said hello. Raises GuestDied."""
        with self._lock:
            if not self._lock.wait_for(lambda: self._ready or self._ended is not None, patience):
                self._end(GuestDied("crash", f"the guest did not start within {patience:g} s"))
            if not self._ready and self._ended is not None:
                raise self._ended

    # -- the core's side -------------------------------------------------------------------------------------------------

    def exchange(self, frame: wire.Frame, on_frame: OnFrame) -> None:
        self.send(frame)
        try:
            while not on_frame(self._reader.next()):
                pass
        except EOFError as error:
            raise self._death() from error

    def send(self, frame: wire.Frame) -> None:
        pieces = []
        for buffer in _joined(frame):
            view = memoryview(buffer)
            pieces += [("d", bytes(view[at : at + CHUNK])) for at in range(0, len(view), CHUNK)]
        with self._lock:
            # A guest that calls tools and leaves their answers unread must not have them all in the host's memory: whoever has another one waits.
            self._lock.wait_for(lambda: self._unsent < UNSENT or self._ended is not None)
            if self._ended is not None:
                raise self._death()
            self._outbox.extend(pieces)
            self._unsent += sum(len(body) for _, body in pieces)
            self._wake_writer()

    def interrupt(self) -> None:
        with self._lock:
            self._outbox.appendleft(("i", b""))
            self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writing or self._ended is not None:
            self._lock.notify_all()
            return
        threading.Thread(target=self._write_all, name="safeexec-remote-write", daemon=True).start()
        self._writing = True  # only now: where there was no thread to be had the next who sends tries again

    def kill(self) -> None:
        with self._lock:
            self._drained = True
            self._end(GuestDied("crash", "the sandbox was killed by the host"))

    def close(self) -> None:
        self.kill()
        destroyer = self._destroyer
        if self._undone:
            self._undone = False
            self._destroy()
        elif destroyer is not None:
            destroyer.join(END_PATIENCE)
            if destroyer.is_alive():
                log.warning("sandbox %s is still being ended; nobody waits for it any more", self.transport.name)
        self._forget(self)

    def keep(self) -> None:
        """Put off the sandbox's expiry. Raises Fault."""
        self.transport.keep()

    def fail(self, reason: str) -> None:
        """End the session because something outside its stream found the sandbox gone."""
        with self._lock:
            self._end(GuestDied("crash", reason))

    def _death(self) -> GuestDied:
        ended = self._ended
        assert ended is not None
        return GuestDied(ended.kind, ended.message)

    def _readinto(self, view: memoryview) -> int:
        if not len(self._piece):
            with self._lock:
                # What arrived before the end is still handed on: output is kept. Not after a kill: it must end at once.
                self._lock.wait_for(lambda: self._ended is not None or self._inbox)
                if self._drained or not self._inbox:
                    return 0
                self._piece = memoryview(self._inbox.popleft())
                self._lock.notify_all()
        count = min(len(view), len(self._piece))
        view[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    # -- the threads -----------------------------------------------------------------------------------------------------

    def _end(self, reason: GuestDied) -> None:
        """Note the first reason and see to it that the sandbox ends, whatever the reason. With the lock held."""
        if self._ended is None:
            self._ended = reason
        self._stop.set()
        self._lock.notify_all()
        if self._destroyer is None:
            self._destroyer = threading.Thread(target=self._destroy, name="safeexec-destroy", daemon=True)
            try:
                self._destroyer.start()
            except RuntimeError:  # Python 3.12 starts none any more when it ends: close() does it then
                self._undone = True

    def _destroy(self) -> None:
        destroy(self.transport)

    def _read_all(self) -> None:
        receiver = Receiver()
        reason = GuestDied("crash", "the connection to the sandbox ended")

        def take(piece: bytes) -> None:
            nonlocal reason
            try:
                for kind, body in receiver.feed(piece):
                    if kind == "x":
                        reason = _obituary(body)
                    elif kind == "h":
                        with self._lock:
                            self._ready = True
                            self._lock.notify_all()
                    elif kind == "d":
                        self._take(body)
            except LinesBroken as error:
                with self._lock:
                    self._end(GuestDied("protocol", f"the stream from the sandbox is broken: {error}"))
                raise _Ended from None

        try:
            self._read_on(receiver, take)
            said = "" if self._ready else self.transport.complaint()
            if said:
                reason = GuestDied("crash", f"the guest did not start: {said}")
        except _Ended:
            return
        except Gone as error:
            reason = GuestDied("crash", f"the sandbox is gone: {error}")
        except Fault as error:
            reason = GuestDied("crash", f"the connection to the sandbox was lost: {error}")
        except Exception as error:
            reason = GuestDied("crash", f"reading from the sandbox failed: {type(error).__name__}")
            log.exception("reading from sandbox %s failed", self.transport.name)
        with self._lock:
            self._end(reason)

    def _read_on(self, receiver: Receiver, take: Callable[[bytes], None]) -> None:
        """Read to the end, over broken connections, unless they break again and again with nothing between."""
        vain = 0
        while True:
            before, since = receiver.seen, monotonic()
            try:
                self.transport.read(take)
                return
            except Passing as error:
                vain = 0 if receiver.seen > before or monotonic() - since > _LASTED else vain + 1
                if not self._ready or vain > _IN_VAIN:
                    raise
                try:
                    retry(self.transport.reopen, self._stop)
                except Fault as trouble:
                    raise Fault(f"{error}; {trouble}") from None
                receiver.resume()
                with self._lock:
                    self._outbox.appendleft(("r", b"%d" % receiver.seen))
                    self._wake_writer()

    def _take(self, body: bytes) -> None:
        with self._lock:
            self._lock.wait_for(lambda: len(self._inbox) < _WAITING or self._ended is not None)
            if self._ended is not None:
                raise _Ended
            self._inbox.append(body)
            self._lock.notify_all()

    def _write_all(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._outbox or self._ended is not None, _LINGER)
                if self._ended is not None or not self._outbox:
                    self._writing = False
                    return
                batch, size = [], 0
                while self._outbox and size < BATCH:
                    kind, body = self._outbox.popleft()
                    batch.append(self._sender.line(kind, body))
                    size += len(body)
                    self._unsent -= len(body) if kind == "d" else 0
                self._lock.notify_all()
            data = b"".join(batch)
            try:
                # Repeating is safe though a step may have begun: the relay takes each line once.
                retry(partial(self.transport.write, data), self._stop)
            except Fault as error:
                with self._lock:
                    self._end(GuestDied("crash", f"the sandbox could not be reached: {error}"))
                return
            except Exception as error:
                log.exception("writing to sandbox %s failed", self.transport.name)
                with self._lock:
                    self._end(GuestDied("crash", f"writing to the sandbox failed: {type(error).__name__}"))
                return


def _joined(frame: wire.Frame) -> list[wire.Blob]:
    buffers = wire.pack(*frame)
    return [b"".join(buffers)] if sum(map(len, buffers)) <= CHUNK else buffers


def _obituary(body: bytes) -> GuestDied:
    """The relay's last words. They come from inside: a program there may have sent them."""
    try:
        report = json.loads(body)
        number, code = report.get("signal"), report.get("code")
    except (ValueError, AttributeError, RecursionError):
        return GuestDied("protocol", "the sandbox ended with a malformed report")
    if report.get("memory") is True and number == 9:
        return GuestDied("memory", "the kernel killed the guest because memory ran out")
    if type(number) is int:
        return GuestDied("crash", f"the guest was ended by signal {number}")
    if type(code) is int:
        return GuestDied("crash", f"the guest left with exit code {code}")
    return GuestDied("crash", "the guest hung up")
