"""Namespaces: what of the host a process can name at all."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Mapping

from safeexec_backends._hardening import libc

FLAGS = {
    "user_namespace": 0x10000000,
    "mount_namespace": 0x00020000,
    "pid_namespace": 0x20000000,
    "network_namespace": 0x40000000,
    "ipc_namespace": 0x08000000,
    "uts_namespace": 0x04000000,
    "cgroup_namespace": 0x02000000,
}
"""CLONE_NEW* (linux/sched.h) by the name of the wall."""

FILES = {
    "user_namespace": "user",
    "mount_namespace": "mnt",
    "pid_namespace": "pid",
    "network_namespace": "net",
    "ipc_namespace": "ipc",
    "uts_namespace": "uts",
    "cgroup_namespace": "cgroup",
}
"""Entries of /proc/PID/ns."""

_PIDFD, _CHILD_SETTID, _CHILD_CLEARTID = 0x00001000, 0x01000000, 0x00200000
_SIGCHLD = 17


def flags(names: Iterable[str]) -> int:
    """The clone flags of some namespaces."""
    total = 0
    for name in names:
        total |= FLAGS[name]
    return total


def thread_id_address() -> int | None:
    """Where this thread's id is kept; None where that is not known."""
    # The C library keeps its thread's id in memory; a raw clone must have the kernel renew it in the child, as fork() does.
    address = ctypes.c_void_p()
    try:
        libc.syscall("prctl", 40, ctypes.addressof(address), 0, 0, 0)  # PR_GET_TID_ADDRESS
    except OSError:
        return None
    if not address.value or ctypes.c_int.from_address(address.value).value != os.getpid():
        return None
    return address.value


def clone(namespaces: int, handlers: bool = True) -> tuple[int, int]:
    """fork() into new namespaces: (0, -1) in the child, (pid, pidfd) in the parent. Raises OSError.

    Only for a process with one thread: the C library's own fork handlers do not run, nor do Python's without `handlers`.
    """
    pidfd = ctypes.c_int(-1)
    tid = thread_id_address()
    bits = namespaces | _PIDFD | _SIGCHLD | (_CHILD_SETTID | _CHILD_CLEARTID if tid else 0)
    parent_tid = ctypes.addressof(pidfd)  # CLONE_PIDFD stores the descriptor where the parent's tid would go
    order = (tid, 0) if libc.MACHINE == "x86_64" else (0, tid)  # aarch64 takes tls before child_tid
    if not handlers:
        pid = libc.syscall("clone", bits, None, parent_tid, *order)
        return pid, pidfd.value if pid else -1
    ctypes.pythonapi.PyOS_BeforeFork()
    try:
        pid = libc.syscall("clone", bits, None, parent_tid, *order)
    except OSError:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        raise
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    return pid, pidfd.value


def map_ids(proc: int, uid: int, gid: int, outer_uid: int, outer_gid: int) -> None:
    """In a new user namespace, make the caller's outer ids known as `uid` and `gid`; `proc` is an open /proc. Raises OSError."""

    def write(name: str, text: str) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    write("self/setgroups", "deny")  # the kernel's condition for a group map without privileges
    write("self/uid_map", f"{uid} {outer_uid} 1")
    write("self/gid_map", f"{gid} {outer_gid} 1")


def identities(proc: int) -> dict[str, str]:
    """Which namespaces the caller is in: wall name to the kernel's identity of it."""
    found = {}
    for name, file in FILES.items():
        try:
            found[name] = os.readlink(f"self/ns/{file}", dir_fd=proc)
        except OSError:
            pass
    return found


def hostname(name: str) -> None:
    """Name this UTS namespace, so that the host's name is not seen. Raises OSError."""
    libc.syscall("sethostname", name.encode(), len(name))


def explain(error: OSError) -> str:
    """Why the kernel refused a namespace, for a person who may change it."""
    if error.errno == errno.EPERM:
        return "the kernel does not grant it to this user (user namespaces may be restricted by sysctl, AppArmor or a container)"
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        return "the limit of namespaces is reached (sysctl user.max_*_namespaces)"
    if error.errno == errno.EINVAL:
        return "the kernel was built without it"
    return str(error.strerror or error)


def differing(mine: Mapping[str, str], others: Mapping[str, str]) -> set[str]:
    """The namespaces that both name and that are not the same."""
    return {name for name in mine if name in others and mine[name] != others[name]}
