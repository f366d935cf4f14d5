"""One container with the guest program in it."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import docker.errors
import requests

from safeexec import wire
from safeexec.backend import GuestDied, OnFrame, StreamGuest
from safeexec.text import neutralise_line
from safeexec_backends.docker import program
from safeexec_backends.docker.direct import Direct
from safeexec_backends.docker.stream import Attached

_INTERRUPT = wire.pack({"t": "interrupt"})[0]
_OOM_PATIENCE = 1.5
"""How long the daemon may take to learn of the kernel's kill: 0.3 s were seen on a busy machine. Only who kills itself by signal 9 waits as long."""


class DockerGuest(StreamGuest):
    """A started container. `remove` is called once, when it is done with, from any thread; it must not block."""

    def __init__(
        self, client: Any, identity: str, stream: Attached | Direct, max_frame: int, remove: Callable[[str], None]
    ) -> None:
        super().__init__(stream, max_frame)  # type: ignore[arg-type]
        self.id = identity
        self.born = self.used = monotonic()
        self.busy = False
        self._client = client
        self._stream = stream
        self._remove = remove
        self._end_lock = threading.Lock()
        self._removed = False
        self._reason: GuestDied | None = None
        self._interrupt_wanted = False
        self._number = 0

    def exchange(self, frame: wire.Frame, on_frame: OnFrame) -> None:
        """See the base class."""
        self._interrupt_wanted = False  # one that came too late was meant for the step before
        self._number = frame[0]["id"] if frame[0].get("t") == "run" else 0
        self.busy = True
        try:
            super().exchange(frame, on_frame)
        finally:
            self.used = monotonic()
            self.busy = False

    def _write(self, buffers: Sequence[wire.Blob]) -> None:
        super()._write(buffers)
        if self._interrupt_wanted:
            self._send_interrupt()

    def interrupt(self) -> None:
        """Ask on the second socket, by the step's number; where there is none, in band, in order with all other frames. Either way an interrupt that
        comes late cannot hit the step after."""
        if isinstance(self._stream, Direct):
            if self._number:
                self._stream.interrupt(self._number)
            return
        self._interrupt_wanted = True
        self._send_interrupt()

    def _send_interrupt(self) -> None:
        # Whoever writes a frame at this moment sends it afterwards. Without waiting: this is called from the watchdog's thread.
        if self._send_lock.acquire(blocking=False):
            try:
                if self._interrupt_wanted and isinstance(self._stream, Attached):
                    self._interrupt_wanted = False
                    self._stream.send_now(bytes(_INTERRUPT))
            except OSError:
                return  # gone; the exchange says so
            finally:
                self._send_lock.release()

    def limit_frames(self, size: int) -> None:
        """The largest frame that is read, in bytes."""
        self._reader._max = size

    def next_frame(self, seconds: float) -> wire.Frame:
        """A frame outside an exchange, while the container starts. Raises OSError, EOFError, WireError."""
        self._stream.settimeout(seconds)
        try:
            return self._reader.next()
        finally:
            self._stream.settimeout(None)

    def alive(self) -> bool:
        """See the base class. The daemon shuts only its half of the stream when a container ends, which is no POLLHUP."""
        try:
            poll = select.poll()
            poll.register(self._stream, getattr(select, "POLLRDHUP", 0) | select.POLLHUP)
            return not poll.poll(0)
        except (OSError, ValueError):
            return False

    def kill(self) -> None:
        """See the base class."""
        self.end(GuestDied("crash", "the container was removed by the host"))

    def end(self, reason: GuestDied) -> None:
        """Kill it, for `reason`; the first one counts."""
        with self._end_lock:
            if self._reason is None:
                self._reason = reason
            if self._removed:
                return
            self._removed = True
        # First the stream: the daemon hangs for a minute in kill and remove while a flooded stream is unread.
        self.hang_up()
        self._remove(self.id)

    def death(self) -> GuestDied:
        """See the base class."""
        with self._end_lock:
            if self._reason is not None:
                return self._reason
        found = found_out(self._client, self.id, self._stream.tail)
        self.end(found)
        return found

    def close(self) -> None:
        """See the base class."""
        self.kill()
        super().close()


def found_out(client: Any, identity: str, tail: bytes) -> GuestDied:
    """Why a container ended, or that it did not. `tail` is the last of its stderr. Waits for a moment."""
    api = client.api
    try:
        try:
            code = api.wait(identity, timeout=5)["StatusCode"]
        except requests.RequestException:  # a timeout is a ConnectionError here
            return GuestDied("crash", "the container hung up and went on running")
        state = api.inspect_container(identity)["State"]
        # The daemon may learn of the kernel's kill a moment after the end itself.
        pause = threading.Event()
        deadline = monotonic() + _OOM_PATIENCE
        noticed = tail.endswith(program.OUT_OF_MEMORY)  # a guest that says so itself gains nothing
        while code == 137 and not noticed and not state.get("OOMKilled") and monotonic() < deadline:
            pause.wait(0.05)
            state = api.inspect_container(identity)["State"]
    except (docker.errors.DockerException, requests.RequestException) as error:
        return GuestDied("crash", f"the container is gone, and why cannot be found out: {str(error)[:200]}")
    return ended(code, noticed or bool(state.get("OOMKilled")), tail)


def ended(code: int, out_of_memory: bool, tail: bytes = b"") -> GuestDied:
    """What an exit code says."""
    if out_of_memory:
        return GuestDied("memory", "the container ran out of memory (Limits.memory)")
    if code == 153:
        return GuestDied("crash", "the container wrote a file larger than Limits.disk")
    said = neutralise_line(tail.decode(errors="replace").strip()[-400:])
    signal = f" (signal {code - 128})" if 128 < code < 160 else ""
    return GuestDied("crash", f"the container ended with exit code {code}{signal}" + (f": {said}" if said else ""))
