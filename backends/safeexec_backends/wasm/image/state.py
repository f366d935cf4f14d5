"""What of a module's state code can change besides linear memory: read off the code, not assumed.

An instance is used for another session only if that is known and can be looked at from outside (reuse.py).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from .binary import FormatError, Module, unsigned
from .code import (
    ATOMIC,
    BLOCK_TYPE,
    BR_TABLE,
    GLOBAL_SET,
    LEB,
    TRY_TABLE,
    VECTOR,
    skip_clauses,
    skip_locals,
    skip_targets,
)

# Every instruction that changes nothing but the operand stack, locals and memory, and needs no look inside.
_HARMLESS: Final = (
    rb"[\x00\x01\x05\x0a\x0b\x0f\x1a\x1b\x45-\xc4\xd1]"
    rb"|[\x20-\x23\x25\x41\x42\xd0\xd2\x08\x0c\x0d\x10\x12\x14\x15]" + LEB + rb"|[\x28-\x3e]" + LEB + LEB + rb"|[\x3f\x40]\x00"
    rb"|\x43.{4}|\x44.{8}|[\x11\x13]" + LEB + LEB + rb"|\x1c\x01[\x6f-\x7f]|[\x02-\x04]" + BLOCK_TYPE
    + rb"|\xfc(?:[\x00-\x07]|\x0a" + LEB + LEB + rb"|[\x0b\x10]" + LEB + rb")"
    rb"|" + VECTOR + rb"|" + ATOMIC + rb"|\xfb[\x14-\x17]" + LEB
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
