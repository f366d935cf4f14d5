"""System calls on paths: open, stat, directories, names."""

from __future__ import annotations

import stat
import struct
import time

from . import errno as e
from .errno import Errno
from .fs_nodes import Directory, File, Node, Symlink
from .fs_tree import NAME_MAX
from .host import Host
from .syscalls import AT_FDCWD, open_at, path_at, s32, start_at, syscall

AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR, AT_EMPTY_PATH = 0x100, 0x200, 0x1000
R_OK_W_OK_X_OK, W_OK, X_OK = 7, 2, 1
_TYPES = {stat.S_IFCHR: 2, stat.S_IFDIR: 4, stat.S_IFREG: 8, stat.S_IFLNK: 10}  # DT_CHR and its kind, of dirent.h
# struct stat: dev mode nlink uid gid rdev, size, blksize blocks, atime mtime ctime as (i64 s, i32 ns, padding), ino
_STAT = struct.Struct("<6Iqii" + "qi4x" * 3 + "Q")
# struct dirent: ino, off, reclen, type; the name is NUL-terminated in the rest
_DIRENT = struct.Struct("<QQHB")
_DIRENT_SIZE = 280
_UTIME_NOW, _UTIME_OMIT = 0x3FFFFFFF, 0x3FFFFFFE


def _stat(host: Host, buffer: int, node: Node) -> int:
    seconds, nanoseconds = divmod(node.mtime, 1_000_000_000)
    size = node.size
    links = max(node.links, 1)
    times = (seconds, nanoseconds) * 3
    host.memory.write(
        buffer, _STAT.pack(1, node.mode, links, 0, 0, 0, size, 4096, (size + 511) // 512, *times, node.ino)
    )
    return 0


@syscall("__syscall_openat", "iiii")
def openat(host: Host, directory: int, path: int, flags: int, arguments: int) -> int:
    mode = host.memory.u32(arguments) if arguments and flags & 0o100 else 0
    return host.files.open(path_at(host, path), flags, mode, start_at(host, directory))


@syscall("__syscall_stat64", "ii")
def stat64(host: Host, path: int, buffer: int) -> int:
    return _stat(host, buffer, host.files.lookup(path_at(host, path)))


@syscall("__syscall_lstat64", "ii")
def lstat64(host: Host, path: int, buffer: int) -> int:
    return _stat(host, buffer, host.files.lookup(path_at(host, path), follow=False))


@syscall("__syscall_fstat64", "ii")
def fstat64(host: Host, descriptor: int, buffer: int) -> int:
    return _stat(host, buffer, open_at(host, descriptor).node)


@syscall("__syscall_newfstatat", "iiii")
def newfstatat(host: Host, directory: int, path: int, buffer: int, flags: int) -> int:
    return _stat(host, buffer, _node(host, directory, path, flags))


def _node(host: Host, directory: int, path: int, flags: int) -> Node:
    name = path_at(host, path)
    if not name and flags & AT_EMPTY_PATH and directory != AT_FDCWD:
        return open_at(host, directory).node
    return host.files.lookup(name, start_at(host, directory), follow=not flags & AT_SYMLINK_NOFOLLOW)


@syscall("__syscall_faccessat", "iiii")
def faccessat(host: Host, directory: int, path: int, mode: int, flags: int) -> int:
    if mode & ~R_OK_W_OK_X_OK:
        raise Errno(e.EINVAL)
    node = _node(host, directory, path, flags)
    if mode & W_OK and node.readonly:
        raise Errno(e.EROFS)
    if mode & X_OK and not isinstance(node, Directory) and not node.mode & 0o111:
        raise Errno(e.EACCES)
    return 0


@syscall("__syscall_chdir", "i")
def chdir(host: Host, path: int) -> int:
    host.files.change_directory(path_at(host, path))
    return 0


@syscall("__syscall_fchdir", "i")
def fchdir(host: Host, descriptor: int) -> int:
    file = open_at(host, descriptor)
    if not isinstance(file.node, Directory):
        raise Errno(e.ENOTDIR)
    host.files.cwd = file.place
    return 0


@syscall("__syscall_getcwd", "ii")
def getcwd(host: Host, buffer: int, size: int) -> int:
    path = host.files.path_of(host.files.cwd).encode(errors="surrogateescape") + b"\0"
    if size == 0:
        raise Errno(e.EINVAL)
    if len(path) > size:
        raise Errno(e.ERANGE)
    host.memory.write(buffer, path)
    return len(path)


@syscall("__syscall_mkdirat", "iii")
def mkdirat(host: Host, directory: int, path: int, mode: int) -> int:
    host.files.make_directory(path_at(host, path), mode, start_at(host, directory))
    return 0


@syscall("__syscall_unlinkat", "iii")
def unlinkat(host: Host, directory: int, path: int, flags: int) -> int:
    remove = host.files.remove_directory if flags & AT_REMOVEDIR else host.files.unlink
    remove(path_at(host, path), start_at(host, directory))
    return 0


@syscall("__syscall_rmdir", "i")
def rmdir(host: Host, path: int) -> int:
    host.files.remove_directory(path_at(host, path))
    return 0


@syscall("__syscall_renameat", "iiii")
def renameat(host: Host, old_directory: int, old: int, new_directory: int, new: int) -> int:
    host.files.rename(
        path_at(host, old), path_at(host, new), start_at(host, old_directory), start_at(host, new_directory)
    )
    return 0


@syscall("__syscall_symlinkat", "iii")
def symlinkat(host: Host, target: int, directory: int, path: int) -> int:
    host.files.symlink(path_at(host, target), path_at(host, path), start_at(host, directory))
    return 0


@syscall("__syscall_readlinkat", "iiii")
def readlinkat(host: Host, directory: int, path: int, buffer: int, size: int) -> int:
    node = host.files.lookup(path_at(host, path), start_at(host, directory), follow=False)
    if not isinstance(node, Symlink) or size == 0:
        raise Errno(e.EINVAL)
    target = node.target.encode(errors="surrogateescape")[:size]
    host.memory.write(buffer, target)
    return len(target)


@syscall("__syscall_getdents64", "iii")
def getdents64(host: Host, descriptor: int, buffer: int, size: int) -> int:
    file = open_at(host, descriptor)
    # Memory first: the position must not move past what the guest did not get.
    host.memory.check(buffer, size)
    out = bytearray()
    while (entry := host.files.entry(file)) is not None:
        if len(out) + _DIRENT_SIZE > size:
            if not out:
                raise Errno(e.EINVAL)
            break
        name, node = entry
        if file.position >= 2:
            file.cursor = name
        file.position += 1
        kind = _TYPES[stat.S_IFMT(node.mode)]
        out += _DIRENT.pack(node.ino, file.position, _DIRENT_SIZE, kind)
        encoded = name.encode(errors="surrogateescape")[:NAME_MAX]
        out += encoded + bytes(_DIRENT_SIZE - _DIRENT.size - len(encoded))
    host.memory.write(buffer, out)
    return len(out)


def _change_mode(host: Host, node: Node, mode: int) -> int:
    if node.readonly:
        raise Errno(e.EROFS)
    node.mode = stat.S_IFMT(node.mode) | mode & 0o7777
    host.files.changes += 1  # or a checkpoint would take it for what it was
    return 0


@syscall("__syscall_chmod", "ii")
def chmod(host: Host, path: int, mode: int) -> int:
    return _change_mode(host, host.files.lookup(path_at(host, path)), mode)


@syscall("__syscall_fchmod", "ii")
def fchmod(host: Host, descriptor: int, mode: int) -> int:
    return _change_mode(host, open_at(host, descriptor).node, mode)


@syscall("__syscall_fchmodat2", "iiii")
def fchmodat2(host: Host, directory: int, path: int, mode: int, flags: int) -> int:
    return _change_mode(host, _node(host, directory, path, flags), mode)


def _change_owner(node: Node, user: int, group: int) -> int:
    # There is one user; giving a file to another is refused, as it is to anybody but root.
    if s32(user) not in (-1, 0) or s32(group) not in (-1, 0):
        raise Errno(e.EPERM)
    if node.readonly:
        raise Errno(e.EROFS)
    return 0


@syscall("__syscall_fchown32", "iii")
def fchown32(host: Host, descriptor: int, user: int, group: int) -> int:
    return _change_owner(open_at(host, descriptor).node, user, group)


@syscall("__syscall_fchownat", "iiiii")
def fchownat(host: Host, directory: int, path: int, user: int, group: int, flags: int) -> int:
    return _change_owner(_node(host, directory, path, flags), user, group)


@syscall("__syscall_utimensat", "iiii")
def utimensat(host: Host, directory: int, path: int, times: int, flags: int) -> int:
    # futimens passes no path
    node = _node(host, directory, path, flags) if path else open_at(host, directory).node
    if node.readonly:
        raise Errno(e.EROFS)
    now = time.time_ns()
    host.files.changes += 1
    if not times:
        node.mtime = now
        return 0
    # two struct timespec {i64 seconds; i32 nanoseconds; padding}; there is no separate access time
    seconds, nanoseconds = struct.unpack("<16xqi4x", host.memory.read(times, 32))
    if nanoseconds == _UTIME_NOW:
        node.mtime = now
    elif nanoseconds != _UTIME_OMIT:
        if not 0 <= nanoseconds < 1_000_000_000:
            raise Errno(e.EINVAL)
        node.mtime = seconds * 1_000_000_000 + nanoseconds
    return 0


@syscall("__syscall_truncate64", "il")
def truncate64(host: Host, path: int, size: int) -> int:
    node = host.files.lookup(path_at(host, path))
    if isinstance(node, Directory):
        raise Errno(e.EISDIR)
    if not isinstance(node, File):
        raise Errno(e.EINVAL)
    host.files.resize(node, size)
    return 0


def _statfs(host: Host, size: int, buffer: int) -> int:
    # struct statfs: u32 type bsize, u64 blocks bfree bavail files ffree, u32 fsid[2] namelen frsize flags
    quota, files = host.files.quota, host.files
    blocks, free = quota.bytes // 4096, (quota.bytes - files.used) // 4096
    inodes = quota.inodes
    data = struct.pack(
        "<2I5Q5I", 0x01021994, 4096, blocks, free, free, inodes, inodes - files.inodes, 0, 0, NAME_MAX, 4096, 0
    )
    if size < len(data):
        raise Errno(e.EINVAL)
    host.memory.write(buffer, data)
    return 0


@syscall("__syscall_statfs64", "iii")
def statfs64(host: Host, path: int, size: int, buffer: int) -> int:
    host.files.lookup(path_at(host, path))
    return _statfs(host, size, buffer)


@syscall("__syscall_fstatfs64", "iii")
def fstatfs64(host: Host, descriptor: int, size: int, buffer: int) -> int:
    open_at(host, descriptor)
    return _statfs(host, size, buffer)
