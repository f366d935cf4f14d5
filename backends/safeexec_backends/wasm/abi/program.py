"""A compiled module with its host functions, which find the instance that called them through a thread-local.

So instances run on any number of threads at once.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Mapping
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any

from .library import CALLBACK, MASK32, NO_FINALIZER, VALUE_KINDS, ByteVector, library
from .memory import Memory

if TYPE_CHECKING:
    from .engine import Engine
    from .instance import Instance

local = threading.local()
"""`local.host` is the host of the instance that runs on this thread."""


class Host:
    """What host functions belong to: one instance's memory, and whether it is to stop. Subclassed by `host.Host`."""

    memory: Memory
    instance: Instance
    killed: bool = False
    failure: BaseException | None = None


HostFunction = Callable[..., Any]


def _callback(function: HostFunction, parameters: str, result: str) -> Any:
    """Wrap a host function for the unchecked calling convention: an array of 16-byte slots, in and out."""
    lib = library()
    count = len(parameters)
    plain = set(parameters) <= {"i"}
    span = 4 * count

    def call(_data: int, _caller: int, raw: Any, _slots: int) -> int:
        host: Host = local.host
        try:
            if not span:
                value = function(host)
            elif plain:
                value = function(host, *raw[0:span:4])
            else:
                arguments: list[int | float] = []
                for slot, kind in enumerate(parameters):
                    low, high = raw[4 * slot], raw[4 * slot + 1]
                    if kind == "i":
                        arguments.append(low)
                    elif kind == "l":
                        arguments.append((low | high << 32) - ((high >> 31) << 64))
                    else:
                        arguments.append(struct.unpack("<d", struct.pack("<II", low, high))[0])
                value = function(host, *arguments)
            if result == "i":
                raw[0] = value & MASK32
            elif result == "l":
                raw[0], raw[1] = value & MASK32, (value >> 32) & MASK32
            elif result == "d":
                raw[0], raw[1] = struct.unpack("<II", struct.pack("<d", value))
            return 0
        except BaseException as error:  # nothing may pass through native code: it is raised again behind it
            host.failure = error
            message = b"a host function stopped the guest"
            return int(lib.trap_new(message, len(message)))

    return CALLBACK(call)


class Program:
    """A compiled module with its host functions, ready to be instantiated any number of times, on any thread.

    `functions` maps (module, name) to (function, parameters, result) with the letters i, l, f, d for the value types.
    """

    def __init__(
        self, engine: Engine, module: int, functions: Mapping[tuple[str, str], tuple[HostFunction, str, str]]
    ) -> None:
        lib = self._lib = library()
        self.engine = engine
        self._module = module
        self._callbacks = []  # wasmtime keeps only their addresses
        linker = lib.linker_new(engine.pointer)
        types: dict[tuple[str, str], int] = {}
        try:
            for (namespace, name), (function, parameters, result) in functions.items():
                kind = types.get((parameters, result))
                if kind is None:
                    kind = types[parameters, result] = self._type(parameters, result)
                callback = _callback(function, parameters, result)
                self._callbacks.append(callback)
                first, second = namespace.encode(), name.encode()
                lib.check(
                    lib.linker_define(
                        linker, first, len(first), second, len(second), kind, callback, None, NO_FINALIZER
                    )
                )
            pre = c_void_p()
            lib.check(lib.instantiate_pre(linker, module, byref(pre)))
            self.pre = pre.value
        finally:
            for kind in types.values():
                lib.functype_delete(kind)
            lib.linker_delete(linker)

    def _type(self, parameters: str, result: str) -> int:
        vectors = []
        for letters in (parameters, result):
            array = (c_void_p * max(len(letters), 1))(*(self._lib.valtype_new(VALUE_KINDS[k]) for k in letters))
            vector = ByteVector()
            self._lib.valtypes_new(byref(vector), len(letters), array)
            vectors.append(vector)
        return int(self._lib.functype_new(byref(vectors[0]), byref(vectors[1])))
