"""Small modules in the place of the interpreter and of packages' libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime

from safeexec_backends.wasm import abi
from safeexec_backends.wasm.image.binary import encode_name, encode_unsigned
from safeexec_backends.wasm.image.dylink import Side, read
from safeexec_backends.wasm.image.link import MISSING, Linked
from safeexec_backends.wasm.image.merge import Merged, merge

HEAP = 4096
INTERPRETER = f"""
(module
  (import "host" "missing" (func $missing (param i32)))
  (import "env" "emscripten_date_now" (func $now (result f64)))
  (memory (export "memory") 1 65536)
  (table (export "__indirect_function_table") 3 funcref)
  (tag $cpp (export "__cpp_exception") (param i32))
  (global $sp (export "__stack_pointer") (mut i32) (i32.const 2048))
  (global (export "__heap_base") i32 (i32.const {HEAP}))
  (global (export "a_datum") i32 (i32.const 1024))
  (global $charged (mut i32) (i32.const 0))
  (data (i32.const 1024) "main")
  (func $double (export "double") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
  (func $entropy (export "getentropy") (param i32 i32) (result i32) (i32.const 0))
  (func (export "Py_EnterRecursiveCall") (param i32) (result i32) (global.get $sp))
  (func (export "_Py_CheckRecursiveCall") (param i32 i32) (result i32) (i32.const 0))
  (func (export "_Py_ReachedRecursionLimitWithMargin") (param i32 i32) (result i32) (i32.const 0))
  (func (export "safeexec_secret") (result i32) (i32.const 7))
  (func (export "indirect") (param i32 i32) (result i32)
    (call_indirect (param i32) (result i32) (local.get 1) (local.get 0)))
  (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
  (func (export "time") (result i32) (i32.trunc_f64_u (call $now)))
  (elem (i32.const 1) func $double))
"""


def dylink(
    memory: int = 64,
    alignment: int = 4,
    table: int = 8,
    needed: tuple[str, ...] = (),
    weak: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """The content of a dylink.0 section."""
    info = b"".join(encode_unsigned(n) for n in (memory, alignment, table, 0))
    out = b"\x01" + encode_unsigned(len(info)) + info
    if needed:
        names = encode_unsigned(len(needed)) + b"".join(encode_name(n) for n in needed)
        out += b"\x02" + encode_unsigned(len(names)) + names
    if weak:
        items = encode_unsigned(len(weak)) + b"".join(encode_name(m) + encode_name(n) + b"\x01" for m, n in weak)
        out += b"\x04" + encode_unsigned(len(items)) + items
    return out


def library(text: str, info: bytes | None = None) -> bytes:
    """A side module of WAT: the usual imports are there, and a dylink.0 section."""
    usual = """(import "env" "memory" (memory 0))
      (import "env" "__indirect_function_table" (table 0 funcref))
      (import "env" "__memory_base" (global $memory_base i32))
      (import "env" "__table_base" (global $table_base i32))"""
    module = bytes(wasmtime.wat2wasm(f"(module {usual} {text})"))
    custom = encode_name("dylink.0") + (dylink() if info is None else info)
    return module[:8] + b"\0" + encode_unsigned(len(custom)) + custom + module[8:]


def side(path: str, text: str, info: bytes | None = None) -> Side:
    return read(path, library(text, info))


def linked() -> Linked:
    return Linked(bytes(wasmtime.wat2wasm(INTERPRETER)), ("first",), {})


class Live:
    """A merged module, running."""

    def __init__(self, merged: Merged, folder: Path) -> None:
        self.merged = merged
        engine = abi.Engine(1 << 20)
        path = folder / "module"
        path.write_bytes(engine.compile(merged.module))
        self.host = abi.Host()
        functions: dict[tuple[str, str], tuple[Callable[..., Any], str, str]] = {
            (MISSING.module, MISSING.name): (self._missing, "i", ""),
            ("env", "emscripten_date_now"): (lambda _host: 1000.0, "", "d"),
        }
        self.program = abi.Program(engine, engine.load(path), functions)
        abi.Instance(self.program, self.host, 64 << 20)
        for name in merged.setup:
            self.call(name)

    def _missing(self, _host: abi.Host, index: int) -> None:
        raise LookupError(self.merged.missing[index])

    def call(self, name: str, *arguments: int) -> int:
        return self.host.instance.call(name, *arguments)

    def entry(self, path: str, symbol: str, argument: int = 0) -> int:
        """Call an entry point of a library as the interpreter does: through the table."""
        return self.call("indirect", self.merged.libraries[path][symbol], argument)


def live(folder: Path, *sides: Side) -> Live:
    return Live(merge(linked(), sides), folder)
