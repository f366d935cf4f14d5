"""Give every index in a function's body its new number: what moving a function into another module takes.

Runs of instructions that hold no index are swallowed by one regular expression, as in code.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from .binary import FormatError, encode_signed, encode_unsigned, signed, unsigned
from .code import (
    ATOMIC,
    BLOCK,
    BR_TABLE,
    CALL,
    CALL_INDIRECT,
    GLOBAL_GET,
    GLOBAL_SET,
    IF,
    LEB,
    LOOP,
    REF_FUNC,
    RETURN_CALL,
    RETURN_CALL_INDIRECT,
    THROW,
    TRY,
    TRY_TABLE,
    VECTOR,
    skip_locals,
)

_UNCHANGED: Final = (
    rb"[\x00\x01\x05\x0a\x0b\x0f\x1a\x1b\x45-\xc4\xd1]"
    rb"|[\x20-\x22\x41\x42\x0c\x0d]" + LEB + rb"|[\x28-\x3e]" + LEB + LEB + rb"|[\x02-\x04][\x40-\x62\x65-\x7f]"
    rb"|[\x3f\x40\x25\x26]\x00|\x43.{4}|\x44.{8}|\x1c\x01[\x6f-\x7f]|\xd0[\x69-\x70]"
    rb"|\xfc(?:[\x00-\x07]|\x0a" + LEB + LEB + rb"|\x0b" + LEB + rb")"
    rb"|" + VECTOR + rb"|" + ATOMIC
)
_run: Final = re.compile(rb"(?:" + _UNCHANGED + rb")*+", re.DOTALL).match


class Legacy(Exception):
    """The body uses legacy exceptions, which are translated first (exceptions.py)."""


class Numbers(NamedTuple):
    """The new numbers, encoded, by the old ones; block types are signed, so types are plain numbers."""

    functions: Sequence[bytes]
    globals: Sequence[bytes]
    tags: Sequence[bytes]
    types: Sequence[int]


def relocate(body: bytes, numbers: Numbers, watched: frozenset[bytes]) -> tuple[bytes, bool]:
    """The body with its new numbers, and whether it calls one of `watched` (new numbers, encoded).

    Raises Legacy, FormatError; IndexError where an index names nothing.
    """
    functions, globals_, tags, types = numbers
    found = False
    position = skip_locals(body)[2]  # their types are numbers, vectors and plain references: nothing to renumber
    parts: list[bytes] = []
    copied = 0
    end = len(body)
    while True:
        match = _run(body, position)
        assert match is not None  # an empty run matches
        position = match.end()
        if position >= end:
            break
        start, op = position, body[position]
        position += 1
        if op in (GLOBAL_GET, GLOBAL_SET):
            index, position = unsigned(body, position)
            new = globals_[index]
        elif op in (CALL, REF_FUNC, RETURN_CALL):
            index, position = unsigned(body, position)
            new = functions[index]
            found = found or new in watched
        elif op in (CALL_INDIRECT, RETURN_CALL_INDIRECT):
            index, position = unsigned(body, position)
            new = encode_unsigned(types[index]) + b"\0"
            if body[position] != 0:
                raise FormatError("a call through another table")
            position += 1
        elif op == THROW:
            index, position = unsigned(body, position)
            new = tags[index]
        elif op in (BLOCK, LOOP, IF):
            index, position = signed(body, position)
            if index < 0:
                raise FormatError("a block with a reference type")
            new = encode_signed(types[index])
        elif op == TRY_TABLE:
            new, position = _try_table(body, position, numbers)
        elif op == BR_TABLE:
            count, position = unsigned(body, position)
            if count > end - position:
                raise FormatError("a branch table larger than the function")
            for _ in range(count + 1):
                _, position = unsigned(body, position)
            continue
        elif op == TRY:
            raise Legacy
        else:
            raise FormatError(f"opcode {op:#x} at {start}")
        parts += (body[copied : start + 1], new)
        copied = position
    parts.append(body[copied:])
    return b"".join(parts), found


def _try_table(body: bytes, position: int, numbers: Numbers) -> tuple[bytes, int]:
    kind, after = signed(body, position)
    out = bytearray(body[position:after] if kind < 0 else encode_signed(numbers.types[kind]))
    if kind < 0 and body[position] in (0x63, 0x64):
        raise FormatError("a block with a reference type")
    count, position = unsigned(body, after)
    out += encode_unsigned(count)
    for _ in range(count):
        clause = body[position]
        out.append(clause)
        position += 1
        if clause < 2:  # catch, catch_ref
            tag, position = unsigned(body, position)
            out += numbers.tags[tag]
        start = position
        _, position = unsigned(body, position)
        out += body[start:position]
    return bytes(out), position
