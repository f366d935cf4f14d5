"""A file system copied, for a checkpoint or a branch. Copies share the contents of files until one side writes (`File.own`)."""

from __future__ import annotations

from .fs import FileSystem, Open
from .fs_nodes import Device, Directory, File, Node, Symlink
from .fs_tree import Place


def copy(files: FileSystem, last: FileSystem | None = None) -> FileSystem:
    """An independent copy: same names, open files and numbers. `last` is an earlier one, given back if it is the same."""
    if last is not None and _same(files, last):
        return last
    return _Copy(files).result


def _same(files: FileSystem, last: FileSystem) -> bool:
    """Whether nothing can have changed since `last`: no node did, and no file is open but the standard streams."""
    if files.changes != last.changes or files.umask != last.umask or len(files.files) != 3 or len(last.files) != 3:
        return False
    if [name for name, _ in files.cwd] != [name for name, _ in last.cwd]:
        return False
    for number, file in files.files.items():
        other = last.files.get(number)
        if other is None or file.shares != other.shares or file.flags != other.flags or file.position != other.position:
            return False
        one, two = file.node, other.node
        if not isinstance(one, Device) or not isinstance(two, Device) or one.ino != two.ino:
            return False
    return True


class _Copy:
    def __init__(self, files: FileSystem) -> None:
        self._nodes: dict[int, Node] = {}
        self._places: dict[Place, Place] = {}
        twin = self.result = FileSystem.__new__(FileSystem)
        twin.quota, twin.used, twin.inodes, twin.held = files.quota, files.used, files.inodes, files.held
        twin.changes, twin.umask = files.changes, files.umask
        twin.root = self._directory(files.root)
        twin.working = self._directory(files.working)
        twin.cwd = self._place(files.cwd)
        opened: dict[int, Open] = {}
        twin.files = {}
        for number, file in files.files.items():
            other = opened.get(id(file))
            if other is None:
                other = opened[id(file)] = Open(self._node(file.node), file.flags, self._place(file.place))
                other.position, other.cursor, other.shares = file.position, file.cursor, file.shares
            twin.files[number] = other

    def _directory(self, node: Directory) -> Directory:
        twin = self._node(node)
        assert isinstance(twin, Directory)
        return twin

    def _place(self, place: Place) -> Place:
        twin = self._places.get(place)
        if twin is None:
            twin = self._places[place] = tuple((name, self._directory(node)) for name, node in place)
        return twin

    def _node(self, node: Node) -> Node:
        if node.readonly:
            return node
        twin = self._nodes.get(id(node))
        if twin is not None:
            return twin
        # Not by recursion: a guest can nest directories as deep as its quota goes.
        twin = self._shallow(node)
        pending = [(node, twin)]
        while pending:
            old, new = pending.pop()
            if isinstance(old, Directory) and isinstance(new, Directory):
                for name, child in old.entries.items():
                    known = child if child.readonly else self._nodes.get(id(child))
                    if known is None:
                        known = self._shallow(child)
                        if isinstance(child, Directory):
                            pending.append((child, known))
                    new.entries[name] = known
        return twin

    def _shallow(self, node: Node) -> Node:
        kind = type(node)
        twin = kind.__new__(kind)
        twin.mode, twin.readonly, twin.ino = node.mode, False, node.ino
        twin.atime, twin.mtime, twin.ctime = node.atime, node.mtime, node.ctime
        twin.links, twin.opened = node.links, node.opened
        if isinstance(node, File) and isinstance(twin, File):
            twin.data = node.share()
            twin.shared = True
        elif isinstance(node, Directory) and isinstance(twin, Directory):
            twin.entries = {}
            twin._sorted = None if node._sorted is None else list(node._sorted)
        elif isinstance(node, Symlink) and isinstance(twin, Symlink):
            twin.target = node.target
        elif isinstance(node, Device) and isinstance(twin, Device):
            twin.name = node.name
        self._nodes[id(node)] = twin
        return twin
