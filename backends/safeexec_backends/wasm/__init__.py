"""The wasm sandbox: Pyodide's CPython on wasmtime, without a JavaScript engine."""

from safeexec_backends.wasm.backend import WasmBackend

__all__ = ["WasmBackend"]
