"""A private root: a small read-only tree in which nothing of the host exists but what was put there."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Sequence

from safeexec_backends._hardening import libc

# sys/mount.h
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
_DETACH = 2
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_HOST = "/.host"
WORK, TEMPORARY = "/sandbox", "/tmp"


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    try:
        libc.syscall("mount", *arguments, flags, None if data is None else data.encode())
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({target})") from None


def _attributes(path: str, flags: int) -> None:
    # struct mount_attr: u64 attr_set, attr_clr, propagation, userns_fd. Recursive: a submount left writable would be a hole.
    attr = struct.pack("=4Q", flags, 0, 0, 0)
    libc.syscall("mount_setattr", _AT_FDCWD, os.fsencode(path), _AT_RECURSIVE, attr, len(attr))


def follow(path: str) -> tuple[list[tuple[str, str]], str]:
    """The symbolic links on the way to `path`, each with its target, and the real path at the end."""
    links: list[tuple[str, str]] = []
    parts = [p for p in os.path.abspath(path).split("/") if p]
    real = "/"
    while parts:
        candidate = os.path.join(real, parts.pop(0))
        if len(links) < 40 and os.path.islink(candidate):
            target = os.readlink(candidate)
            links.append((candidate, target))
            whole = os.path.normpath(os.path.join(real, target))
            parts = [p for p in whole.split("/") if p] + parts
            real = "/"
        else:
            real = candidate
    return links, real


def outermost(paths: Iterable[str]) -> list[str]:
    """`paths` without those that lie below another."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(within(path, folder) for folder in kept):
            kept.append(path)
    return kept


def within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _graft(path: str) -> None:
    source = _HOST + path
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    _mount(source, path, None, _BIND | _REC)
    _attributes(path, _RDONLY | _NOSUID | (0 if path in DEVICES else _NODEV))


Covered = tuple[str, str | None]
"""A path, and what it points to if it is a symbolic link."""


def private_root(readable: Sequence[str]) -> list[Covered]:
    """Replace the root of the caller's (own, new) mount namespace: `readable` read-only at the same paths, five devices, an empty
    working directory and /tmp, nothing else. No /proc: it would show host processes, or siblings.

    Returns the paths that lie where `storage` will cover them. Raises OSError.
    """
    grafts: list[str] = []
    links: dict[str, str] = {}
    for path in readable:
        if os.path.exists(path):
            found, real = follow(path)
            links.update(found)
            grafts.append(real)
    grafts = outermost(grafts)
    if any(within(path, WORK) or path == TEMPORARY for path in grafts):
        raise OSError(errno.EINVAL, f"the interpreter's library is where {WORK} belongs")
    devices = [device for device in DEVICES if os.path.exists(device)]
    _mount(None, "/", None, _REC | _PRIVATE)
    stage = next(d for d in ("/tmp", "/var/tmp", "/usr", "/dev") if os.path.isdir(d) and not os.path.islink(d))
    _mount("tmpfs", stage, "tmpfs", _NOSUID | _NODEV, "mode=0755,size=1m,nr_inodes=4096")
    os.mkdir(stage + _HOST, 0o700)
    os.chdir(stage)
    libc.syscall("pivot_root", b".", _HOST[1:].encode())
    os.chdir("/")
    mask = os.umask(0o022)
    try:
        for path in [*grafts, *devices]:
            _graft(path)
        for folder in (WORK, TEMPORARY):
            os.makedirs(folder, exist_ok=True)
        for link, target in links.items():
            if not os.path.lexists(link) and not any(within(link, folder) for folder in grafts):
                os.makedirs(os.path.dirname(link), exist_ok=True)
                os.symlink(target, link)
    finally:
        os.umask(mask)
    libc.syscall("umount2", _HOST.encode(), _DETACH)
    os.rmdir(_HOST)
    _mount(None, "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    covered: list[Covered] = [(path, None) for path in grafts]
    covered += [(link, target) for link, target in links.items() if not any(within(link, g) for g in grafts)]
    return [(path, target) for path, target in covered if within(path, TEMPORARY)]


def scratch(size: int, owner: tuple[int, int]) -> None:
    """A small writable folder for the process that built the private root, at the place that `storage` covers. Raises OSError."""
    options = f"mode=0700,size={size},nr_inodes=4096,uid={owner[0]},gid={owner[1]}"
    _mount("tmpfs", WORK, "tmpfs", _NOSUID | _NODEV | _NOEXEC, options)


def storage(size: int, covered: Sequence[Covered] = ()) -> None:
    """Memory-backed working directory and /tmp that share a quota of `size` bytes, and of files. Raises OSError.

    For a process with a mount namespace of its own whose root is a private root. `covered` is what that said it has below /tmp: it
    stays.
    """
    kept = [(path, _open_tree(path)) for path, target in covered if target is None]
    # Without nr_inodes a flood of empty files is bounded by the host's memory only.
    inodes = min(max(size // 4096, 64), 16_384)
    _mount("tmpfs", TEMPORARY, "tmpfs", _NOSUID | _NODEV | _NOEXEC, f"mode=0700,size={size},nr_inodes={inodes}")
    for name, target in (("work", WORK), ("tmp", TEMPORARY)):
        os.mkdir(f"{TEMPORARY}/{name}", 0o700)
        _mount(f"{TEMPORARY}/{name}", target, None, _BIND)
    for path, tree in kept:
        if os.stat(tree).st_mode & 0o170000 == 0o040000:
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
        libc.syscall("move_mount", tree, b"", _AT_FDCWD, os.fsencode(path), 4)  # MOVE_MOUNT_F_EMPTY_PATH
        os.close(tree)
    for path, points_to in covered:
        if points_to is not None:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(points_to, path)


def _open_tree(path: str) -> int:
    # OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE: the mount itself in hand, for when its place is covered.
    return libc.syscall("open_tree", _AT_FDCWD, os.fsencode(path), 1 | os.O_CLOEXEC | _AT_RECURSIVE)
