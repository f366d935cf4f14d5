"""What the host and a cell's keeper say to each other, and the keeper to a checkpoint that it wakes."""

from __future__ import annotations

import json
import struct

SETUP = ("init", "write", "rescan", "set", "tools")
"""Requests that run nobody's code. Who watches over a session has answered no others; a process answers others only when sealed."""

KEEP, BACK = b"k", b"b"
"""The host's orders: the runner will be told to keep its state, once; go back."""

MESSAGE = struct.Struct("=ci")
"""What the keeper says: a kind and a number."""
RUNNER, KEPT, MISSED, LOST, ENDED = b"r", b"k", b"m", b"l", b"e"
"""A new runner, with its channel and its pidfd; the checkpoint was taken; it was not, and why; there is no way back; the runner's exit code."""
THREADS, FILES = 1, 2

MOST = 2**16


def replaced(paths: dict[int, str]) -> bytes:
    """Files that are other files now than they were, for one message."""
    while len(data := json.dumps(paths).encode()) >= MOST:
        paths = dict(list(paths.items())[: len(paths) // 2])
    return data


def read_replaced(data: bytes) -> dict[int, str]:
    return {int(inode): path for inode, path in json.loads(data).items()}
