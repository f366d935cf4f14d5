"""The Landlock wall (linux/landlock.h): which files can be opened, no TCP, no signals or abstract sockets beyond the domain.

What it does not cover: stat(), chdir() and UDP. A mount namespace and seccomp do.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from safeexec_backends._hardening import libc

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_FILES = (1 << 13) - 1  # the accesses of ABI 1
_MAKE_DEVICES = (1 << 6) | (1 << 11)  # MAKE_CHAR, MAKE_BLOCK
_TCP = (1 << 0) | (1 << 1)  # bind, connect; ABI 4
_SCOPES = (1 << 0) | (1 << 1)  # abstract unix sockets, signals; ABI 6

_READ = _READ_FILE | _READ_DIR
_FILE_ONLY = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE


def abi() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    if libc.supported():
        return 0
    try:
        return libc.syscall("landlock_create_ruleset", None, 0, 1)  # LANDLOCK_CREATE_RULESET_VERSION
    except OSError:
        return 0


def keeps_sockets_apart() -> bool:
    """Whether a process behind a ruleset reaches no abstract Unix socket that was made outside of it."""
    return abi() >= 6


def probe() -> str:
    """Why this wall cannot stand here; empty when it can."""
    return libc.supported() or ("" if abi() else "the kernel has no Landlock (Linux 5.13 with lsm=landlock)")


def _handled(version: int) -> int:
    handled = _FILES
    if version >= 2:
        handled |= _REFER
    if version >= 3:
        handled |= _TRUNCATE
    if version >= 5:
        handled |= _IOCTL_DEVICE
    return handled


class Ruleset:
    """The accesses a process keeps. Rules are added to a file descriptor that `apply` consumes."""

    def __init__(self) -> None:
        """Raises OSError where the kernel has no Landlock."""
        version = abi()
        self._files = _handled(version)
        attributes = struct.pack("=QQQ", self._files, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
        size = 24 if version >= 6 else 16 if version >= 4 else 8
        self._fd = libc.syscall("landlock_create_ruleset", attributes, size, 0)

    def _allow(self, fd: int, access: int) -> None:
        # LANDLOCK_RULE_PATH_BENEATH; struct landlock_path_beneath_attr is packed: u64 access, s32 fd.
        libc.syscall("landlock_add_rule", self._fd, 1, struct.pack("=Qi", access & self._files, fd), 0)

    def read(self, path: str | int) -> None:
        """Let everything below `path` (or an open O_PATH descriptor) be read."""
        self._add(path, _READ)

    def write(self, path: str | int) -> None:
        """Let files and folders below `path` be read, written, made and removed: devices not made, nothing executed."""
        self._add(path, self._files & ~_MAKE_DEVICES & ~_EXECUTE & ~_IOCTL_DEVICE)

    def _add(self, path: str | int, access: int) -> None:
        fd = path if isinstance(path, int) else os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            is_folder = os.stat(fd).st_mode & 0o170000 == 0o040000
            self._allow(fd, access if is_folder else access & _FILE_ONLY)
        finally:
            if not isinstance(path, int):
                os.close(fd)

    def apply(self) -> None:
        """Put the calling thread (and those it starts) behind the ruleset, for good. Needs no_new_privs. Raises OSError."""
        try:
            libc.syscall("landlock_restrict_self", self._fd, 0)
        finally:
            os.close(self._fd)


def apply(readable: Sequence[str | int], writable: Sequence[str | int]) -> None:
    """Keep only these paths. Raises OSError."""
    ruleset = Ruleset()
    for path in readable:
        ruleset.read(path)
    for path in writable:
        ruleset.write(path)
    ruleset.apply()
