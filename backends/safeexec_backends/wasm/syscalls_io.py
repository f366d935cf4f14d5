"""System calls on open files: reading, writing, seeking, mapping, descriptors."""

from __future__ import annotations

import struct
from typing import Final

from . import errno as e
from .abi import MASK32, PAGE
from .errno import Errno
from .fs import O_APPEND, Open
from .fs_nodes import Device, Directory, File, Node
from .host import Host
from .syscalls import open_at, s32, syscall, wasi

F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
_LOCKS = (5, 6, 7, 12, 13, 14)  # F_GETLK, F_SETLK, F_SETLKW and their 64-bit forms
_F_UNLCK = 2
_MAX_VECTORS = 1024
_MAX_TRANSFER = 16 << 20  # larger reads and writes are partial, so that one call never costs the host more than this
_O_NONBLOCK = 0o4000
MAP_SHARED, PROT_WRITE = 1, 2


def _vectors(host: Host, array: int, count: int) -> list[tuple[int, int]]:
    """Read an iovec array and check all its ranges, before anything is done with any of them."""
    if count > _MAX_VECTORS:
        raise Errno(e.EINVAL)
    raw = struct.unpack(f"<{2 * count}I", host.memory.read(array, 8 * count))
    ranges = list(zip(raw[::2], raw[1::2], strict=True))
    for pointer, length in ranges:
        host.memory.check(pointer, length)
    return ranges


def _read(host: Host, file: Open, position: int | None, size: int) -> bytes | bytearray | memoryview:
    node = file.node
    if not file.readable:
        raise Errno(e.EBADF)
    size = min(size, _MAX_TRANSFER)
    if isinstance(node, File):
        start = file.position if position is None else position
        data = node.data[start : start + size]
        if position is None:
            file.position += len(data)
        return data
    if isinstance(node, Directory):
        raise Errno(e.EISDIR)
    if isinstance(node, Device) and node.name in ("random", "urandom"):
        return host.random(size)
    if isinstance(node, Device) and node.name == "zero":
        return bytes(size)
    return b""  # standard input is empty


def _write(host: Host, file: Open, position: int | None, data: bytes) -> int:
    node = file.node
    if not file.writable:
        raise Errno(e.EBADF)
    if isinstance(node, File):
        start = file.position if position is None else position
        if position is None and file.flags & O_APPEND:
            start = len(node.data)
        if data:
            end = start + len(data)
            content = host.files.resize(node, end) if end > len(node.data) else node.own()
            content[start:end] = data
            host.files.touch(node)
        if position is None:
            file.position = start + len(data)
    elif isinstance(node, Device) and node.name in ("stdout", "stderr"):
        host.output(1 if node.name == "stdout" else 2, data)
    return len(data)


def _read_all(host: Host, descriptor: int, array: int, count: int, position: int | None, result: int) -> None:
    file = open_at(host, descriptor)
    ranges = _vectors(host, array, count)
    host.memory.check(result, 4)
    total = 0
    for pointer, length in ranges:
        data = _read(host, file, None if position is None else position + total, length)
        host.memory.write(pointer, data)
        total += len(data)
        if len(data) < length or total >= _MAX_TRANSFER:
            break
    host.memory.set_u32(result, total)


def _write_all(host: Host, descriptor: int, array: int, count: int, position: int | None, result: int) -> None:
    file = open_at(host, descriptor)
    ranges = _vectors(host, array, count)
    host.memory.check(result, 4)
    total = 0
    for pointer, length in ranges:
        data = host.memory.read(pointer, min(length, _MAX_TRANSFER))
        try:
            total += _write(host, file, None if position is None else position + total, data)
        except Errno:
            if total == 0:
                raise
            break
        if len(data) < length or total >= _MAX_TRANSFER:
            break
    host.memory.set_u32(result, total)


@wasi("fd_read", "iiii")
def fd_read(host: Host, descriptor: int, array: int, count: int, result: int) -> None:
    _read_all(host, descriptor, array, count, None, result)


@wasi("fd_write", "iiii")
def fd_write(host: Host, descriptor: int, array: int, count: int, result: int) -> None:
    _write_all(host, descriptor, array, count, None, result)


def _is_stream(node: Node) -> bool:
    # The other devices have a place that is always 0, as on Linux: whoever opens os.devnull to append looks for its end.
    return isinstance(node, Device) and node.name.startswith("std")


def _seekable(host: Host, descriptor: int, position: int) -> int:
    node = open_at(host, descriptor).node
    if _is_stream(node) or isinstance(node, Directory):
        raise Errno(e.ESPIPE)
    if position < 0:
        raise Errno(e.EINVAL)
    return position


@wasi("fd_pread", "iiili")
def fd_pread(host: Host, descriptor: int, array: int, count: int, position: int, result: int) -> None:
    _read_all(host, descriptor, array, count, _seekable(host, descriptor, position), result)


@wasi("fd_pwrite", "iiili")
def fd_pwrite(host: Host, descriptor: int, array: int, count: int, position: int, result: int) -> None:
    _write_all(host, descriptor, array, count, _seekable(host, descriptor, position), result)


@wasi("fd_seek", "ilii")
def fd_seek(host: Host, descriptor: int, offset: int, whence: int, result: int) -> None:
    file = open_at(host, descriptor)
    node = file.node
    if _is_stream(node):
        raise Errno(e.ESPIPE)
    if isinstance(node, Device):
        host.memory.set_u64(result, 0)
        return
    if whence > 2:
        raise Errno(e.EINVAL)
    start = (0, file.position, len(node.data) if isinstance(node, File) else 0)[whence]
    position = start + offset
    if not 0 <= position < 1 << 62:
        raise Errno(e.EINVAL)
    host.memory.set_u64(result, position)
    file.position = position
    host.files.seek_entry(file, position)


@wasi("fd_close", "i")
def fd_close(host: Host, descriptor: int) -> None:
    host.files.close(descriptor)


@wasi("fd_sync", "i")
def fd_sync(host: Host, descriptor: int) -> None:
    open_at(host, descriptor)


@wasi("fd_fdstat_get", "ii")
def fd_fdstat_get(host: Host, descriptor: int, buffer: int) -> None:
    node = open_at(host, descriptor).node
    # No device is called a character device here: isatty() would take that for a terminal.
    kind = 0 if isinstance(node, Device) else 3 if isinstance(node, Directory) else 4
    host.memory.write(buffer, bytes((kind,)) + bytes(23))


@syscall("__syscall_fdatasync", "i")
def fdatasync(host: Host, descriptor: int) -> int:
    open_at(host, descriptor)
    return 0


@syscall("__syscall_fadvise64", "illi")
def fadvise64(host: Host, descriptor: int, _offset: int, _length: int, _advice: int) -> int:
    open_at(host, descriptor)
    return 0


def _regular(host: Host, descriptor: int) -> File:
    file = open_at(host, descriptor)
    if not isinstance(file.node, File) or not file.writable:
        raise Errno(e.EINVAL)
    return file.node


@syscall("__syscall_ftruncate64", "il")
def ftruncate64(host: Host, descriptor: int, size: int) -> int:
    host.files.resize(_regular(host, descriptor), size)
    return 0


@syscall("__syscall_fallocate", "iill")
def fallocate(host: Host, descriptor: int, mode: int, offset: int, length: int) -> int:
    node = _regular(host, descriptor)
    if mode or offset < 0 or length <= 0:
        raise Errno(e.EINVAL)
    if offset + length > len(node.data):
        host.files.resize(node, offset + length)
    return 0


@syscall("__syscall_dup", "i")
def dup(host: Host, descriptor: int) -> int:
    return host.files.duplicate(descriptor)


@syscall("__syscall_dup3", "iii")
def dup3(host: Host, descriptor: int, wanted: int, _flags: int) -> int:
    return host.files.duplicate_onto(descriptor, s32(wanted))


@syscall("__syscall_fcntl64", "iii")
def fcntl64(host: Host, descriptor: int, command: int, arguments: int) -> int:
    file = open_at(host, descriptor)
    if command in (F_DUPFD, F_DUPFD_CLOEXEC):
        return host.files.duplicate(descriptor, host.memory.u32(arguments))
    if command in (F_GETFD, F_SETFD):
        return 0
    if command == F_GETFL:
        return file.flags
    if command == F_SETFL:
        changeable = O_APPEND | _O_NONBLOCK
        file.flags = file.flags & ~changeable | host.memory.u32(arguments) & changeable
        return 0
    if command in _LOCKS:
        # One process: no lock is ever held by another. F_GETLK answers that in the structure's first field.
        if command in (5, 12):
            lock = host.memory.u32(arguments)
            host.memory.write(lock, struct.pack("<H", _F_UNLCK))
        return 0
    raise Errno(e.EINVAL)


@syscall("__syscall_ioctl", "iii")
def ioctl(host: Host, descriptor: int, _request: int, _arguments: int) -> int:
    open_at(host, descriptor)
    raise Errno(e.ENOTTY)


@syscall("__syscall_pipe", "i")
def pipe(_host: Host, _descriptors: int) -> int:
    raise Errno(e.ENOSYS)


@syscall("__syscall_poll", "iii")
def poll(host: Host, array: int, count: int, timeout: int) -> int:
    if count > _MAX_VECTORS:
        raise Errno(e.EINVAL)
    ready = 0
    events = bytearray(host.memory.read(array, 8 * count))
    for offset in range(0, len(events), 8):
        descriptor, wanted = struct.unpack_from("<iH", events, offset)
        happened = 0
        if descriptor >= 0:
            happened = wanted & 5 if descriptor in host.files.files else 0x20  # POLLIN | POLLOUT, POLLNVAL
        ready += happened != 0
        struct.pack_into("<H", events, offset + 6, happened)
    if not ready and timeout:
        host.sleep(timeout / 1000 if s32(timeout) > 0 else float(1 << 32))
    host.memory.write(array, events)
    return ready


# A mapping that is written back must know its file when the guest has closed the descriptor: by then another file may have the number. So it has a
# descriptor of its own, up where programs have none, and the number lies behind the mapping in the guest's memory. Like all descriptors it is
# counted, kept and copied; a guest that changes the number names another of its own files.
_OWN_DESCRIPTOR: Final = 128
_FEW: Final = 64
_TRAILER: Final = struct.Struct("<4sI")
_MARK: Final = b"mmap"


def _rounded(length: int) -> int:
    return (length + PAGE - 1) // PAGE * PAGE


@syscall("_mmap_js", "iiiilii")
def mmap(
    host: Host, length: int, protection: int, flags: int, descriptor: int, offset: int, allocated: int, address: int
) -> int:
    file = open_at(host, descriptor)
    node = file.node
    if not isinstance(node, File):
        raise Errno(e.ENODEV)
    if length == 0 or offset < 0:
        raise Errno(e.EINVAL)
    host.memory.check(allocated, 4)
    host.memory.check(address, 4)
    size = _rounded(length)
    if size > MASK32 - PAGE or size > host.max_pages * PAGE:
        raise Errno(e.ENOMEM)
    pointer = host.instance.call("emscripten_builtin_memalign", PAGE, size + _TRAILER.size)
    if not pointer:
        raise Errno(e.ENOMEM)
    host.memory.check(pointer, size + _TRAILER.size)
    data = node.data[offset : offset + length]
    host.memory.write(pointer, data)
    # The allocator may hand out used memory: the rest of the mapping must read as zeros.
    host.memory.view[pointer + len(data) : pointer + size + _TRAILER.size] = bytes(size + _TRAILER.size - len(data))
    files = host.files.files
    # Where there is little room it is the guest's descriptor that is written to.
    if flags & MAP_SHARED and protection & PROT_WRITE and files.get(descriptor) is file and len(files) < _FEW:
        try:
            own = host.files.duplicate(descriptor, _OWN_DESCRIPTOR)
        except Errno:
            pass  # no room at all
        else:
            host.memory.write(pointer + size, _TRAILER.pack(_MARK, own))
    host.memory.set_u32(allocated, 1)
    host.memory.set_u32(address, pointer)
    return 0


def _own_descriptor(host: Host, address: int, length: int) -> int | None:
    """That of a mapping, if it has one."""
    mark, own = _TRAILER.unpack(host.memory.read(address + _rounded(length), _TRAILER.size))
    return own if mark == _MARK and own >= _OWN_DESCRIPTOR and own in host.files.files else None


@syscall("_msync_js", "iiiiil")
def msync(host: Host, address: int, length: int, protection: int, flags: int, descriptor: int, offset: int) -> int:
    """Copy a shared, writable mapping back into its file (never growing it, as POSIX says)."""
    if not flags & MAP_SHARED or not protection & PROT_WRITE:
        return 0
    own = _own_descriptor(host, address, length)
    node = open_at(host, descriptor if own is None else own).node
    if not isinstance(node, File) or node.readonly or offset < 0:
        raise Errno(e.EINVAL)
    data = host.memory.read(address, length)[: max(len(node.data) - offset, 0)]
    node.own()[offset : offset + len(data)] = data
    host.files.touch(node)
    return 0


@syscall("_munmap_js", "iiiiil")
def munmap(host: Host, address: int, length: int, protection: int, flags: int, descriptor: int, offset: int) -> int:
    """The same, and let go of the file."""
    result = msync(host, address, length, protection, flags, descriptor, offset)
    if flags & MAP_SHARED and protection & PROT_WRITE:
        own = _own_descriptor(host, address, length)
        if own is not None:
            host.memory.write(address + _rounded(length), bytes(_TRAILER.size))
            host.files.close(own)
    return result
