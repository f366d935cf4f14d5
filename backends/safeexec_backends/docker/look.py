"""What a process can see of the walls around it. Runs in the container, shipped as text next to inside.py; CPython 3.9 and later."""

from __future__ import annotations

import os
import sys
from typing import Any

# Numbers from the kernel's tables: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.
_CALLS = {
    "x86_64": {"io_uring_setup": 425, "ptrace": 101, "keyctl": 250, "bpf": 321, "userfaultfd": 323, "mount": 165,
               "unshare": 272, "perf_event_open": 298},
    "aarch64": {"io_uring_setup": 425, "ptrace": 117, "keyctl": 219, "bpf": 280, "userfaultfd": 282, "mount": 40,
                "unshare": 97, "perf_event_open": 241},
}  # fmt: skip


def _syscalls() -> dict[str, int] | None:
    """errno of calls that must be refused, 0 where one was let through; None where that cannot be tried."""
    table = _CALLS.get(os.uname().machine)
    try:
        import ctypes
    except ImportError:
        return None
    if table is None:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    found = {}
    for name, number in table.items():
        # Arguments that the kernel refuses with EINVAL, EFAULT or ESRCH when it looks at them: a filter answers before it does.
        ctypes.set_errno(0)
        big = ctypes.c_long(-1)
        arguments = {"unshare": (ctypes.c_long(0),), "ptrace": (ctypes.c_long(0x4200), big)}.get(name, (big, big))
        result = libc.syscall(ctypes.c_long(number), *arguments, *([ctypes.c_long(-1)] * (5 - len(arguments))))
        found[name] = ctypes.get_errno() if result == -1 else 0
    return found


def _copies() -> str:
    """Why this process could not be copied; empty when it can."""
    try:
        import ctypes
    except ImportError:
        return "the image's interpreter has no ctypes"
    if os.uname().machine not in _CALLS:
        return "the system calls of this processor are not known"
    address = ctypes.c_void_p()
    # PR_GET_TID_ADDRESS: the C library keeps its thread's id in memory, where the kernel must renew it in a copy.
    nothing = ctypes.c_long(0)
    if ctypes.CDLL(None).prctl(40, ctypes.byref(address), nothing, nothing, nothing) or not address.value:
        return "the kernel does not say where the thread's id is kept"
    if ctypes.c_int.from_address(address.value).value != os.getpid():
        return "the image's C library keeps its thread's id in another place"
    return ""


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _sockets() -> list[str]:
    """Sockets that can be made, of the Internet's families; by their protocols."""
    import socket

    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for name, kind, protocol in (("TCP", 1, 0), ("UDP", 2, 0), ("ICMP", 2, 1), ("ICMP", 2, 58)):
            try:
                socket.socket(family, kind, protocol).close()
            except OSError:
                continue
            found.append(name)
    return found


def look() -> dict[str, Any]:
    """What this process can see of the walls around it, as plain data."""
    import resource
    import socket

    status = dict(line.split(":\t", 1) for line in _read("/proc/self/status").splitlines() if ":\t" in line)
    mounts: list[Any] = []
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 6 or len(kind) < 3:
            continue
        path = fields[4].encode().decode("unicode_escape")
        try:
            info = os.statvfs(path)
        except OSError:
            continue
        # gVisor says "ro" in the table alone.
        mounts.append(
            [
                path,
                kind[0],
                bool(info.f_flag & 1) or "ro" in fields[5].split(","),
                info.f_frsize * info.f_blocks,
                info.f_files,
            ]
        )
    writable = []
    for path in (
        "/",
        "/etc",
        "/usr",
        "/usr/local",
        "/opt",
        "/home",
        "/root",
        "/var/tmp",
        "/dev",
        "/run",
        os.path.dirname(os.__file__),
    ):
        probe = os.path.join(path, ".safeexec-probe")
        try:
            os.close(os.open(probe, os.O_CREAT | os.O_WRONLY))
            os.unlink(probe)
            writable.append(path)
        except OSError:
            continue
    try:
        interfaces = [name for _, name in socket.if_nameindex()]
    except OSError:
        interfaces = [line.split(":")[0].strip() for line in _read("/proc/net/dev").splitlines() if ":" in line]
    # Of the kernels, gVisor's names no ambient set; no such set can have what the permitted one has not.
    status.setdefault("CapAmb", status.get("CapPrm", "1"))
    limits = {}
    for name in ("CORE", "NOFILE", "FSIZE", "MSGQUEUE", "MEMLOCK"):
        limits[name] = list(resource.getrlimit(getattr(resource, "RLIMIT_" + name, resource.RLIMIT_CORE)))
    return {
        "uid": list(os.getresuid()),
        "gid": list(os.getresgid()),
        "groups": os.getgroups(),
        "caps": {key: int(status.get(key, "1"), 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
        "nnp": status.get("NoNewPrivs", "").strip(),
        "seccomp": status.get("Seccomp", "").strip(),
        "calls": _syscalls(),
        "copies": _copies(),
        "mounts": mounts,
        "page": os.sysconf("SC_PAGE_SIZE"),
        "writable": writable,
        "interfaces": interfaces,
        "limits": limits,
        "pid": os.getpid(),
        "init": _read("/proc/1/comm").strip(),
        "uid_map": _read("/proc/self/uid_map").split(),
        "version": _read("/proc/version").strip(),
        "memory": (_read("/sys/fs/cgroup/memory.max") or _read("/sys/fs/cgroup/memory/memory.limit_in_bytes")).strip(),
        "sockets": _sockets(),
        "swap": (
            _read("/sys/fs/cgroup/memory.swap.max") or _read("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
        ).strip(),
        "memory_total": _read("/proc/meminfo").partition("MemTotal:")[2].split()[:1],
        "pids": (_read("/sys/fs/cgroup/pids.max") or _read("/sys/fs/cgroup/pids/pids.max")).strip(),
        "python": "{}.{}.{}".format(*sys.version_info[:3]),
    }
