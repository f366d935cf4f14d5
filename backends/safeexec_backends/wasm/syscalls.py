"""The host functions: a table from import name to function and signature.

Each takes its instance's `Host` first, then the guest's arguments: unsigned 32-bit integers (`i`), signed 64-bit
ones (`l`), floats (`d`). All guest memory goes through `Memory`, which checks every pointer and length against the current size;
a bad one is EFAULT here, in one place, as in a kernel. Sources: WASI preview 1 for `fd_*`, `clock_*`, `environ_*`, `random_get`;
emscripten's library_syscall.js and musl's headers for `__syscall_*` and the structures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from . import errno as e
from .abi import Fault
from .errno import Errno
from .fs import Open
from .fs_tree import PATH_MAX, Place
from .host import Host

AT_FDCWD = 0xFFFFFF9C  # -100


class HostCall(NamedTuple):
    """One host function, its signature, and the module it is imported from."""

    function: Callable[..., Any]
    parameters: str
    result: str
    namespace: str


ENV, WASI, HOST = "env", "wasi_snapshot_preview1", "host"
TABLE: dict[str, HostCall] = {}


def syscall(name: str, parameters: str, result: str = "i") -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a system call: it returns its result, or minus the error number that it raised."""

    def register(function: Callable[..., int]) -> Callable[..., int]:
        def call(host: Host, *arguments: int) -> int:
            try:
                return function(host, *arguments)
            except Errno as error:
                return -error.number
            except Fault:
                return -e.EFAULT

        TABLE[name] = HostCall(call, parameters, result, ENV)
        return function

    return register


def wasi(name: str, parameters: str, namespace: str = WASI) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a WASI function: it returns 0, or the error number that it raised."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def call(host: Host, *arguments: int) -> int:
            try:
                function(host, *arguments)
            except Errno as error:
                return error.number
            except Fault:
                return e.EFAULT
            return 0

        TABLE[name] = HostCall(call, parameters, "i", namespace)
        return function

    return register


def plain(
    name: str, parameters: str = "", result: str = "", namespace: str = ENV
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that has no way to report an error; a Fault ends the guest."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        TABLE[name] = HostCall(function, parameters, result, namespace)
        return function

    return register


def s32(number: int) -> int:
    """Read an unsigned 32-bit argument as signed."""
    return number - (1 << 32) if number >> 31 else number


def path_at(host: Host, pointer: int) -> str:
    """A path argument."""
    data = host.memory.string(pointer, PATH_MAX - 1)
    if data is None:
        raise Errno(e.ENAMETOOLONG)
    return data.decode(errors="surrogateescape")


def start_at(host: Host, descriptor: int) -> Place | None:
    """The directory that the *at calls start from; None for the working directory."""
    if descriptor == AT_FDCWD:
        return None
    return host.files.get(descriptor).place


def open_at(host: Host, descriptor: int) -> Open:
    """An open file."""
    return host.files.get(descriptor)
