"""Stack and memory bounds of an instance, and whether the calling thread has the stack for one."""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from safeexec.policy import Limits

from . import abi
from .fs_tree import Quota

NATIVE_STACK: Final = 5 << 20
"""Bytes of machine stack that guest code may use; beyond them it traps. Fits a thread of the usual 8 MiB."""
STACK_PROTECTION: Final = 640 << 10
"""Bytes of its own stack after which CPython raises RecursionError: measured to come before NATIVE_STACK is used up."""
HOST_MARGIN: Final = 1 << 20
"""Bytes of machine stack that host functions need below the guest's."""
THREAD_STACK: Final = 16 << 20
_INODES_PER_BYTE: Final = 4096

_STACK_POINTER: Final = {
    # uc_flags, uc_link, uc_stack (40 bytes together), then the registers; RSP is the 16th
    "x86_64": 40 + 15 * 8,
    # the same 40 bytes, uc_sigmask (128), uc_mcontext on a boundary of 16: fault_address, then 31 registers and sp
    "aarch64": 176 + 8 + 31 * 8,
}
"""Where the stack pointer is in a ucontext_t, by machine. Source: glibc's sys/ucontext.h."""
_CONTEXT: Final = 8192
"""Bytes that a ucontext_t has room in: 968 on x86-64, 4560 on aarch64."""

T = TypeVar("T")


def memory_limit(fresh: int, limits: Limits) -> int:
    """Bytes of linear memory: what a fresh instance has, and what the policy allows beyond, in whole pages."""
    pages = -(-(fresh + limits.memory) // abi.PAGE)
    return min(pages, abi.MAX_PAGES) * abi.PAGE


@functools.lru_cache(64)
def quota(limits: Limits) -> Quota:
    """The file system's share of the policy. A file costs the host a little even when it is empty, so files count too."""
    return Quota(bytes=limits.disk, inodes=max(1000, min(limits.disk // _INODES_PER_BYTE, 50_000)), open_files=256)


class _Stack:
    """Where the machine stack of a thread ends, and where its stack pointer is."""

    def __init__(self) -> None:
        self.known = False
        self._local = threading.local()
        if not sys.platform.startswith("linux") or platform.machine() not in _STACK_POINTER:
            return
        try:
            libc = ctypes.PyDLL(None)
            self._self = libc.pthread_self
            self._self.restype, self._self.argtypes = ctypes.c_ulong, ()
            self._attributes = libc.pthread_getattr_np
            self._attributes.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
            self._range = libc.pthread_attr_getstack
            self._range.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
            self._destroy = libc.pthread_attr_destroy
            self._destroy.argtypes = (ctypes.c_void_p,)
            self._context = libc.getcontext
            self._context.argtypes = (ctypes.c_void_p,)
        except (OSError, AttributeError):
            return
        self.known = True

    def left(self) -> int:
        """Bytes below the stack pointer of this thread."""
        local: Any = self._local
        try:
            lowest, context, pointer = local.stack
        except AttributeError:
            attributes = ctypes.create_string_buffer(256)  # pthread_attr_t has 56 bytes on x86-64, 64 on aarch64
            address, size = ctypes.c_size_t(), ctypes.c_size_t()
            if self._attributes(self._self(), attributes) != 0:
                return 0
            self._range(attributes, ctypes.byref(address), ctypes.byref(size))
            self._destroy(attributes)
            lowest = address.value
            context = ctypes.create_string_buffer(_CONTEXT)
            pointer = ctypes.c_uint64.from_buffer(context, _STACK_POINTER[platform.machine()])
            local.stack = lowest, context, pointer
        if self._context(context) != 0:
            return 0
        return int(pointer.value) - int(lowest)


_stack = _Stack()
_start_lock = threading.Lock()


def with_enough_stack(function: Callable[[], T]) -> T:
    """Run `function` here if the guest's stack fits on this thread's, else on a thread of its own.

    Without the check a guest that recurses would run into the end of a small thread's stack and take the process with it.
    """
    if _stack.known and _stack.left() >= NATIVE_STACK + HOST_MARGIN:
        return function()
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="safeexec-wasm", daemon=True)
    with _start_lock:  # the size is one for the whole process
        before = threading.stack_size(THREAD_STACK)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
