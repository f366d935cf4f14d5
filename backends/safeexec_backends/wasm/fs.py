"""An in-memory POSIX file system: one session's tree and the files that it has open, both under quotas."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import Final

from . import errno as e
from .errno import Errno
from .fs_nodes import Directory, File, Node, Symlink
from .fs_tree import Place, Quota, Tree

O_WRONLY, O_RDWR, O_ACCMODE = 1, 2, 3
O_CREAT, O_EXCL, O_TRUNC, O_APPEND = 0o100, 0o200, 0o1000, 0o2000
O_DIRECTORY, O_NOFOLLOW, O_PATH = 0o200000, 0o400000, 0o10000000

HELD_MAX: Final = 50_000
"""Directories above all open files together. Each open file keeps them alive, removed ones too, which no quota sees, and a checkpoint copies them."""


class Open:
    """An open file description (shared by duplicated descriptors)."""

    __slots__ = ("cursor", "flags", "node", "place", "position", "shares")

    def __init__(self, node: Node, flags: int, place: Place) -> None:
        self.node = node
        self.flags = flags
        self.place = place
        self.position = 0
        self.shares = 0
        self.cursor = ""  # of a directory: the last name that was read

    @property
    def readable(self) -> bool:
        """Whether it was opened for reading."""
        return self.flags & O_ACCMODE != O_WRONLY and not self.flags & O_PATH

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & O_ACCMODE != 0


class FileSystem(Tree):
    """One session's files, those that are open among them."""

    def __init__(self, base: Mapping[str, Directory], quota: Quota) -> None:
        super().__init__(base, quota)
        self.held = 0
        self.files: dict[int, Open] = {}
        devices = self.root.entries["dev"]
        assert isinstance(devices, Directory)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            self._install(Open(devices.entries[name], O_WRONLY if number else 0, self.cwd[:1]), number)

    def open(self, path: str, flags: int, mode: int, start: Place | None = None) -> int:
        """open; returns the descriptor"""
        if flags & O_CREAT and flags & O_DIRECTORY:
            raise Errno(e.EINVAL)
        follow = not flags & O_NOFOLLOW and not (flags & O_CREAT and flags & O_EXCL)
        found = self.find(path, start, follow=follow)
        node, place = found.node, found.place
        wants_write = flags & O_ACCMODE != 0
        if node is None:
            if not flags & O_CREAT:
                raise Errno(e.ENOENT)
            if path.endswith("/"):
                raise Errno(e.EISDIR)
            self._room_for_descriptor(place)
            node = File(bytearray(), mode & 0o777 & ~self.umask)
            self._link(self._writable(place[-1][1]), found.name, node)
        elif flags & O_CREAT and flags & O_EXCL:
            raise Errno(e.EEXIST)
        elif isinstance(node, Symlink):
            raise Errno(e.ELOOP)
        elif isinstance(node, Directory):
            if wants_write or flags & O_CREAT:
                raise Errno(e.EISDIR)
            if node is not place[-1][1]:
                place = (*place, (found.name, node))
        elif flags & O_DIRECTORY:
            raise Errno(e.ENOTDIR)
        elif isinstance(node, File) and wants_write:
            if node.readonly:
                raise Errno(e.EROFS)
            if flags & O_TRUNC:
                self.resize(node, 0)
        return self._install(Open(node, flags, place))

    def _room_for_descriptor(self, place: Place = ()) -> None:
        if len(self.files) >= self.quota.open_files or self.held + len(place) > HELD_MAX:
            raise Errno(e.EMFILE)

    def _install(self, file: Open, at_least: int = 0) -> int:
        self._room_for_descriptor(() if file.shares else file.place)
        if at_least >= self.quota.open_files:
            raise Errno(e.EINVAL)
        number = at_least
        while number in self.files:
            number += 1
        self.files[number] = file
        file.shares += 1
        if file.shares == 1:
            file.node.opened += 1
            self.held += len(file.place)
        return number

    def get(self, number: int) -> Open:
        """An open file by its descriptor. Raises Errno(EBADF)."""
        file = self.files.get(number)
        if file is None:
            raise Errno(e.EBADF)
        return file

    def duplicate(self, number: int, at_least: int = 0) -> int:
        """dup, fcntl(F_DUPFD)"""
        return self._install(self.get(number), at_least)

    def duplicate_onto(self, number: int, wanted: int) -> int:
        """dup3"""
        file = self.get(number)
        if number == wanted:
            raise Errno(e.EINVAL)
        if not 0 <= wanted < self.quota.open_files:
            raise Errno(e.EBADF)
        if wanted in self.files:
            self.close(wanted)
        return self._install(file, wanted)

    def close(self, number: int) -> None:
        """close"""
        file = self.get(number)
        del self.files[number]
        file.shares -= 1
        if file.shares == 0:
            file.node.opened -= 1
            self.held -= len(file.place)
            if not file.node.readonly:
                self._forget(file.node)

    def entry(self, file: Open) -> tuple[str, Node] | None:
        """The next entry of an open directory, beginning with `.` and `..`; None at the end.

        Names that come or go meanwhile do not disturb the others: the place is kept as a name, not as a number.
        """
        node = file.node
        if not isinstance(node, Directory):
            raise Errno(e.ENOTDIR)
        position = file.position
        if position == 0:
            return ".", node
        if position == 1:
            return "..", file.place[-2][1] if len(file.place) > 1 else node
        names = node.names()
        place = 0 if position == 2 else bisect.bisect_right(names, file.cursor)
        return (names[place], node.entries[names[place]]) if place < len(names) else None

    def seek_entry(self, file: Open, position: int) -> None:
        """Move an open directory to the entry of this number."""
        if isinstance(file.node, Directory) and position > 2:
            names = file.node.names()
            file.cursor = names[min(position - 3, len(names) - 1)] if names else ""
