"""Waiting for a descriptor."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket


def ready(fd: int, timeout: float) -> bool:
    """Whether `fd` can be read, or has ended, within `timeout` seconds. Unlike select() this takes any descriptor number."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout) * 1000))


def writable(stream: socket.socket) -> bool:
    """Whether a short message would be taken at once."""
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))
