"""The wasm sandbox: Pyodide's CPython on wasmtime, without a JavaScript engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeexec_backends.wasm.backend import WasmBackend

__all__ = ["WasmBackend"]


def __getattr__(name: str) -> Any:
    # On demand: a zygote imports this package too and must not load the host's half.
    if name in ("WasmBackend", "BACKEND"):
        from safeexec_backends.wasm.backend import WasmBackend

        return WasmBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
