"""Messages between the host and its zygote: u32 length, JSON, and file descriptors that travel with the length."""

from __future__ import annotations

import errno
import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = dict[str, Any]


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message. Raises OSError."""
    body = json.dumps(message).encode()
    data = len(body).to_bytes(4, "little") + body
    sent = socket.send_fds(sock, [data], list(fds)) if fds else sock.send(data)
    if sent < len(data):
        sock.sendall(data[sent:])


class Lost(OSError):
    """This process had no place for all the descriptors that came. The message was read to its end: what follows it is the next one."""

    def __init__(self, message: Message, fds: list[int]) -> None:
        super().__init__(errno.EMFILE, "Too many open files")
        self.message = message
        self.fds = fds
        """The first of them, for which there was one; the caller owns them."""


def receive(sock: socket.socket, max_fds: int = 0) -> tuple[Message, list[int]]:
    """The next message and its descriptors, which the caller owns. Raises EOFError when the other side is gone, Lost, or OSError."""
    data, fds, flags, _ = socket.recv_fds(sock, 4, max_fds)
    try:
        data += _exactly(sock, 4 - len(data))
        message: Message = json.loads(_exactly(sock, int.from_bytes(data, "little")))
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    if flags & socket.MSG_CTRUNC:
        raise Lost(message, list(fds))
    return message, list(fds)


def _exactly(sock: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = sock.recv(count - len(parts))
        if not part:
            raise EOFError("the other side closed the connection")
        parts += part
    return bytes(parts)
