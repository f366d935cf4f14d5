"""What an in-memory file system is made of: files, directories, links and devices, without names of their own or quotas.

Nodes of the base are read-only and shared by all sessions.
"""

from __future__ import annotations

import bisect
import itertools
import os
import stat
import time
from collections.abc import Mapping
from typing import Final

from . import errno as e
from .errno import Errno

# Begun anywhere: a session that was restored from a snapshot keeps the numbers it had, and new files must not get the same.
_inode_numbers = itertools.count(int.from_bytes(os.urandom(5), "little") << 12)


RESOLUTION: Final = 1000
"""Nanoseconds between two times of a file. The guest's C library sets times by the microsecond: finer ones could not be copied from file to file."""


def now() -> int:
    """The time, as files have it."""
    return time.time_ns() // RESOLUTION * RESOLUTION


class Node:
    """An inode. `atime`, `mtime` and `ctime` are in nanoseconds since 1970; reading a file leaves `atime` as it is (as on a file system mounted with noatime)."""

    __slots__ = ("atime", "ctime", "ino", "links", "mode", "mtime", "opened", "readonly")
    kind = stat.S_IFREG

    def __init__(self, mode: int, *, readonly: bool = False) -> None:
        self.mode = self.kind | mode
        self.readonly = readonly
        self.ino = next(_inode_numbers)
        self.atime = self.mtime = self.ctime = 0 if readonly else now()
        self.links = 0
        self.opened = 0

    @property
    def size(self) -> int:
        """Bytes, as stat reports them."""
        return 0

    def touch(self) -> None:
        """Note that it changes now."""
        self.mtime = self.ctime = now()


class File(Node):
    """A regular file; in the base its data is an immutable view."""

    __slots__ = ("data", "shared")

    def __init__(self, data: bytearray | bytes | memoryview, mode: int = 0o644, *, readonly: bool = False) -> None:
        super().__init__(mode, readonly=readonly)
        self.data = data
        self.shared = False

    def share(self) -> bytearray | bytes | memoryview:
        """The data, for somebody who will keep it: it is not written to any more."""
        self.shared = True
        return self.data

    def own(self) -> bytearray:
        """The data, to be written to. Raises Errno(EROFS) in the base."""
        if not isinstance(self.data, bytearray):
            raise Errno(e.EROFS)
        if self.shared:
            self.data = bytearray(self.data)
            self.shared = False
        return self.data

    @property
    def size(self) -> int:
        return len(self.data)


class Directory(Node):
    """A directory."""

    __slots__ = ("_sorted", "entries")
    kind = stat.S_IFDIR

    def __init__(self, mode: int = 0o755, *, readonly: bool = False) -> None:
        super().__init__(mode, readonly=readonly)
        self.entries: dict[str, Node] = {}
        self._sorted: list[str] | None = None

    @property
    def size(self) -> int:
        return 4096

    def add(self, name: str, node: Node) -> None:
        """Give a node a name here."""
        if self._sorted is not None and name not in self.entries:
            bisect.insort(self._sorted, name)
        self.entries[name] = node

    def remove(self, name: str) -> Node:
        """Take a name away."""
        if self._sorted is not None:
            del self._sorted[bisect.bisect_left(self._sorted, name)]
        return self.entries.pop(name)

    def names(self) -> list[str]:
        """The names in order. One list for all that read the directory: a copy for each would let a guest fill the host's memory."""
        if self._sorted is None:
            self._sorted = sorted(self.entries)
        return self._sorted


class Symlink(Node):
    """A symbolic link."""

    __slots__ = ("target",)
    kind = stat.S_IFLNK

    def __init__(self, target: str) -> None:
        super().__init__(0o777)
        self.target = target

    @property
    def size(self) -> int:
        return len(self.target.encode(errors="surrogateescape"))


class Device(Node):
    """A character device, told apart by its name."""

    __slots__ = ("name",)
    kind = stat.S_IFCHR

    def __init__(self, name: str) -> None:
        super().__init__(0o666)
        self.name = name


def base_tree(files: Mapping[str, bytes | memoryview]) -> dict[str, Directory]:
    """Build the shared read-only directories from path -> content (paths without a leading slash)."""
    root = Directory(0o555, readonly=True)
    for path, data in files.items():
        directory = root
        *parents, name = path.split("/")
        for part in parents:
            below = directory.entries.setdefault(part, Directory(0o555, readonly=True))
            if not isinstance(below, Directory):
                raise ValueError(f"{path}: {part} is a file")
            directory = below
        directory.entries[name] = File(data, 0o444, readonly=True)
    return {name: node for name, node in root.entries.items() if isinstance(node, Directory)}
