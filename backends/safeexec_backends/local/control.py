"""Messages between the host and its zygote: u32 length, JSON, and file descriptors that travel with the length."""

from __future__ import annotations

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


def receive(sock: socket.socket, max_fds: int = 0) -> tuple[Message, list[int]]:
    """The next message and its descriptors, which the caller owns. Raises EOFError when the other side is gone, or OSError."""
    data, fds, flags, _ = socket.recv_fds(sock, 4, max_fds)
    try:
        if flags & socket.MSG_CTRUNC:
            raise OSError("file descriptors were lost on the way")
        data += _exactly(sock, 4 - len(data))
        return json.loads(_exactly(sock, int.from_bytes(data, "little"))), list(fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _exactly(sock: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = sock.recv(count - len(parts))
        if not part:
            raise EOFError("the other side closed the connection")
        parts += part
    return bytes(parts)
