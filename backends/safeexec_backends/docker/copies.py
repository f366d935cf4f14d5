"""Copies of a process in a container, and what it can see of others there.

Shipped as text next to inside.py; CPython 3.9 and later.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h; include/uapi/linux/sched.h
_NUMBER = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine, 0)
_CLEARTID, _SETTID = 0x200000, 0x1000000
PARENT = 0x8000
"""The copy is no child of the original's, but of its parent's: code that waits for its own children never hears of it."""


_libc: Any = None
_tid = 0


def libc() -> Any:
    """The C library's functions, looked up once: that takes as long as a fifth of a copy."""
    global _libc
    if _libc is None:
        library = ctypes.PyDLL(None, use_errno=True)  # which keeps the GIL: there is nobody to take it in a copy
        library.syscall.restype = ctypes.c_long
        library.mmap.restype = ctypes.c_void_p
        _libc = library
    return _libc


def thread_id_address() -> int:
    """Where the C library has the thread's id, which the kernel must renew in a copy; 0 where that is not known."""
    address = ctypes.c_void_p()
    # PR_GET_TID_ADDRESS
    if libc().prctl(40, ctypes.byref(address), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0)):
        return 0
    return address.value if address.value and _is_tid(address.value) else 0


def _is_tid(address: int) -> bool:
    return ctypes.c_int.from_address(address).value == os.getpid()


def copy(flags: int) -> int:
    """This process once more: 0 in the copy, its id in the original. Raises OSError.

    Past fork(): no handlers, neither the C library's nor Python's, so that the copy is exactly what the original is, its random numbers included.
    Only where the process has no other thread than such as wait in the kernel and are not missed.
    """
    global _tid
    if not _tid or not _is_tid(_tid):
        _tid = thread_id_address()
    if not _tid or not _NUMBER:
        raise OSError(38, "this process cannot be copied")
    order = (_tid, 0) if _NUMBER == 56 else (0, _tid)  # aarch64 takes tls before child_tid
    words = (_NUMBER, flags | _CLEARTID | _SETTID | signal.SIGCHLD, 0, 0, *order)
    pid: int = libc().syscall(*(ctypes.c_long(word) for word in words))
    if pid < 0:
        raise OSError(ctypes.get_errno(), "this process cannot be copied")
    return pid


def trim() -> None:
    """Give memory that is free back, where the C library can: what lies in a copied process is copied once more at its next use, free or not."""
    give_back = getattr(libc(), "malloc_trim", None)
    if give_back is not None:
        give_back(ctypes.c_size_t(0))


def read(path: str) -> bytes:
    """What one of the kernel's short files says. Raises OSError. Without a file object, which touches many pages of memory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 512)
    finally:
        os.close(fd)


def others(known: set[int]) -> list[int]:
    """Processes of this container that are not `known`."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid not in known]


def out_of_memory() -> int:
    """How many processes of this container were killed for their memory."""
    for path in ("memory.events", "memory/memory.oom_control"):
        try:
            with open("/sys/fs/cgroup/" + path) as file:
                words = file.read().split()
            return int(words[words.index("oom_kill") + 1])
        except (OSError, ValueError):
            continue
    return 0


def endure(kept: bool, process: str = "self") -> None:
    """When the memory is used up, what runs the session's code is killed first, and what it goes back to last."""
    try:
        fd = os.open(f"/proc/{process}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # it is gone
    try:
        os.write(fd, b"0" if kept else b"1000")
    except OSError:
        return  # a kernel that kills whoever it likes: then there may be no way back
    finally:
        os.close(fd)
