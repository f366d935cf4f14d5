"""The names and nodes of one session: one writable tree over a base that all sessions share.

The base is never copied: its directories appear in the session's root, writes below them fail with EROFS. Everything the guest can
make grow (bytes, inodes, path length) has a quota, so that a session cannot use the host's memory up. There is one user, who owns everything;
permission bits are kept but only the read-only base is enforced.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from . import errno as e
from .errno import Errno
from .fs_nodes import Device, Directory, File, Node, Symlink, now

PATH_MAX: Final = 4096
NAME_MAX: Final = 255
MAX_LINKS: Final = 40
_WORKING: Final = "sandbox"
"""The working directory, in the root."""
DEVICES: Final = ("null", "zero", "random", "urandom", "stdin", "stdout", "stderr")

REMOVED: Final = -1
"""`links` of a directory that was removed."""
GONE: Final = -2
"""`links` of one that the quota has back, too; only a guest that stands in it can still reach it."""


class Quota(NamedTuple):
    """What one session may use."""

    bytes: int = 64 << 20
    inodes: int = 10_000
    open_files: int = 256


# A place in the tree: the directories from the root, each with its name. `..` goes up along it.
Place = tuple[tuple[str, Directory], ...]


class Found(NamedTuple):
    """Where a path leads: the directory it would live in, its name there, and the node if it exists."""

    place: Place
    name: str
    node: Node | None


class Tree:
    """Names and nodes of one session. `base` maps names in the root to shared read-only directories."""

    def __init__(self, base: Mapping[str, Directory], quota: Quota) -> None:
        self.quota = quota
        self.used = 0
        self.inodes = 0
        self.changes = 0  # counts every change, so that the host knows when to look again
        self.umask = 0o022
        self.root = Directory()
        self.root.entries.update(base)
        devices = Directory()
        for name in DEVICES:
            devices.entries[name] = Device(name)
        self.working = Directory()
        self.root.entries.update(dev=devices, tmp=Directory(0o1777), home=Directory(), **{_WORKING: self.working})
        for node in (self.root, *self.root.entries.values(), *devices.entries.values()):
            if not node.readonly:
                node.links = 1  # or closing one would give back an inode that was never taken
        self.cwd: Place = (("", self.root), (_WORKING, self.working))

    # Paths

    def find(self, path: str, start: Place | None = None, *, follow: bool = True) -> Found:
        """Resolve a path from `start` (default: the working directory). Raises Errno."""
        links = 0
        if not path:
            raise Errno(e.ENOENT)
        place = list(self.cwd if start is None else start)
        pending = self._split(path)
        if path[0] == "/":
            del place[1:]
        must_be_directory = path[-1] == "/"
        while pending:
            name = pending.pop()
            directory = place[-1][1]
            if name == "..":
                if len(place) > 1:
                    place.pop()
                continue
            node = directory.entries.get(name)
            if node is None:
                if pending:
                    raise Errno(e.ENOENT)
                return Found(tuple(place), name, None)
            if isinstance(node, Symlink) and (pending or follow or must_be_directory):
                links += 1
                if links > MAX_LINKS:
                    raise Errno(e.ELOOP)
                target = node.target
                pending += self._split(target)
                if len(pending) > PATH_MAX:
                    raise Errno(e.ENAMETOOLONG)
                if target[0] == "/":
                    del place[1:]
                continue
            if not pending:
                if must_be_directory and not isinstance(node, Directory):
                    raise Errno(e.ENOTDIR)
                return Found(tuple(place), name, node)
            if not isinstance(node, Directory):
                raise Errno(e.ENOTDIR)
            place.append((name, node))
        # The path was `/`, or ended in `.`, `..` or a link to such a thing.
        return Found(tuple(place[:-1] or place), *place[-1])

    @staticmethod
    def _split(path: str) -> list[str]:
        parts = [part for part in path.split("/") if part and part != "."]
        if any(len(part) > NAME_MAX // 4 and len(part.encode(errors="surrogateescape")) > NAME_MAX for part in parts):
            raise Errno(e.ENAMETOOLONG)
        parts.reverse()
        return parts

    def lookup(self, path: str, start: Place | None = None, *, follow: bool = True) -> Node:
        """The node at a path. Raises Errno(ENOENT)."""
        node = self.find(path, start, follow=follow).node
        if node is None:
            raise Errno(e.ENOENT)
        return node

    def _absent(self, path: str, start: Place | None) -> tuple[Directory, str]:
        """The directory and the name for something new."""
        found = self.find(path, start, follow=False)
        if found.node is not None:
            raise Errno(e.EEXIST)
        return self._writable(found.place[-1][1]), found.name

    def _present(self, path: str, start: Place | None) -> tuple[Directory, str, Node]:
        """The directory, the name and the node of something that is to go."""
        last = path.rstrip("/").rsplit("/", 1)[-1]
        if last in (".", ""):
            raise Errno(e.EINVAL if last else e.EBUSY)
        if last == "..":
            raise Errno(e.ENOTEMPTY)
        found = self.find(path, start, follow=False)
        if found.node is None or not self._named(found):
            raise Errno(e.ENOENT)
        return self._writable(found.place[-1][1]), found.name, found.node

    @staticmethod
    def _named(found: Found) -> bool:
        # A working directory that was removed, or moved, is still found by `.` and by links to it, under the name it once had.
        directory = found.place[-1][1]
        return isinstance(directory, Directory) and directory.entries.get(found.name) is found.node

    @staticmethod
    def _writable(directory: Directory) -> Directory:
        if directory.readonly:
            raise Errno(e.EROFS)
        return directory

    def path_of(self, place: Place) -> str:
        """A place as an absolute path."""
        return "/" + "/".join(name for name, _ in place[1:])

    # Links between names and nodes, with the quotas

    def _link(self, directory: Directory, name: str, node: Node) -> None:
        self._standing(directory)
        if self.inodes >= self.quota.inodes:
            raise Errno(e.ENOSPC)
        if isinstance(node, Symlink):
            self._take(node.size)
        self.inodes += 1
        self.changes += 1
        node.links += 1
        directory.add(name, node)
        directory.mtime = directory.ctime = node.mtime

    def _unlink(self, directory: Directory, name: str) -> None:
        node = directory.remove(name)
        self.touch(directory)
        if node.readonly:
            return
        node.links = REMOVED if isinstance(node, Directory) else node.links - 1
        self._forget(node)

    @staticmethod
    def _standing(directory: Directory) -> None:
        # Nothing is made in a removed directory, whoever still stands in it: no quota would see what is only there, and a guest that enters
        # and removes one after the other would build a path without end in the host's memory.
        if directory.links < 0:
            raise Errno(e.ENOENT)

    def _forget(self, node: Node) -> None:
        """Give back what a node used once nothing leads to it."""
        if node.links <= 0 and node.opened == 0 and node.links != GONE:
            # Once: whoever stands in a removed directory can open and close it for ever.
            node.links = GONE
            if not isinstance(node, Device):  # those were never counted
                self.inodes -= 1
            if isinstance(node, Symlink):
                self.used -= node.size
            elif isinstance(node, File):
                self.used -= len(node.data)
                node.data = bytearray()
                node.shared = False

    def resize(self, node: File, size: int) -> bytearray:
        """Give a file another size. Raises Errno(EFBIG, ENOSPC or EROFS)."""
        if size < 0:
            raise Errno(e.EINVAL)
        data = node.own()
        growth = size - len(data)
        if growth > 0:
            # Asked before allocated: seeking far out and writing a byte must not cost the host the gap.
            if size > self.quota.bytes:
                raise Errno(e.EFBIG)
            self._take(growth)
            data.extend(bytes(growth))
        else:
            del data[size:]
            self.used += growth
        self.touch(node)
        return data

    def _take(self, count: int) -> None:
        """Take bytes from the quota. Raises Errno(ENOSPC)."""
        if self.used + count > self.quota.bytes:
            raise Errno(e.ENOSPC)
        self.used += count

    def touch(self, node: Node) -> None:
        """Note that a node has changed."""
        self.changes += 1
        node.touch()

    def change_mode(self, node: Node, mode: int) -> None:
        """chmod. Raises Errno(EROFS)."""
        if node.readonly:
            raise Errno(e.EROFS)
        node.mode = node.kind | mode & 0o7777
        self.changes += 1
        node.ctime = now()

    def change_times(self, node: Node, accessed: int | None, modified: int | None) -> None:
        """utimensat; None leaves a time as it is. Raises Errno(EROFS)."""
        if node.readonly:
            raise Errno(e.EROFS)
        node.atime = node.atime if accessed is None else accessed
        node.mtime = node.mtime if modified is None else modified
        self.changes += 1
        node.ctime = now()

    # Directory operations

    def make_directory(self, path: str, mode: int, start: Place | None = None) -> None:
        """mkdir"""
        directory, name = self._absent(path, start)
        self._link(directory, name, Directory(mode & 0o1777 & ~self.umask))

    def symlink(self, target: str, path: str, start: Place | None = None) -> None:
        """symlink"""
        if not target:
            raise Errno(e.ENOENT)
        directory, name = self._absent(path, start)
        self._link(directory, name, Symlink(target))

    def unlink(self, path: str, start: Place | None = None) -> None:
        """unlink"""
        directory, name, node = self._present(path, start)
        if isinstance(node, Directory):
            raise Errno(e.EISDIR)
        self._unlink(directory, name)

    def remove_directory(self, path: str, start: Place | None = None) -> None:
        """rmdir"""
        directory, name, node = self._present(path, start)
        if not isinstance(node, Directory):
            raise Errno(e.ENOTDIR)
        self._may_vanish(node, directory)
        self._unlink(directory, name)

    def _may_vanish(self, node: Directory, parent: Directory) -> None:
        if node.readonly:
            raise Errno(e.EROFS)
        if node.entries:
            raise Errno(e.ENOTEMPTY)
        if parent is self.root:
            raise Errno(e.EBUSY)

    def rename(self, old: str, new: str, old_start: Place | None = None, new_start: Place | None = None) -> None:
        """rename, replacing what is there as POSIX says"""
        directory, name, node = self._present(old, old_start)
        if node.readonly or (directory is self.root and isinstance(node, Directory)):
            raise Errno(e.EROFS if node.readonly else e.EBUSY)
        found = self.find(new, new_start, follow=False)
        target = self._writable(found.place[-1][1])
        if isinstance(node, Directory) and self._leads_to(node, found.place):
            # Into itself: the tree would lose its root, and whoever walks it would not come to an end.
            raise Errno(e.EINVAL)
        if not isinstance(node, Directory) and new.endswith("/"):
            raise Errno(e.ENOTDIR)
        there = found.node
        if there is node:
            return
        self._standing(target)
        if not self._named(found):
            raise Errno(e.EBUSY)
        if there is not None:
            if isinstance(there, Directory):
                if not isinstance(node, Directory):
                    raise Errno(e.EISDIR)
                self._may_vanish(there, target)
            elif isinstance(node, Directory):
                raise Errno(e.ENOTDIR)
            self._unlink(target, found.name)
        directory.remove(name)
        target.add(found.name, node)
        self.touch(directory)
        self.touch(target)
        node.ctime = now()

    def _leads_to(self, node: Directory, place: Place) -> bool:
        """Whether the last directory of a place is `node`, or below it."""
        if place[0][1] is self.root and all(
            above.entries.get(name) is below for (_, above), (name, below) in itertools.pairwise(place)
        ):
            return any(node is above for _, above in place)
        # Directories above it were moved since it was entered: the place tells the way it once was.
        target = place[-1][1]
        if node is target:
            return True
        pending = [node]
        while pending:
            below = [child for child in pending.pop().entries.values() if isinstance(child, Directory)]
            if any(child is target for child in below):
                return True
            pending += below
        return False

    def change_directory(self, path: str) -> None:
        """chdir"""
        self.cwd = self.directory(path)

    def directory(self, path: str) -> Place:
        """The place that a directory's path means."""
        found = self.find(path)
        if found.node is None:
            raise Errno(e.ENOENT)
        if not isinstance(found.node, Directory):
            raise Errno(e.ENOTDIR)
        if found.node is found.place[-1][1]:
            return found.place  # the root
        return (*found.place, (found.name, found.node))

    # The host's own access

    def walk(self) -> Iterator[tuple[str, File]]:
        """Every regular file below the working directory, with its relative path, unless that is too long to be used.

        A guest can go down one directory at a time as far as its quota reaches: the paths of what is there, megabytes each, are in no quota.
        """
        prefix, directory = "", self.working
        # What is left of each directory on the way down, and not the paths of all that is in them: those are in no quota either.
        above: list[tuple[str, Iterator[tuple[str, Node]]]] = []
        while True:
            room = PATH_MAX - len(prefix)
            for name, node in directory.entries.items():
                if isinstance(node, File) and len(name) <= room:
                    yield prefix + name, node
            above.append((prefix, reversed(directory.entries.items())))
            below = None
            while below is None:
                if not above:
                    return
                prefix, left = above[-1]
                room = PATH_MAX - len(prefix)
                below = next(((n, d) for n, d in left if isinstance(d, Directory) and len(n) <= room), None)
                if below is None:
                    above.pop()
            prefix, directory = f"{prefix}{below[0]}/", below[1]
