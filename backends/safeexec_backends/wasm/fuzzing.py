"""The file system under any sequence of calls: it answers or raises Errno, and its accounts are right afterwards."""

from __future__ import annotations

import stat
from collections.abc import Callable

from .errno import Errno
from .fs import FileSystem
from .fs_nodes import Directory, File, Node, Symlink, base_tree
from .fs_tree import Quota

_NAMES = (
    "a",
    "b",
    "a/b",
    "../a",
    "/tmp/x",
    "/sandbox/a",
    "a/../b",
    "l",
    "/base/f",
    "/base",
    ".",
    "..",
    "",
    "//a//",
    "l/a",
    "/dev/null",
    "x" * 300,
    "a/",
)
_QUOTA = Quota(bytes=20_000, inodes=12, open_files=8)


def one(data: bytes) -> None:
    """Run the calls that the bytes spell. Raises AssertionError when a quota was passed or an account is wrong."""
    fs = FileSystem(base_tree({"base/f": b"read only"}), _QUOTA)
    feed = iter(data)

    def byte() -> int:
        return next(feed)

    def name() -> str:
        return _NAMES[byte() % len(_NAMES)]

    try:
        while True:
            try:
                _call(fs, byte, name)
            except Errno:
                continue
    except StopIteration:
        _check(fs)


def _call(fs: FileSystem, byte: Callable[[], int], name: Callable[[], str]) -> None:
    kind = byte() % 14
    if kind == 0:
        fs.open(name(), byte() | byte() << 8, 0o644)
    elif kind == 1:
        fs.close(byte() % 12)
    elif kind == 2:
        fs.make_directory(name(), 0o755)
    elif kind == 3:
        fs.symlink(name(), name())
    elif kind == 4:
        fs.unlink(name())
    elif kind == 5:
        fs.remove_directory(name())
    elif kind == 6:
        fs.rename(name(), name())
    elif kind == 7:
        fs.change_directory(name())
    elif kind == 8:
        node = fs.get(byte() % 12).node
        if isinstance(node, File):
            fs.resize(node, (byte() << 8 | byte()) - 100)
    elif kind == 9:
        fs.duplicate(byte() % 12, byte() % 12)
    elif kind == 10:
        fs.duplicate_onto(byte() % 12, byte() % 12)
    elif kind == 11:
        fs.lookup(name(), follow=bool(byte() % 2))
    elif kind == 12:
        file = fs.get(byte() % 12)
        fs.seek_entry(file, byte())
        fs.entry(file)
    else:
        fs.path_of(fs.directory(name()))
    assert fs.used <= _QUOTA.bytes and fs.inodes <= _QUOTA.inodes and len(fs.files) <= _QUOTA.open_files, (
        "beyond a quota"
    )


def _check(fs: FileSystem) -> None:
    """Count everything that is reachable, and compare with what the file system believes."""
    seen: dict[int, Node] = {}
    links: dict[int, int] = {}
    pending: list[Directory] = [fs.root]
    while pending:
        for node in pending.pop().entries.values():
            if node.readonly:
                continue
            links[node.ino] = links.get(node.ino, 0) + 1
            if node.ino not in seen:
                seen[node.ino] = node
                if isinstance(node, Directory):
                    pending.append(node)
            assert not isinstance(node, Directory) or links[node.ino] == 1, "a directory has two names"
    for file in fs.files.values():
        if not file.node.readonly:
            seen.setdefault(file.node.ino, file.node)
    counted = [node for node in seen.values() if isinstance(node, File | Symlink)]
    used = sum(node.size for node in counted)
    assert used == fs.used, f"{used} bytes are there, {fs.used} are accounted for"
    for node in seen.values():
        assert stat.S_IFMT(node.mode) == node.kind
