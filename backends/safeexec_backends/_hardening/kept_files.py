"""The files of a session as they were at its checkpoint: kept in the memory of a process of its sandbox, and put back.

The tree is the session's and may have been made to annoy: what cannot be kept is said, never waited for. Whoever walks it here has no more
rights than whoever made it, so a path that is exchanged under its feet leads nowhere the session could not go by itself.

Shipped into containers as text, next to folders.py: CPython 3.9 and later.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from safeexec_backends._hardening.folders import remove_tree
else:
    try:  # in a container: what was shipped comes first
        from safeexec_folders import remove_tree
    except ImportError:
        from safeexec_backends._hardening.folders import remove_tree

_RACY = 50_000_000
"""Nanoseconds: kernels before 6.13 stamp a tmpfs's files in ticks, so one that changed just before it was read may have changed again."""
_COMPARED = 2**20
"""Bytes up to which a file is read again however old its stamps are: what is written through a mapping leaves none."""
_MAX_ENTRIES = 20_000
_MAX_STEPS = 20 * _MAX_ENTRIES
"""Folders that the paths of all entries lead through: each is a look-up, several times while everybody waits."""
_ACCESS = 0o700
_PAGE = os.sysconf("SC_PAGE_SIZE")
"""What lies in memory takes whole pages, so a full disk may hold up to one more than its size says."""


class TooMuch(OSError):
    """More than can be kept."""


class _Entry(NamedTuple):
    mode: int
    inode: int
    """With its file system, as in ``open_files``."""
    size: int
    modified: int
    changed: int
    kept_at: int
    data: tuple[tuple[int, bytes], ...]
    """Of a file: its pieces, between which there are holes. Of a symbolic link: where it points."""


class KeptFiles:
    """What is below `roots`, which stay themselves; at most `limit` bytes of it."""

    def __init__(self, roots: tuple[str, ...], limit: int) -> None:
        self._roots = roots
        self._limit = limit
        self._entries: dict[str, _Entry] = {}
        self._own: dict[str, tuple[int, int]] = {}

    def save(self, mapped: bool, limit: int | None = None) -> None:
        """Keep the files as they are, at most `limit` bytes this time. `mapped`: there may be mappings of files, so that no stamp of theirs means
        anything. Raises OSError, MemoryError."""
        found: dict[str, _Entry] = {}
        seen: dict[int, _Entry] = {}
        left = self._limit if limit is None else min(limit, self._limit)
        roots = {root: os.stat(root) for root in self._roots}
        self._own = {root: _stamps(info) for root, info in roots.items()}
        shut: list[tuple[str, int]] = []
        steps = 0
        for path, info in _walk(roots, shut):
            steps += path.count("/")
            if len(found) >= _MAX_ENTRIES or steps > _MAX_STEPS:
                raise TooMuch(errno.EFBIG, "there are too many files")
            old = self._entries.get(path)
            entry = seen.get(_identity(info))
            if entry is None:
                keep = old is not None and old[:5] == _key(info) and info.st_ctime_ns < old.kept_at - _RACY
                if keep and (info.st_size <= _COMPARED or mapped) and stat.S_ISREG(info.st_mode):
                    keep = False
                now = time.time_ns()
                entry = old if keep and old is not None else _Entry(*_key(info), now, _contents(path, info, left))
                if old is not None and old.data == entry.data:
                    entry = entry._replace(data=old.data)  # which branches of the session may have as well
                seen[_identity(info)] = entry
                left -= sum(len(piece) for _, piece in entry.data)
                if left < 0:
                    raise TooMuch(errno.EFBIG, "the files are too large")
            found[path] = entry
        for folder, mode in shut:
            os.chmod(folder, mode)
        self._entries = found

    def twin(self) -> KeptFiles:
        """The same files, kept once more; what is in them is shared."""
        twin = KeptFiles(self._roots, self._limit)
        twin._entries, twin._own = self._entries, self._own
        return twin

    def make_room(self, coming: KeptFiles) -> None:
        """Empty the files that `coming` does not have: whoever is set aside may hold them open, and their room would be missing."""
        stays = {entry.inode for entry in coming._entries.values()}
        for path, entry in self._entries.items():
            if stat.S_ISREG(entry.mode) and entry.size and entry.inode not in stays:
                with suppress(OSError):
                    fd = _open(path, entry.mode, os.O_WRONLY)
                    try:
                        if _identity(os.fstat(fd)) == entry.inode:
                            os.ftruncate(fd, 0)
                    finally:
                        os.close(fd)

    def restore(self) -> dict[int, str]:
        """Put everything back. Which files are other files now than they were: paths by the inode that is gone. Raises OSError."""
        for root in self._roots:
            self._clear(root)
        # What is still there is what it was: the file under another of its names, say.
        names = {entry.inode: path for path, entry in self._entries.items() if os.path.lexists(path)}
        replaced: dict[int, str] = {}
        filled: set[int] = set()
        for path, entry in self._entries.items():  # from the roots to the leaves
            if not os.path.lexists(path):
                if stat.S_ISREG(entry.mode) and entry.inode not in names:
                    replaced[entry.inode] = path
                _make(path, entry, names.get(entry.inode))
                names[entry.inode] = path
            if stat.S_ISREG(entry.mode) and entry.inode not in filled:
                filled.add(entry.inode)
                _fill(path, entry)
        for path, entry in reversed(self._entries.items()):
            if not stat.S_ISLNK(entry.mode):
                os.chmod(path, stat.S_IMODE(entry.mode))
            os.utime(path, ns=(entry.modified, entry.modified), follow_symlinks=False)
        for root, (mode, modified) in self._own.items():
            os.chmod(root, mode)
            os.utime(root, ns=(modified, modified))
        return replaced

    def _clear(self, root: str) -> None:
        """Remove what was not there, however large, deep or shut it is, and what is something else now than it was."""
        device = os.stat(root).st_dev
        folders = [root]
        while folders:
            folder = folders.pop()
            os.chmod(folder, _ACCESS)
            for name in os.listdir(folder):
                path = f"{folder}/{name}"
                info = os.lstat(path)
                entry = self._entries.get(path)
                is_folder = stat.S_ISDIR(info.st_mode)
                if info.st_dev != device:
                    continue
                if entry is None or (entry.inode, stat.S_IFMT(entry.mode)) != (
                    _identity(info),
                    stat.S_IFMT(info.st_mode),
                ):
                    remove_tree(path) if is_folder else os.unlink(path)
                elif is_folder:
                    folders.append(path)


def _walk(roots: dict[str, os.stat_result], shut: list[tuple[str, int]]) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry, folders before what is in them; not what other file systems have there. Folders that their owner shut are opened, and
    listed in `shut` with their modes."""
    for root, own in roots.items():
        folders = [(root, own)]
        while folders:
            folder, info = folders.pop()
            mode = stat.S_IMODE(info.st_mode)
            if mode & _ACCESS != _ACCESS:
                shut.append((folder, mode))
                os.chmod(folder, _ACCESS)
            for name in sorted(os.listdir(folder)):
                path = f"{folder}/{name}"
                info = os.lstat(path)
                if info.st_dev != own.st_dev:
                    continue
                if stat.S_ISDIR(info.st_mode):
                    folders.append((path, info))
                elif not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
                    continue  # nothing else can be made here
                yield path, info


def _stamps(info: os.stat_result) -> tuple[int, int]:
    return stat.S_IMODE(info.st_mode), info.st_mtime_ns


def _identity(info: os.stat_result) -> int:
    # The roots may be file systems of their own, each of which counts its inodes from one.
    return info.st_dev << 64 | info.st_ino


def _key(info: os.stat_result) -> tuple[int, int, int, int, int]:
    return info.st_mode, _identity(info), info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _open(path: str, mode: int, flags: int) -> int:
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a link that was put in a file's place leads nowhere
    try:
        return os.open(path, flags)
    except PermissionError:
        os.chmod(path, _ACCESS)
        try:
            return os.open(path, flags)
        finally:
            os.chmod(path, stat.S_IMODE(mode))


def _contents(path: str, info: os.stat_result, limit: int) -> tuple[tuple[int, bytes], ...]:
    if stat.S_ISLNK(info.st_mode):
        return ((0, os.fsencode(os.readlink(path))),)
    if not stat.S_ISREG(info.st_mode) or not info.st_size:
        return ()
    # Not more than the disk holds: a file of nothing but holes can be as large as it likes.
    if info.st_blocks * 512 > limit + _PAGE:
        raise TooMuch(errno.EFBIG, "the files are too large")
    fd = _open(path, info.st_mode, os.O_RDONLY)
    try:
        # Another thread may have put a link in the place of its folder, and what is read now be a device, which has no end and no holes.
        if _key(os.fstat(fd))[:2] != _key(info)[:2]:
            raise TooMuch(errno.EBUSY, "the files change while they are kept")
        if info.st_blocks * 512 >= info.st_size:
            return ((0, _read(fd, 0, info.st_size)),)
        pieces: list[tuple[int, bytes]] = []
        place, left = 0, limit
        while True:
            try:
                start = os.lseek(fd, place, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # holes to the end
                    return tuple(pieces)
                raise
            place = os.lseek(fd, start, os.SEEK_HOLE)
            left -= place - start
            if left < -_PAGE:
                raise TooMuch(errno.EFBIG, "the files are too large")
            if place == start:  # somebody makes holes where they are looked for: it would never end
                raise TooMuch(errno.EBUSY, "the files change while they are kept")
            pieces.append((start, _read(fd, start, place - start)))
    finally:
        os.close(fd)


def _read(fd: int, start: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.pread(fd, size, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _make(path: str, entry: _Entry, twin: str | None) -> None:
    if stat.S_ISDIR(entry.mode):
        os.mkdir(path, _ACCESS)
    elif stat.S_ISLNK(entry.mode):
        os.symlink(os.fsdecode(entry.data[0][1]), path)
    elif twin is not None:
        os.link(twin, path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def _fill(path: str, entry: _Entry) -> None:
    fd = _open(path, entry.mode, os.O_RDWR)
    try:
        if os.fstat(fd).st_size == entry.size and len(entry.data) == 1 and len(entry.data[0][1]) == entry.size:
            if _read(fd, 0, entry.size) == entry.data[0][1]:
                return
        os.ftruncate(fd, 0)
        os.ftruncate(fd, entry.size)
        for start, piece in entry.data:
            view = memoryview(piece)
            while len(view):
                count = os.pwrite(fd, view, start)
                view, start = view[count:], start + count
    finally:
        os.close(fd)
