"""A file system as a value: written down for a snapshot, read back from one.

What is read back is guest data from anywhere: only nodes, names and numbers that the guest could have made by system calls come of it, within the
quotas, or nothing does.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import Any, Final

from .fs import HELD_MAX, FileSystem, Open
from .fs_nodes import Device, Directory, File, Node, Symlink
from .fs_tree import DEVICES, GONE, NAME_MAX, PATH_MAX, REMOVED, Place, Quota

_MAX_TIME: Final = (1 << 63) * 1_000_000_000
"""Nanoseconds before and after 1970: 64 bits of seconds, as utimensat takes them and stat gives them."""
_FLAGS: Final = (1 << 32) - 1


class Malformed(Exception):
    """What should be a file system is none."""


# -- written down -----------------------------------------------------------------------------------------------------------


def dump(files: FileSystem, base: Mapping[str, Directory]) -> tuple[dict[str, Any], list[bytes | bytearray]]:
    """A file system as plain data, and the contents of its files."""
    return _Dump(files, base).result()


class _Dump:
    def __init__(self, files: FileSystem, base: Mapping[str, Directory]) -> None:
        self._files = files
        self._numbers: dict[int, int] = {}
        self._nodes: list[Any] = []
        self._contents: list[bytes | bytearray] = []
        self._tree = base
        self._base: dict[int, str] = {id(node): name for name, node in base.items()}

    def result(self) -> tuple[dict[str, Any], list[bytes | bytearray]]:
        files = self._files
        opened: dict[int, int] = {}
        table: list[Any] = []
        numbers: list[list[int]] = []
        root = self._number(files.root)
        for number, file in files.files.items():
            if id(file) not in opened:
                opened[id(file)] = len(table)
                table.append([self._number(file.node), file.flags, self._place(file.place), file.position, file.cursor])
            numbers.append([number, opened[id(file)]])
        header = {
            "root": root,
            "working": self._number(files.working),
            "cwd": self._place(files.cwd),
            "umask": files.umask,
            "open": table,
            "descriptors": numbers,
            "nodes": self._nodes,
        }
        return header, self._contents

    def _place(self, place: Place) -> list[Any]:
        return [[name, self._number(node)] for name, node in place]

    def _shared(self, node: Node) -> str:
        if id(node) not in self._base:  # most sessions lead to the tops of the shared trees only
            pending: list[tuple[str, Node]] = list(self._tree.items())
            while pending:
                path, found = pending.pop()
                self._base[id(found)] = path
                if isinstance(found, Directory):
                    pending += [(f"{path}/{name}", child) for name, child in found.entries.items()]
        return self._base[id(node)]

    def _number(self, node: Node) -> int | str:
        if node.readonly:
            return self._shared(node)
        if id(node) in self._numbers:
            return self._numbers[id(node)]
        first = self._write(node)
        pending = [node]
        while pending:
            parent = pending.pop()
            if not isinstance(parent, Directory):
                continue
            entries: dict[str, int | str] = {}
            for name, child in parent.entries.items():
                if child.readonly:
                    entries[name] = self._shared(child)
                elif id(child) in self._numbers:
                    entries[name] = self._numbers[id(child)]
                else:
                    entries[name] = self._write(child)
                    pending.append(child)
            self._nodes[self._numbers[id(parent)]][3] = entries
        return first

    def _write(self, node: Node) -> int:
        number = self._numbers[id(node)] = len(self._nodes)
        what: Any = None
        kind = "d"
        if isinstance(node, File):
            kind, what = "f", len(node.data)
            self._contents.append(node.share())  # type: ignore[arg-type]
        elif isinstance(node, Symlink):
            kind, what = "l", node.target
        elif isinstance(node, Device):
            kind, what = "c", node.name
        self._nodes.append([kind, stat.S_IMODE(node.mode), node.mtime, what, node.ino])
        return number


# -- read back --------------------------------------------------------------------------------------------------------------


def load(header: Any, contents: memoryview, base: Mapping[str, Directory], quota: Quota) -> FileSystem:
    """A file system of what `dump` wrote, or of what somebody else did. Raises Malformed."""
    try:
        return _Load(header, contents, base, quota).result
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Malformed(f"its files: {error}") from None


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Malformed(f"its files: {what}")


def _integer(value: Any, end: int) -> int:
    _require(type(value) is int and 0 <= value < end, "a number out of range")
    return int(value)


def _text(value: Any, limit: int) -> str:
    _require(type(value) is str and len(value) <= limit and "\0" not in value, "a malformed text")
    try:
        _require(len(value.encode(errors="surrogateescape")) <= limit, "a text that is too long")
    except UnicodeEncodeError:
        raise Malformed("its files: a text that no path can be") from None
    return str(value)


def _name(value: Any) -> str:
    name = _text(value, NAME_MAX)
    _require(name not in ("", ".", "..") and "/" not in name, "a malformed name")
    return name


class _Load:
    def __init__(self, header: Any, contents: memoryview, base: Mapping[str, Directory], quota: Quota) -> None:
        self._base = base
        self._quota = quota
        self._owned: set[int] = set()
        self._top = header["root"]
        fresh = FileSystem(base, quota)
        working = fresh.cwd[-1][0]
        extra = 20  # what a fresh tree has without asking the quota
        described = header["nodes"]
        _require(type(described) is list and len(described) <= quota.inodes + extra, "too many nodes (Limits.disk)")
        self._nodes: list[Node] = []
        place = 0
        for kind, mode, mtime, what, ino in described:
            node: Node
            if kind == "f":
                size = _integer(what, quota.bytes + 1)
                _require(place + size <= len(contents), "contents that are not there")
                node = File(bytearray(contents[place : place + size]))
                place += size
            elif kind == "l":
                node = Symlink(_text(what, PATH_MAX - 1))
                _require(bool(node.target), "an empty link")
            elif kind == "c":
                _require(what in DEVICES, "an unknown device")
                node = Device(what)
            else:
                _require(kind == "d", "a node of unknown kind")
                node = Directory()
            node.mode = node.kind | _integer(mode, 0o10000)
            node.mtime = _integer(mtime + _MAX_TIME, 2 * _MAX_TIME) - _MAX_TIME
            node.ino = _integer(ino, 1 << 53)  # what is in the guest's memory may know it: SQLite does
            self._nodes.append(node)
        _require(place == len(contents), "contents of no file")
        for number, ((kind, _, _, what, _), node) in enumerate(zip(described, self._nodes, strict=True)):
            if kind == "d":
                self._fill(node, what, number == self._top)
        files = self.result = fresh
        files.root = self._directory(header["root"])
        files.working = self._directory(header["working"])
        _require(not files.working.readonly, "a working directory that cannot be written")
        # Elsewhere it could be moved, which what is in the root cannot.
        _require(files.root.entries.get(working) is files.working, "a working directory in another place")
        _require(self._reaches_all(files.root), "directories that form no tree")
        files.cwd = self._place(header["cwd"])
        files.umask = _integer(header["umask"], 0o1000)
        self._open(header)
        self._count()

    def _fill(self, node: Node, entries: Any, root: bool) -> None:
        assert isinstance(node, Directory)
        _require(type(entries) is dict, "a malformed directory")
        for name, number in entries.items():
            child = self._node(number)
            if child.readonly:
                _require(root and name == number, "a shared file in another place")
            else:
                # One name for each: a tree with two ways to the same place, or a loop, could make the host walk it for ever, and no quota
                # counts second names, which a guest cannot make.
                _require(id(child) not in self._owned, "something with two names")
                self._owned.add(id(child))
                child.links += 1
            node.entries[_name(name)] = child

    def _node(self, number: Any) -> Node:
        if type(number) is str:
            node: Node | None = None
            entries: Mapping[str, Node] = self._base
            _require(len(number) <= PATH_MAX, "a shared file that is not here")
            for part in number.split("/"):
                node = entries.get(part)
                entries = node.entries if isinstance(node, Directory) else {}
            _require(node is not None, "a shared file that is not here")
            assert node is not None
            return node
        return self._nodes[_integer(number, len(self._nodes))]

    def _directory(self, number: Any) -> Directory:
        node = self._node(number)
        _require(isinstance(node, Directory), "a directory that is none")
        assert isinstance(node, Directory)
        return node

    def _reaches_all(self, root: Directory) -> bool:
        """Whether every directory is the root, below it, or below one that has no name any more; so that none is its own ancestor."""
        _require(id(root) not in self._owned and not root.readonly, "a root with a name")
        pending = [n for n in self._nodes if isinstance(n, Directory) and id(n) not in self._owned]
        seen = 0
        while pending:
            seen += 1
            pending += [n for n in pending.pop().entries.values() if isinstance(n, Directory) and not n.readonly]
        return seen == sum(isinstance(n, Directory) for n in self._nodes)

    def _place(self, steps: Any) -> Place:
        _require(type(steps) is list and 1 <= len(steps) <= self._quota.inodes + 20, "a malformed place")
        place: list[tuple[str, Directory]] = []
        for name, number in steps:
            place.append((_name(name) if place else "", self._directory(number)))
        _require(place[0][1] is self.result.root, "a place that does not begin at the root")
        return tuple(place)

    def _open(self, header: Any) -> None:
        files = self.result
        table, numbers = header["open"], header["descriptors"]
        limit = self._quota.open_files
        _require(type(table) is list and type(numbers) is list and len(numbers) <= limit, "too many open files")
        _require(len(table) <= len(numbers), "open files without a descriptor")
        opened = []
        files.held = 0
        for number, flags, place, position, cursor in table:
            files.held += len(place)
            _require(files.held <= HELD_MAX, "places that are too long")
            node = self._node(number)
            file = Open(node, _integer(flags, _FLAGS + 1), self._place(place))
            _require(not isinstance(node, Symlink), "a link that is open")
            _require(not (file.writable and node.readonly), "a shared file that is open for writing")
            _require(not (file.writable and isinstance(node, Directory)), "a directory that is open for writing")
            file.position, file.cursor = _integer(position, 1 << 62), _text(cursor, NAME_MAX)
            opened.append(file)
        files.files = {}
        for number, index in numbers:
            number = _integer(number, limit)
            _require(number not in files.files, "two files with one descriptor")
            file = files.files[number] = opened[_integer(index, len(opened))]
            file.shares += 1
            if file.shares == 1:
                file.node.opened += 1
        _require(all(file.shares for file in opened), "open files without a descriptor")

    def _count(self) -> None:
        """The quotas, counted anew: what the maker of the file says about them does not matter."""
        files = self.result
        for node in self._nodes:
            if isinstance(node, Directory) and not node.links:
                if node is files.root:
                    node.links = 1
                else:  # it was removed: somebody stands in it, or has it open
                    _require(not node.entries, "a removed directory that is not empty")
                    node.links = REMOVED if node.opened else GONE
            if not isinstance(node, Device) and node.links != GONE:
                files.inodes += 1
            if isinstance(node, File | Symlink):
                files.used += node.size
        files.inodes = max(0, files.inodes - 5)  # the directories of a fresh tree are not counted there either
        _require(files.used <= self._quota.bytes, "more bytes than Limits.disk")
        _require(files.inodes <= self._quota.inodes, "more files than Limits.disk allows")
