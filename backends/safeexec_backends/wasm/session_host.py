"""The host functions' side of an instance in a worker: its frames come from a socket, and go there."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Final

from .host import Buffer, Host, Killed, ProtocolViolation

RECEIVE: Final = 1 << 16
"""Bytes that are read, or sent as one piece of output, at a time."""
_ANSWERS: Final = (b'{"t":"result",', b'{"t":"failure",', b'{"t":"net",')
"""How the frames begin, behind the length of their header, that a guest is sent while it runs."""


class SessionHost(Host):
    """A host whose frames come from a socket."""

    socket: socket.socket
    buffer: bytearray
    begun = False
    """Whether the guest has taken the request in which it runs."""
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

    def take(self, size: int) -> tuple[Buffer]:
        if not self._has_frame() or int.from_bytes(self.buffer[:4], "little") != size:
            raise ProtocolViolation("a frame was fetched that did not wait")
        if self.begun and not self.buffer.startswith(_ANSWERS, 8):
            # It forged the answer to the last one, and could so have the processor for as long as somebody asks it something.
            raise ProtocolViolation("a request was read before the one before had come to its end")
        self.begun = True
        if len(self.buffer) == 4 + size:  # nothing came with it: no copy
            frame, self.buffer = memoryview(self.buffer)[4:], bytearray()
            return (frame,)
        taken = bytes(memoryview(self.buffer)[4 : 4 + size])
        del self.buffer[: 4 + size]
        return (taken,)

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
            # Whoever notifies holds it: else he could write to whatever gets the descriptor's number next.
            with self._lock:
                self.wake = -1
                os.close(wake)

    def fill(self) -> None:
        """Read what there is. Raises Killed at the end of the stream."""
        try:
            data = self.socket.recv(RECEIVE)
        except OSError:
            data = b""
        if not data:
            raise Killed
        self.buffer += data
        # A large frame: make room once, and read the rest where it belongs.
        if len(self.buffer) >= 4:
            have, whole = len(self.buffer), 4 + int.from_bytes(self.buffer[:4], "little")
            if whole - have > RECEIVE:
                room = bytearray(whole)
                room[:have] = self.buffer
                self.buffer = room
                view = memoryview(room)[have:]
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

    def emit(self, *buffers: Buffer) -> None:
        """Send a frame, given as its buffers, to the host. Raises Killed when it is gone."""
        try:
            for piece in buffers if len(buffers) == 1 else _together(buffers):
                self.socket.sendall(piece)
        except OSError as error:
            raise Killed from error


def _together(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    """Small ones joined, so that whoever waits for them is woken once; large ones as they are, without a copy."""
    few: list[Buffer] = []
    size = 0
    for buffer in buffers:
        if size + len(buffer) > RECEIVE:
            if few:
                yield b"".join(few)
            few, size = [], 0
        if len(buffer) > RECEIVE:
            yield buffer
        else:
            few.append(buffer)
            size += len(buffer)
    if few:
        yield b"".join(few)
