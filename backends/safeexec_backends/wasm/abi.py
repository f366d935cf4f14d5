"""The wasmtime C API, bound directly: engine, module, linker, instance and guest memory.

Source of every declaration: wasmtime's C headers (`wasm.h`, `wasmtime/*.h`, release 50). The `wasmtime` package supplies the
library; its Python layer is not imported, because it costs 40 ms to import, walks all 8,500 exports of the interpreter
at the first look, and keeps an exception of a callback in one place for the whole process. Here a host function finds its
instance through a thread-local, so instances run on any number of threads at once.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import struct
import threading
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_bool, c_char_p, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Final

from . import stops
from .faults import faults
from .native import EngineError as EngineError
from .native import library_path
from .pages import Written
from .signals import handlers

STATE_GLOBAL: Final = "safeexec_state_global_"
STATE_TABLE: Final = "safeexec_state_table_"
"""Names, a number behind, under which an image exports what its code can change."""
MASK32: Final = 0xFFFFFFFF
PAGE: Final = 65536
MAX_PAGES: Final = 65535
"""The last page that 32 bits can address is not memory (stops.py)."""
# Features the interpreter needs; everything else that could be switched off stays at wasmtime's default.
_FEATURES = ("exceptions", "gc", "function_references", "tail_call", "reference_types")
_VALUE_KINDS = {"i": 0, "l": 1, "f": 2, "d": 3}  # wasm_valkind_t; the letters of a host function's signature
_TRAP_CODES = {0: "stack overflow", 1: "memory access out of bounds", 4: "call through a null pointer"}
_TRAP_CODES |= {5: "call with a wrong signature", 9: "the guest stopped itself", 10: "interrupted"}
STACK_OVERFLOW: Final = 0
_MAX_DEPTH: Final = 4  # a host function may call the guest's allocator, which may call a host function
_HEADROOM: Final = 30

_CALLBACK = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, POINTER(c_uint32), c_size_t)
_FINALIZER = ctypes.CFUNCTYPE(None, c_void_p)
_NO_FINALIZER = _FINALIZER(0)
_local = threading.local()


class Fault(Exception):
    """A host function was given a pointer or a length that leaves the guest's memory."""


class Trap(Exception):
    """The guest stopped: a WebAssembly trap, or a host function that refused to go on.

    `code` is wasmtime's trap code or None.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class _ByteVector(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("data", c_void_p))


class _Extern(ctypes.Structure):
    # wasmtime_extern_t: a kind, and a union whose largest member has 24 bytes, aligned to 8.
    _fields_ = (("kind", c_uint8), ("of", c_uint64 * 3))


_FUNCTION, _GLOBAL, _TABLE, _MEMORY = range(4)


class _Library:
    """The functions used here, with their types. Quick ones keep the GIL; those that may run guest code release it."""

    def __init__(self) -> None:
        path = str(library_path())
        slow, quick = ctypes.CDLL(path), ctypes.PyDLL(path)

        def bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            return function

        self.config_new = bind(quick, "wasm_config_new", c_void_p)
        self.engine_new = bind(slow, "wasm_engine_new_with_config", c_void_p, c_void_p)
        self.engine_delete = bind(slow, "wasm_engine_delete", None, c_void_p)
        self.module_new = bind(slow, "wasmtime_module_new", c_void_p, c_void_p, c_char_p, c_size_t, POINTER(c_void_p))
        self.module_serialize = bind(slow, "wasmtime_module_serialize", c_void_p, c_void_p, POINTER(_ByteVector))
        self.module_load = bind(
            slow, "wasmtime_module_deserialize_file", c_void_p, c_void_p, c_char_p, POINTER(c_void_p)
        )
        self.module_delete = bind(slow, "wasmtime_module_delete", None, c_void_p)
        self.bytes_delete = bind(quick, "wasm_byte_vec_delete", None, POINTER(_ByteVector))
        self.valtype_new = bind(quick, "wasm_valtype_new", c_void_p, c_uint8)
        self.valtypes_new = bind(quick, "wasm_valtype_vec_new", None, POINTER(_ByteVector), c_size_t, POINTER(c_void_p))
        self.functype_new = bind(quick, "wasm_functype_new", c_void_p, POINTER(_ByteVector), POINTER(_ByteVector))
        self.functype_delete = bind(quick, "wasm_functype_delete", None, c_void_p)
        self.linker_new = bind(quick, "wasmtime_linker_new", c_void_p, c_void_p)
        self.linker_delete = bind(slow, "wasmtime_linker_delete", None, c_void_p)
        self.linker_define = bind(
            quick, "wasmtime_linker_define_func_unchecked", c_void_p,
            c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p, _CALLBACK, c_void_p, _FINALIZER,
        )  # fmt: skip
        self.instantiate_pre = bind(
            slow, "wasmtime_linker_instantiate_pre", c_void_p, c_void_p, c_void_p, POINTER(c_void_p)
        )
        self.pre_delete = bind(slow, "wasmtime_instance_pre_delete", None, c_void_p)
        self.pre_instantiate = bind(
            slow, "wasmtime_instance_pre_instantiate", c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_void_p)
        )
        self.store_new = bind(quick, "wasmtime_store_new", c_void_p, c_void_p, c_void_p, _FINALIZER)
        self.store_context = bind(quick, "wasmtime_store_context", c_void_p, c_void_p)
        self.store_limiter = bind(
            quick, "wasmtime_store_limiter", None, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64
        )
        self.store_delete = bind(slow, "wasmtime_store_delete", None, c_void_p)
        self.export_get = bind(
            quick, "wasmtime_instance_export_get", c_bool, c_void_p, c_void_p, c_char_p, c_size_t, POINTER(_Extern)
        )
        self.call = bind(
            slow, "wasmtime_func_call_unchecked", c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, POINTER(c_void_p)
        )
        self.memory_data = bind(quick, "wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
        self.memory_size = bind(quick, "wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)
        self.memory_grow = bind(
            quick, "wasmtime_memory_grow", c_void_p, c_void_p, c_void_p, c_uint64, POINTER(c_uint64)
        )
        self.table_size = bind(quick, "wasmtime_table_size", c_uint64, c_void_p, c_void_p)
        self.global_get = bind(quick, "wasmtime_global_get", None, c_void_p, c_void_p, c_void_p)
        self.error_new = bind(quick, "wasmtime_error_new", c_void_p, c_char_p)
        self.error_message = bind(quick, "wasmtime_error_message", None, c_void_p, POINTER(_ByteVector))
        self.error_delete = bind(quick, "wasmtime_error_delete", None, c_void_p)
        self.trap_new = bind(quick, "wasmtime_trap_new", c_void_p, c_char_p, c_size_t)
        self.trap_code = bind(quick, "wasmtime_trap_code", c_bool, c_void_p, POINTER(c_uint8))
        self.trap_message = bind(quick, "wasm_trap_message", None, c_void_p, POINTER(_ByteVector))
        self.trap_delete = bind(quick, "wasm_trap_delete", None, c_void_p)
        self.bind = functools.partial(bind, quick)

    def switch(self, config: int, name: str, value: bool | int, kind: Any = c_bool) -> None:
        """Set one option of a configuration."""
        self.bind(f"wasmtime_config_{name}_set", None, c_void_p, kind)(config, value)

    def _take(self, vector: _ByteVector) -> bytes:
        try:
            return ctypes.string_at(vector.data, vector.size) if vector.size else b""
        finally:
            self.bytes_delete(byref(vector))

    def message_of_error(self, error: int) -> str:
        """Read and free an error."""
        vector = _ByteVector()
        self.error_message(error, byref(vector))
        self.error_delete(error)
        return self._take(vector).decode(errors="replace").strip()

    def check(self, error: int | None) -> None:
        """Raise EngineError for an error."""
        if error:
            raise EngineError(self.message_of_error(error))

    def take_trap(self, trap: int) -> Trap:
        """Turn a trap into an exception and free it."""
        code, vector = c_uint8(), _ByteVector()
        known = self.trap_code(trap, byref(code))
        self.trap_message(trap, byref(vector))
        text = self._take(vector).rstrip(b"\0").decode(errors="replace")
        self.trap_delete(trap)
        if not known:
            return Trap(text)
        return Trap(_TRAP_CODES.get(code.value, text.rsplit("wasm trap: ", 1)[-1].strip()), code.value)


@functools.cache
def library() -> _Library:
    """The one library of this process."""
    return _Library()


class Engine:
    """One compiler and run-time configuration. `max_stack` is the native stack guest code may use, in bytes.

    Compiled code depends on the compiler's options (exceptions, the size of reservations), not on `max_stack`.
    """

    def __init__(self, max_stack: int) -> None:
        # wasmtime ends the process on a stack limit it cannot honour.
        if not 256 * 1024 <= max_stack <= 1 << 30:
            raise EngineError(f"max_stack {max_stack} is not between 256 KiB and 1 GiB")
        lib = self._lib = library()
        self.max_stack = max_stack
        config = lib.config_new()
        for feature in _FEATURES:
            lib.switch(config, f"wasm_{feature}", True)
        # Every memory gets all the addresses it could ever use: then its base never moves, and a pointer that was
        # checked stays valid whatever the guest does.
        lib.switch(config, "memory_reservation", stops.ADDRESSES, c_uint64)
        lib.switch(config, "memory_may_move", False)
        lib.switch(config, "memory_init_cow", True)
        # Unused without async calls, but must exceed max_wasm_stack.
        lib.switch(config, "async_stack_size", max_stack + (1 << 20), c_uint64)
        lib.switch(config, "max_wasm_stack", max_stack, c_size_t)
        self.pointer = lib.engine_new(config)
        if not self.pointer:
            raise EngineError("wasmtime refused the configuration")
        handlers.remember()

    def compile(self, wasm: bytes) -> bytes:
        """Compile a module ahead of time; the result is for `load` on this machine and this wasmtime only.

        Whatever is compiled can be stopped (stops.py). Raises EngineError.
        """
        module, vector = self.load_wasm(wasm), _ByteVector()
        try:
            self._lib.check(self._lib.module_serialize(module, byref(vector)))
        finally:
            self._lib.module_delete(module)
        return self._lib._take(vector)

    def load(self, path: Path) -> int:
        """Map a compiled module. The file is native code: whoever wrote it can do anything in this process.

        Raises EngineError if it was compiled by another wasmtime, for another CPU or another configuration.
        """
        module = c_void_p()
        self._lib.check(self._lib.module_load(self.pointer, str(path).encode(), byref(module)))
        assert module.value is not None
        return module.value

    def load_wasm(self, wasm: bytes) -> int:
        """Compile a module for immediate use. Raises EngineError."""
        from .image.binary import FormatError  # of no use to whoever loads what was compiled before
        from .image.polls import polled

        try:
            wasm = polled(wasm)
        except (FormatError, IndexError) as error:
            raise EngineError(f"the module cannot be compiled: {error}") from error
        module = c_void_p()
        self._lib.check(self._lib.module_new(self.pointer, wasm, len(wasm), byref(module)))
        assert module.value is not None
        return module.value


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
        return bytes(self.view[pointer : self.check(pointer, length)])

    def write(self, pointer: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes in."""
        self.view[pointer : self.check(pointer, len(data))] = data

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
        host: Host = _local.host
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

    return _CALLBACK(call)


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
                        linker, first, len(first), second, len(second), kind, callback, None, _NO_FINALIZER
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
            array = (c_void_p * max(len(letters), 1))(*(self._lib.valtype_new(_VALUE_KINDS[k]) for k in letters))
            vector = _ByteVector()
            self._lib.valtypes_new(byref(vector), len(letters), array)
            vectors.append(vector)
        return int(self._lib.functype_new(byref(vectors[0]), byref(vectors[1])))


def _headroom(frames: int) -> None:
    """Raise RecursionError now if the host's own stack of Python frames is nearly used up.

    Inside a host function it would come too late: ctypes cannot report an exception from the very call of a callback, and the guest
    would read "success" from a function that did not run.
    """
    if frames:
        _headroom(frames - 1)


class Instance:
    """One instance in a store of its own. Used by one thread at a time; `memory_limit` is in bytes.

    Raises EngineError if it cannot be made (no addresses or no memory left on this machine).
    """

    def __init__(self, program: Program, host: Host, memory_limit: int) -> None:
        lib = self._lib = library()
        handlers.hold()
        self.program = program
        self.host = host
        self._exports: dict[str, tuple[int, _Extern, Any]] = {}
        self._readers: list[_Extern] | None = None
        self._depth = 0
        self._entered = False
        self.stopped = False
        """Its code traps from now on; it is of no more use."""
        self.written = Written()
        self._raw = (c_uint32 * 64)()
        self._store = lib.store_new(program.engine.pointer, None, _NO_FINALIZER)
        self._limit(memory_limit)
        self._context = lib.store_context(self._store)
        self._instance = (c_uint64 * 2)()
        trap = c_void_p()
        previous = getattr(_local, "host", None)
        _local.host = host
        try:
            error = lib.pre_instantiate(program.pre, self._context, self._instance, byref(trap))
            if trap.value:
                raise EngineError(str(lib.take_trap(trap.value)))
            lib.check(error)
            self._memory = self._export("memory", _MEMORY)
            self.memory = host.memory = self.look()
            stops.arm(self.memory.address())
        except BaseException:
            lib.store_delete(self._store)
            self._store = None
            raise
        finally:
            _local.host = previous
        host.instance = self

    def _limit(self, memory: int) -> None:
        # Bytes of memory, table elements, instances, tables, memories; -1 keeps the default.
        self._lib.store_limiter(self._store, min(memory, MAX_PAGES * PAGE), 1 << 20, -1, -1, -1)

    def belong(self, host: Host, memory_limit: int) -> None:
        """Give a used instance to another host, once it has been put back to what it was (reuse.py)."""
        self._limit(memory_limit)
        handlers.hold()
        self.host = host
        self.memory = host.memory = self.look()
        host.instance = self

    def look(self) -> Memory:
        """Its memory, whoever it belongs to."""
        return Memory(self._context, byref(self._memory, _Extern.of.offset))

    def state(self) -> list[int]:
        """The values of the globals and the sizes of the tables that code can change (image/state.py); empty where the image does not say."""
        readers = self._readers
        if readers is None:
            readers = self._readers = []
            for prefix, kind in ((STATE_GLOBAL, _GLOBAL), (STATE_TABLE, _TABLE)):
                try:
                    for number in itertools.count():
                        readers.append(self._export(f"{prefix}{number}", kind))
                except KeyError:
                    continue
        value = (c_uint64 * 8)()  # as in global_value
        found: list[int] = []
        for extern in readers:
            if extern.kind == _GLOBAL:
                self._lib.global_get(self._context, byref(extern, _Extern.of.offset), value)
                found.append(int(value[1]) & MASK32)
            else:
                found.append(int(self._lib.table_size(self._context, byref(extern, _Extern.of.offset))))
        return found

    def _export(self, name: str, kind: int) -> _Extern:
        extern = _Extern()
        encoded = name.encode()
        if not self._lib.export_get(self._context, self._instance, encoded, len(encoded), byref(extern)):
            raise KeyError(name)
        if extern.kind != kind:
            raise KeyError(f"{name} is an export of another kind")
        return extern

    def _known(self, name: str, kind: int) -> Any:
        """An export by reference, looked up once. Raises KeyError."""
        found = self._exports.get(name)
        if found is None:
            extern = self._export(name, kind)
            found = self._exports[name] = kind, extern, byref(extern, _Extern.of.offset)
        if found[0] != kind:
            raise KeyError(f"{name} is an export of another kind")
        return found[2]

    def call(self, name: str, *arguments: int) -> int:
        """Call an exported function of 32-bit integers.

        Raises Trap when the guest stops, and whatever a host function raised below it.
        """
        function = self._known(name, _FUNCTION)
        if self._store is None:
            raise Trap("the instance is closed")
        if self._depth >= _MAX_DEPTH:
            raise Trap("the guest re-entered itself too often")
        if self._depth == 0:
            _headroom(_HEADROOM)
            seen = faults.count()
            # In this order, and kill() does it in the other: whoever comes second sees what the first did.
            self._entered = True
            if self.host.killed:
                self.stop()
        lib, host, raw = self._lib, self.host, self._raw
        slot = 0
        for argument in arguments:
            raw[slot] = argument & MASK32
            slot += 4
        trap = c_void_p()
        previous = getattr(_local, "host", None)
        _local.host = host
        self._depth += 1
        try:
            error = lib.call(self._context, function, raw, max(len(arguments), 1), byref(trap))
        finally:
            self._depth -= 1
            _local.host = previous
            if self._depth == 0:
                self._entered = False
                self.written.faults += faults.count() - seen
        if error or trap.value:
            self._raise(error, trap.value)
        return int(raw[0])

    def stop(self) -> None:
        """Stop it if it runs. From any thread, while it is not being closed; `host.killed` is set before."""
        if self._entered:
            self.stopped = True
            stops.stop(self.memory.address())

    def _raise(self, error: int | None, trap: int | None) -> None:
        found = self._lib.take_trap(trap) if trap else Trap(self._lib.message_of_error(error or 0))
        failure = self.host.failure
        if failure is not None:
            self.host.failure = None
            raise failure
        raise found

    def global_value(self, name: str) -> int:
        """The value of an exported 32-bit global, unsigned."""
        value = (c_uint64 * 8)()  # wasmtime_val_t: a kind, then a union at offset 8
        self._lib.global_get(self._context, self._known(name, _GLOBAL), value)
        return int(value[1]) & MASK32

    def table_size(self, name: str) -> int:
        """How many elements an exported table has."""
        return int(self._lib.table_size(self._context, self._known(name, _TABLE)))

    def close(self) -> None:
        """Free everything. Must not run while the instance does."""
        store, self._store = self._store, None
        if store is not None:
            self.memory.release()
            self._exports.clear()
            self._lib.store_delete(store)
