"""A guest's linear memory, of which nothing is read or written unchecked."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint64, c_void_p
from typing import Any, Final

from .library import MASK32, library

PAGE: Final = 65536
MAX_PAGES: Final = 65535
"""The last page that 32 bits can address is not memory (stops.py)."""


class Fault(Exception):
    """A host function was given a pointer or a length that leaves the guest's memory."""


class Memory:
    """A guest's linear memory. Every access is checked against its current size first.

    Pointers and lengths are unsigned. Memory never shrinks, so the size that was last seen may be too small but never too
    large; only an access beyond it asks wasmtime again. The view ends where the memory ends, so even a forgotten check ends in an
    exception and not outside.
    """

    __slots__ = ("_context", "_lib", "_memory", "size", "view")

    _from_memory = ctypes.pythonapi.PyMemoryView_FromMemory
    _from_memory.restype = ctypes.py_object
    _from_memory.argtypes = (c_void_p, ctypes.c_ssize_t, ctypes.c_int)
    _WRITABLE: Final = 0x200

    def __init__(self, context: int, memory: Any) -> None:
        self._lib = library()
        self._context = context
        self._memory = memory
        self.size = 0
        self.view: memoryview = memoryview(b"")
        self.refresh()

    def refresh(self) -> None:
        """Look how large the memory is now."""
        if not self._context:
            return  # released: it belongs to another session, or to nobody
        size = self._lib.memory_size(self._context, self._memory)
        if size != self.size:
            base = self._lib.memory_data(self._context, self._memory)
            self.view = self._from_memory(base, size, self._WRITABLE)
            self.size = size

    def address(self) -> int:
        """Where it lies in this process."""
        return int(self._lib.memory_data(self._context, self._memory))

    def check(self, pointer: int, length: int) -> int:
        """The end of a range. Raises Fault if any of it lies outside, or if a number is negative."""
        end = pointer + length
        if end > self.size:
            self.refresh()
        if pointer < 0 or length < 0 or end > self.size:
            raise Fault(f"{length} bytes at {pointer:#x} of a memory of {self.size:#x}")
        return end

    def read(self, pointer: int, length: int) -> bytes:
        """Copy bytes out."""
        end = self.check(pointer, length)  # first: it may have to look anew, and what it looked at before is shorter
        return bytes(self.view[pointer:end])

    def write(self, pointer: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in."""
        end = self.check(pointer, len(data))
        self.view[pointer:end] = data

    def u32(self, pointer: int) -> int:
        """Read a 32-bit number."""
        self.check(pointer, 4)
        return int.from_bytes(self.view[pointer : pointer + 4], "little")

    def set_u32(self, pointer: int, value: int) -> None:
        """Write a 32-bit number, modulo 2**32."""
        self.check(pointer, 4)
        self.view[pointer : pointer + 4] = (value & MASK32).to_bytes(4, "little")

    def set_u64(self, pointer: int, value: int) -> None:
        """Write a 64-bit number, modulo 2**64."""
        self.check(pointer, 8)
        self.view[pointer : pointer + 8] = (value & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")

    def string(self, pointer: int, limit: int) -> bytes | None:
        """Read a string up to its NUL; None if it is longer than `limit` bytes. Raises Fault if it runs out of memory."""
        self.check(pointer, 1)
        data = bytes(self.view[pointer : min(pointer + limit + 1, self.size)])
        end = data.find(b"\0")
        if end >= 0:
            return data[:end]
        if len(data) > limit:
            return None
        raise Fault("a string without an end")

    def grow(self, pages: int) -> bool:
        """Add pages of 64 KiB; False if the limit or the machine does not allow it."""
        before = c_uint64()
        error = self._lib.memory_grow(self._context, self._memory, pages, byref(before))
        if error:
            self._lib.error_delete(error)
            return False
        self.refresh()
        return True

    def release(self) -> None:
        """Forget the memory: it is about to be unmapped, or to be another session's."""
        self._context = 0
        self.size = 0
        self.view = memoryview(b"")
