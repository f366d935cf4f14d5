"""Copies of a process in a container, and what it can see of others there.

Shipped as text next to inside.py; CPython 3.9 and later.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h; include/uapi/linux/sched.h
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLEARTID, _SETTID = 0x200000, 0x1000000
PARENT = 0x8000
"""The copy is no child of the original's, but of its parent's: code that waits for its own children never hears of it."""


def libc() -> Any:
    library = ctypes.PyDLL(None, use_errno=True)  # which keeps the GIL: there is nobody to take it in a copy
    library.syscall.restype = ctypes.c_long
    library.mmap.restype = ctypes.c_void_p
    return library


def thread_id_address() -> int:
    """Where the C library has the thread's id, which the kernel must renew in a copy; 0 where that is not known."""
    address = ctypes.c_void_p()
    # PR_GET_TID_ADDRESS
    if ctypes.PyDLL(None).prctl(40, ctypes.byref(address), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0)):
        return 0
    if not address.value or ctypes.c_int.from_address(address.value).value != os.getpid():
        return 0
    return address.value


def copy(flags: int) -> int:
    """This process once more: 0 in the copy, its id in the original. Raises OSError.

    Past fork(): no handlers, neither the C library's nor Python's, so that the copy is exactly what the original is, its random numbers included.
    Only where the process has no other thread than such as wait in the kernel and are not missed.
    """
    tid = thread_id_address()
    number = _CLONE.get(os.uname().machine)
    if not tid or number is None:
        raise OSError(38, "this process cannot be copied")
    order = (tid, 0) if number == 56 else (0, tid)  # aarch64 takes tls before child_tid
    words = (number, flags | _CLEARTID | _SETTID | signal.SIGCHLD, 0, 0, *order)
    pid: int = libc().syscall(*(ctypes.c_long(word) for word in words))
    if pid < 0:
        raise OSError(ctypes.get_errno(), "this process cannot be copied")
    return pid


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


def endure(kept: bool) -> None:
    """When the memory is used up, what runs the session's code is killed first, and what it goes back to last."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("0" if kept else "1000")
    except OSError:
        return  # a kernel that kills whoever it likes: then there may be no way back
