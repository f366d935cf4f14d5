"""Giving up privileges, so that a flaw in what runs here gains nothing."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from safeexec_backends._hardening import libc

# linux/prctl.h
_SET_PDEATHSIG, _SET_DUMPABLE, _GET_DUMPABLE, _CAPBSET_DROP, _SET_SECUREBITS = 1, 4, 3, 24, 28
_SET_NO_NEW_PRIVS, _GET_NO_NEW_PRIVS, _CAP_AMBIENT, _AMBIENT_CLEAR_ALL = 38, 39, 47, 4
_GET_PDEATHSIG = 2
_SIGKILL = 9
# linux/securebits.h: NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each locked, and KEEP_CAPS locked off
_SECUREBITS = 0b11101111

_FIRST_UID = 0x70000000
"""Above the ranges of people, services and containers (systemd's UIDS-GIDS table ends its containers at 1879048191)."""


def no_new_privileges() -> None:
    """No setuid program, no file capability can give anything back. Raises OSError."""
    libc.prctl(_SET_NO_NEW_PRIVS, 1)


def has_no_new_privileges() -> bool:
    return libc.prctl(_GET_NO_NEW_PRIVS) == 1


def drop_bounding_set() -> None:
    """No program executed from here on can gain a capability. Does nothing without CAP_SETPCAP. Raises OSError."""
    order = libc.prepared("prctl", _CAPBSET_DROP, 0, 0, 0, 0)
    for capability in range(64):
        order[2].value = capability
        if libc.call(order) == -1:
            error = libc.failed("prctl")
            # EINVAL: the first number the kernel does not know. EPERM, without CAP_SETPCAP: no_new_privs makes the bounding set meaningless.
            if error.errno in (errno.EINVAL, errno.EPERM):
                break
            raise error


def drop_capabilities() -> None:
    """Empty every capability set: bounding, ambient, inheritable, permitted, effective. Raises OSError."""
    drop_bounding_set()
    libc.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    try:
        libc.prctl(_SET_SECUREBITS, _SECUREBITS)
    except OSError as error:
        if error.errno != errno.EPERM:  # needs CAP_SETPCAP too
            raise
    # _LINUX_CAPABILITY_VERSION_3: u32 version, s32 pid; then two of u32 effective, permitted, inheritable
    libc.syscall("capset", struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", *[0] * 6))


def undumpable(yes: bool = True) -> None:
    """No ptrace, no core, no reading of /proc/PID/mem by others of the same uid. Raises OSError."""
    libc.prctl(_SET_DUMPABLE, 0 if yes else 1)


def is_undumpable() -> bool:
    return libc.prctl(_GET_DUMPABLE) == 0


def die_with_parent() -> None:
    """Be killed when the thread that started this process ends. Raises OSError."""
    libc.prctl(_SET_PDEATHSIG, _SIGKILL)


def dies_with_parent() -> bool:
    value = ctypes.c_int()
    libc.prctl(_GET_PDEATHSIG, ctypes.addressof(value))
    return value.value == _SIGKILL


def spare_uid(proc: int) -> int:
    """An unprivileged uid that no one else uses, if the user namespace has room for one; else 65534."""
    wanted = _FIRST_UID + int.from_bytes(os.urandom(3), "little")
    fd = os.open("self/uid_map", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        text = os.read(fd, 65536).decode()
    finally:
        os.close(fd)
    ranges = [(int(a), int(c)) for a, _, c in (line.split() for line in text.splitlines())]
    if any(start <= wanted < start + count for start, count in ranges):
        return wanted
    # A container with few ids: the highest one it has is the least likely to be taken.
    candidates = [start + count - 2 for start, count in ranges if count > 2]
    return max([c for c in candidates if c > 0], default=65534)


def become(uid: int, gid: int) -> None:
    """Change to `uid` and `gid` for good, without supplementary groups. Raises OSError."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid) or os.getgroups():
        raise OSError(errno.EPERM, "the process kept an identity it should have lost")


def status(fd: int) -> dict[str, str]:
    """The fields of an open /proc/PID/status, as they are now."""
    text = os.pread(fd, 65536, 0).decode()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def holds_no_capability(fields: dict[str, str]) -> bool:
    """Whether a process with this status has no capability in any set. The bounding set counts unless no_new_privs voids it."""
    sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"] + (["CapBnd"] if fields.get("NoNewPrivs") != "1" else [])
    return all(int(fields.get(name, "1"), 16) == 0 for name in sets)
