"""The functions of wasmtime's library, with their types, and its errors.

Source of every declaration: wasmtime's C headers (`wasm.h`, `wasmtime/*.h`, release 50).
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, byref, c_bool, c_char_p, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any, Final

from safeexec_backends.wasm.native import EngineError, library_path

MASK32: Final = 0xFFFFFFFF
VALUE_KINDS: Final = {"i": 0, "l": 1, "f": 2, "d": 3}
"""wasm_valkind_t; the letters of a host function's signature."""
_TRAP_CODES = {0: "stack overflow", 1: "memory access out of bounds", 4: "call through a null pointer"}
_TRAP_CODES |= {5: "call with a wrong signature", 9: "the guest stopped itself", 10: "interrupted"}
STACK_OVERFLOW: Final = 0

CALLBACK = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, POINTER(c_uint32), c_size_t)
_FINALIZER = ctypes.CFUNCTYPE(None, c_void_p)
NO_FINALIZER = _FINALIZER(0)


class Trap(Exception):
    """The guest stopped: a WebAssembly trap, or a host function that refused to go on.

    `code` is wasmtime's trap code or None.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class ByteVector(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("data", c_void_p))


class Extern(ctypes.Structure):
    # wasmtime_extern_t: a kind, and a union whose largest member has 24 bytes, aligned to 8.
    _fields_ = (("kind", c_uint8), ("of", c_uint64 * 3))


FUNCTION, GLOBAL, TABLE, MEMORY = range(4)


class Library:
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
        self.module_new = bind(slow, "wasmtime_module_new", c_void_p, c_void_p, c_char_p, c_size_t, POINTER(c_void_p))
        self.module_serialize = bind(slow, "wasmtime_module_serialize", c_void_p, c_void_p, POINTER(ByteVector))
        self.module_load = bind(
            slow, "wasmtime_module_deserialize_file", c_void_p, c_void_p, c_char_p, POINTER(c_void_p)
        )
        self.module_delete = bind(slow, "wasmtime_module_delete", None, c_void_p)
        self.bytes_delete = bind(quick, "wasm_byte_vec_delete", None, POINTER(ByteVector))
        self.valtype_new = bind(quick, "wasm_valtype_new", c_void_p, c_uint8)
        self.valtypes_new = bind(quick, "wasm_valtype_vec_new", None, POINTER(ByteVector), c_size_t, POINTER(c_void_p))
        self.functype_new = bind(quick, "wasm_functype_new", c_void_p, POINTER(ByteVector), POINTER(ByteVector))
        self.functype_delete = bind(quick, "wasm_functype_delete", None, c_void_p)
        self.linker_new = bind(quick, "wasmtime_linker_new", c_void_p, c_void_p)
        self.linker_delete = bind(slow, "wasmtime_linker_delete", None, c_void_p)
        self.linker_define = bind(
            quick, "wasmtime_linker_define_func_unchecked", c_void_p,
            c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p, CALLBACK, c_void_p, _FINALIZER,
        )  # fmt: skip
        self.instantiate_pre = bind(
            slow, "wasmtime_linker_instantiate_pre", c_void_p, c_void_p, c_void_p, POINTER(c_void_p)
        )
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
            quick, "wasmtime_instance_export_get", c_bool, c_void_p, c_void_p, c_char_p, c_size_t, POINTER(Extern)
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
        self.error_message = bind(quick, "wasmtime_error_message", None, c_void_p, POINTER(ByteVector))
        self.error_delete = bind(quick, "wasmtime_error_delete", None, c_void_p)
        self.trap_new = bind(quick, "wasmtime_trap_new", c_void_p, c_char_p, c_size_t)
        self.trap_code = bind(quick, "wasmtime_trap_code", c_bool, c_void_p, POINTER(c_uint8))
        self.trap_message = bind(quick, "wasm_trap_message", None, c_void_p, POINTER(ByteVector))
        self.trap_delete = bind(quick, "wasm_trap_delete", None, c_void_p)
        self.bind = functools.partial(bind, quick)

    def switch(self, config: int, name: str, value: bool | int, kind: Any = c_bool) -> None:
        """Set one option of a configuration."""
        self.bind(f"wasmtime_config_{name}_set", None, c_void_p, kind)(config, value)

    def take(self, vector: ByteVector) -> bytes:
        try:
            return ctypes.string_at(vector.data, vector.size) if vector.size else b""
        finally:
            self.bytes_delete(byref(vector))

    def message_of_error(self, error: int) -> str:
        """Read and free an error."""
        vector = ByteVector()
        self.error_message(error, byref(vector))
        self.error_delete(error)
        return self.take(vector).decode(errors="replace").strip()

    def check(self, error: int | None) -> None:
        """Raise EngineError for an error."""
        if error:
            raise EngineError(self.message_of_error(error))

    def take_trap(self, trap: int) -> Trap:
        """Turn a trap into an exception and free it."""
        code, vector = c_uint8(), ByteVector()
        known = self.trap_code(trap, byref(code))
        self.trap_message(trap, byref(vector))
        text = self.take(vector).rstrip(b"\0").decode(errors="replace")
        self.trap_delete(trap)
        if not known:
            return Trap(text)
        return Trap(_TRAP_CODES.get(code.value, text.rsplit("wasm trap: ", 1)[-1].strip()), code.value)


@functools.cache
def library() -> Library:
    """The one library of this process."""
    return Library()
