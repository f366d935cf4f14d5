"""Modules: compiled, loaded."""

from __future__ import annotations

from ctypes import byref, c_size_t, c_uint64, c_void_p
from pathlib import Path

from safeexec_backends.wasm import stops
from safeexec_backends.wasm.native import EngineError
from safeexec_backends.wasm.signals import handlers

from .library import ByteVector, library

# Features the interpreter needs; everything else that could be switched off stays at wasmtime's default.
_FEATURES = ("exceptions", "gc", "function_references", "tail_call", "reference_types")


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
        module, vector = self.load_wasm(wasm), ByteVector()
        try:
            self._lib.check(self._lib.module_serialize(module, byref(vector)))
        finally:
            self._lib.module_delete(module)
        return self._lib.take(vector)

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
        # Here: of no use to whoever loads what was compiled before.
        from safeexec_backends.wasm.image.binary import FormatError
        from safeexec_backends.wasm.image.polls import polled

        try:
            wasm = polled(wasm)
        except (FormatError, IndexError) as error:
            raise EngineError(f"the module cannot be compiled: {error}") from error
        module = c_void_p()
        self._lib.check(self._lib.module_new(self.pointer, wasm, len(wasm), byref(module)))
        assert module.value is not None
        return module.value
