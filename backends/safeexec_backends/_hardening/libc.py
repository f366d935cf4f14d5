"""System calls by ctypes: every return value is checked, every failure is an ``OSError`` that names the call."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from typing import Any

from safeexec_backends._hardening.syscalls import NUMBERS

LINUX = sys.platform == "linux"
MACHINE = os.uname().machine if LINUX else ""

# PyDLL keeps the GIL during a call: between a raw clone() and the set-up of its child no other Python thread may run.
_libc = ctypes.PyDLL(None, use_errno=True) if LINUX else None

Argument = int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None


def supported() -> str:
    """Why raw system calls cannot be made here; empty when they can."""
    if not LINUX:
        return f"{sys.platform} is not Linux"
    if MACHINE not in NUMBERS:
        return f"the system call numbers of {MACHINE} are not known"
    if ctypes.sizeof(ctypes.c_void_p) != 8 or sys.byteorder != "little":
        return "only 64-bit little-endian processes are supported"
    return ""


READY = not supported()
"""Whether raw system calls can be made here."""


def number(name: str) -> int:
    """The number of a system call on this machine. Raises OSError(ENOSYS) where there is none."""
    try:
        return NUMBERS[MACHINE][name]
    except KeyError:
        raise OSError(38, f"{name}: no such system call on {MACHINE}") from None


def _word(argument: Argument) -> ctypes.c_ulong | ctypes.c_long | ctypes.c_void_p | ctypes.c_char_p:
    # Always a full register: a plain int would travel as 32 bits and leave the upper half of a pointer undefined.
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, int):
        return ctypes.c_long(argument) if argument < 0 else ctypes.c_ulong(argument)
    if isinstance(argument, bytes):
        return ctypes.c_char_p(argument)
    return ctypes.c_void_p(ctypes.addressof(argument))


def syscall(name: str, *arguments: Argument) -> int:
    """Make a system call; its result. Raises OSError with the call's name."""
    assert _libc is not None
    result = call(prepared(name, *arguments))
    if result == -1:
        raise failed(name)
    return result


def function(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    return getattr(_libc, name, None)


Prepared = tuple[Any, ...]


def prepared(name: str, *arguments: Argument) -> Prepared:
    """A system call that may be made more than once. Raises OSError(ENOSYS)."""
    return (ctypes.c_long(number(name)), *[_word(a) for a in arguments])


def call(order: Prepared) -> int:
    """Make a prepared call; its result, -1 when it :func:`failed`."""
    assert _libc is not None
    result: int = _libc.syscall(*order)
    return result


def failed(name: str) -> OSError:
    """Why the last call failed."""
    code = ctypes.get_errno()
    return OSError(code, f"{name}: {os.strerror(code)}")


def stop_self() -> None:
    """SIGSTOP for the calling thread's process, by itself: it returns once somebody sent SIGCONT."""
    _raise(_STOP)


def prctl(option: int, *arguments: Argument) -> int:
    """prctl(2), unused arguments zero as the newer options demand."""
    padded: Sequence[Argument] = (*arguments, *([0] * (4 - len(arguments))))
    return syscall("prctl", option, *padded)


_STOP = ctypes.c_int(19)

if _libc is not None:
    _raise = getattr(_libc, "raise")
    _libc.syscall.restype = ctypes.c_long
