"""Waiting for a descriptor."""

from __future__ import annotations

import select


def ready(fd: int, timeout: float) -> bool:
    """Whether `fd` can be read, or has ended, within `timeout` seconds. Unlike select() this takes any descriptor number."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout) * 1000))
