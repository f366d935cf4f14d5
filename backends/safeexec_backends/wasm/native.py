"""Where wasmtime's library is; the host's half of the sandbox asks without loading it."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path


class EngineError(Exception):
    """wasmtime refused: a module that does not validate, a compiled file of another version, no memory."""


def library_path() -> Path:
    """Where the installed `wasmtime` package keeps its shared library. Raises EngineError if it is not installed."""
    spec = importlib.util.find_spec("wasmtime")
    if spec is None or spec.origin is None:
        raise EngineError("the wasmtime package is not installed: pip install wasmtime")
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    name = {"darwin": "_libwasmtime.dylib", "win32": "_wasmtime.dll"}.get(sys.platform, "_libwasmtime.so")
    path = Path(spec.origin).parent / f"{sys.platform}-{machine}" / name
    if not path.exists():
        raise EngineError(f"wasmtime has no library for this platform ({sys.platform}, {machine})")
    return path
