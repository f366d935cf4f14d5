"""What the host and a cell's keeper say to each other, and the keeper to a checkpoint that it wakes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

SETUP = ("init", "write", "rescan", "set", "tools")
"""Requests that run nobody's code: made again, they come to the same."""

PURE = ("get", "names", "list", "read")
"""Requests that leave a session as it was: no checkpoint is asked for after them."""

ORDER = struct.Struct("=cII")
"""What the host says: a kind, the session it is about, and the order's own number. A branch has that of the order it was made by."""
KEEP, GO, FORK, DROP = b"k", b"g", b"f", b"d"
"""The session's process will be told to keep its state, once; go (back) to its state; there is another with the same state; it has ended."""

MESSAGE = struct.Struct("=ciI")
"""What the keeper says: a kind, a number, and which order it answers; of a runner's end, which order had made it. Whoever asked may have been
interrupted before he heard the answer, and it must not be taken for another's."""
RUNNER, KEPT, MISSED, LOST, ENDED, FORKED, DROPPED = b"r", b"k", b"m", b"l", b"e", b"f", b"d"
"""A new runner, with its channel and its pidfd; the checkpoint was taken; it was not, and why; there is no way back; the runner's exit code; done;
done, and nothing is on its way that concerns the session."""
THREADS, FILES = 1, 2

COPY, MAPPED, CHANNEL, BUSY, OPEN = range(5)
"""What a runner asks its keeper for, as a note on a copy: one; one, and there may be mappings of files; its channel, now that it was woken. Or says:
that it cannot be copied because of its threads, or of its files."""

CHILDREN = 96
"""Where a keeper finds the list of its children, as far as the kernel writes one: it is asked only where no process can be made to count by."""

BRANCHES = 1000
"""Sessions that one cell may hold."""

_MOST = 2**16


def replaced(paths: dict[int, str]) -> bytes:
    """Files that are other files now than they were, as one message."""
    while len(data := json.dumps(paths).encode()) >= _MOST:
        paths = dict(list(paths.items())[: len(paths) // 2])
    return len(data).to_bytes(4, "little") + data


def read_replaced(read: Callable[[int], bytes]) -> dict[int, str]:
    """The same, at the other end. Raises EOFError."""
    data = b""
    size = 4
    while len(data) < size:
        part = read(size - len(data))
        if not part:
            raise EOFError
        data += part
        if len(data) == 4:
            size = 4 + int.from_bytes(data, "little")
    return {int(inode): path for inode, path in json.loads(data[4:]).items()}
