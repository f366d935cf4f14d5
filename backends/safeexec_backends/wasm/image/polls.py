"""Reads of the poll page at the beginning of every function and every loop (../stops.py says what for).

A guest that is in none of the two for long does not exist: code that neither loops nor calls has an end. Functions count as well as loops because
recursion alone can take for ever: ``hash()`` of slices of slices of slices calls three times as often with each level and loops nowhere.
The reads are atomic ones, which a compiler does not take out of a loop or merge with the one before.
"""

from __future__ import annotations

from typing import Final

from safeexec_backends.wasm.stops import POLL

from .binary import CODE, MEMORY, FormatError, Module, i32_constant, signed
from .code import BR_TABLE, GC, LOOP, TRY_TABLE, block_type, run_over_calls, skip_clauses, skip_locals, skip_targets

_READ: Final = i32_constant(POLL)[:-1] + b"\xfe\x12\x00\x00" + b"\x1a"
"""i32.const, i32.atomic.load8_u, drop."""


def polled(wasm: bytes) -> bytes:
    """The module with its polls. Raises FormatError for code this builder does not know, and for a module with code and no memory."""
    module = Module(wasm)
    if CODE not in module.sections:
        return wasm
    if MEMORY not in module.sections:
        raise FormatError("a module without a memory of its own has nothing to poll")
    module.write_bodies([_polled(body) for body in module.read_bodies()])
    return module.dump()


def _polled(body: bytes) -> bytes:
    position = skip_locals(body)[2]
    parts = [body[:position], _READ]
    copied = position
    end = len(body)
    while True:
        match = run_over_calls(body, position)
        assert match is not None  # an empty run matches
        position = match.end()
        if position == end:
            break
        op = body[position]
        position += 1
        if op == LOOP:
            position = block_type(body, position)
            parts += (body[copied:position], _READ)
            copied = position
        elif op == BR_TABLE:
            position = skip_targets(body, position)
        elif op == TRY_TABLE:
            position = skip_clauses(body, position)
        elif op == GC and body[position] in (0x14, 0x15, 0x16, 0x17):  # ref.test, ref.cast
            _, position = signed(body, position + 1)
        else:
            raise FormatError(f"opcode {op:#x} at {position - 1}")
    parts.append(body[copied:])
    return b"".join(parts)
