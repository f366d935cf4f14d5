"""What of a module's state code can change besides linear memory: read off the code, not assumed.

An instance is used for another session only if that is known and can be looked at from outside (reuse.py).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from .binary import FormatError, Module, unsigned
from .code import BR_TABLE, GLOBAL_SET, TRY_TABLE, skip_clauses, skip_locals, skip_targets

_L: Final = rb"[\x80-\xff]*+[\x00-\x7f]"
_BLOCK_TYPE: Final = rb"(?:[\x63\x64]" + _L + rb"|" + _L + rb")"
# Every instruction that changes nothing but the operand stack, locals and memory, and needs no look inside.
_HARMLESS: Final = (
    rb"[\x00\x01\x05\x0a\x0b\x0f\x1a\x1b\x45-\xc4\xd1]"
    rb"|[\x20-\x23\x25\x41\x42\xd0\xd2\x08\x0c\x0d\x10\x12\x14\x15]" + _L + rb"|[\x28-\x3e]" + _L + _L + rb"|[\x3f\x40]\x00"
    rb"|\x43.{4}|\x44.{8}|[\x11\x13]" + _L + _L + rb"|\x1c\x01[\x6f-\x7f]|[\x02-\x04]" + _BLOCK_TYPE
    + rb"|\xfc(?:[\x00-\x07]|\x0a" + _L + _L + rb"|[\x0b\x10]" + _L + rb")"
    rb"|\xfd(?:[\x00-\x0b\x5c\x5d]" + _L + _L + rb"|[\x0c\x0d].{16}|[\x15-\x22].|[\x54-\x5b]" + _L + _L + rb"."
    rb"|[\x0e-\x14\x23-\x53\x5e-\x7f]|[\x80-\xff]++[\x00-\x7f])"
    rb"|\xfe(?:\x03.|[\x00-\x02\x10-\x7f]" + _L + _L + rb")|\xfb[\x14-\x17]" + _L
)  # fmt: skip
_run: Final = re.compile(rb"(?:" + _HARMLESS + rb")*+", re.DOTALL).match
_TABLE_SET, _PREFIX, _GROW = 0x26, 0xFC, 15
_EXTERNREF: Final = 0x6F


class State(NamedTuple):
    """Indices of the globals that code sets, and of the tables that code may enlarge."""

    globals: tuple[int, ...]
    tables: tuple[int, ...]


def changeable(module: Module) -> State:
    """What code can change. Raises FormatError for code whose changes could not be seen from outside.

    An element of a table cannot be compared from outside, so tables must not be written to; only those that start empty may, for what is
    in them then shows in their size.
    """
    tables = module.read_tables()
    empty = {n for n, kind in enumerate(tables) if kind[0] == _EXTERNREF and unsigned(kind, 2)[0] == 0}
    globals_: set[int] = set()
    touched: set[int] = set()
    for body in module.read_bodies():
        position, end = skip_locals(body)[2], len(body)
        while True:
            match = _run(body, position)
            assert match is not None  # an empty run matches
            position = match.end()
            if position == end:
                break
            op = body[position]
            position += 1
            if op == GLOBAL_SET:
                index, position = unsigned(body, position)
                globals_.add(index)
            elif op == BR_TABLE:
                position = skip_targets(body, position)
            elif op == TRY_TABLE:
                position = skip_clauses(body, position)
            elif op == _TABLE_SET or (op == _PREFIX and body[position] == _GROW):
                index, position = unsigned(body, position + (op == _PREFIX))
                if index not in empty:
                    raise FormatError(f"code changes table {index}")
                touched.add(index)
            else:
                raise FormatError(f"opcode {op:#x} changes what cannot be seen")
    return State(tuple(sorted(globals_)), tuple(sorted(touched)))
