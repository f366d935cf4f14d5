"""Instructions of a function body: where they start and end, and the indices inside them.

Bodies are walked by regular expressions that swallow runs of instructions of no interest: one pass over
six megabytes of code then takes well under a second, which a loop over single instructions would not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from .binary import FormatError, encode_signed, encode_unsigned, signed, unsigned, value_type

BLOCK, LOOP, IF, ELSE, TRY, CATCH, THROW, RETHROW, THROW_REF, END = 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
BR, BR_IF, BR_TABLE, RETURN, CALL, CALL_INDIRECT, RETURN_CALL = 0x0C, 0x0D, 0x0E, 0x0F, 0x10, 0x11, 0x12
RETURN_CALL_INDIRECT, CALL_REF, RETURN_CALL_REF, DELEGATE, CATCH_ALL = 0x13, 0x14, 0x15, 0x18, 0x19
TRY_TABLE, LOCAL_GET, LOCAL_SET, GLOBAL_GET, GLOBAL_SET, REF_FUNC, GC = 0x1F, 0x20, 0x21, 0x23, 0x24, 0xD2, 0xFB

# Immediates: one number, a block type, and those of the instructions that begin with 0xFD (vectors) and 0xFE (atomics).
LEB: Final = rb"[\x80-\xff]*+[\x00-\x7f]"
BLOCK_TYPE: Final = rb"(?:[\x63\x64]" + LEB + rb"|" + LEB + rb")"
VECTOR: Final = (
    rb"\xfd(?:[\x00-\x0b\x5c\x5d]" + LEB + LEB + rb"|[\x0c\x0d].{16}|[\x15-\x22].|[\x54-\x5b]" + LEB + LEB + rb"."
    rb"|[\x0e-\x14\x23-\x53\x5e-\x7f]|[\x80-\xff]++[\x00-\x7f])"
)
ATOMIC: Final = rb"\xfe(?:\x03.|[\x00-\x02\x10-\x7f]" + LEB + LEB + rb")"
# Everything that carries no function index and no label, one alternative per shape of the immediates.
_PLAIN: Final = (
    rb"[\x00\x01\x0f\x1a\x1b\x45-\xc4\xd1]"
    rb"|[\x20-\x26\x41\x42\xd0]" + LEB + rb"|[\x28-\x3e]" + LEB + LEB + rb"|[\x3f\x40]\x00"
    rb"|\x43.{4}|\x44.{8}|[\x11\x13]" + LEB + LEB + rb"|\x1c\x01[\x6f-\x7f]|\x08" + LEB + rb"|\x0a"
    rb"|\xfc(?:[\x00-\x07]|[\x08\x0a\x0c\x0e]" + LEB + LEB + rb"|[\x09\x0b\x0d\x0f-\x11]" + LEB + rb")"
    rb"|" + VECTOR + rb"|" + ATOMIC
)
_CONTROL: Final = rb"|[\x02-\x04]" + BLOCK_TYPE + rb"|[\x05\x0b]|[\x0c\x0d]" + LEB
# A run that may hold blocks and branches: stops at calls, ref.func, br_table and exception handling.
run_over_control: Final = re.compile(rb"(?:" + _PLAIN + _CONTROL + rb")*+", re.DOTALL).match
_CALL: Final = rb"|[\x10\x12\x14\x15\xd2]" + LEB
# A run of everything but loops, and what is of no fixed shape: br_table, try_table, instructions on types.
run_over_calls: Final = re.compile(
    rb"(?:" + _PLAIN + _CONTROL.replace(rb"\x02-\x04", rb"\x02\x04") + _CALL + rb")*+", re.DOTALL
).match
# A run without any control flow: stops at everything that needs label bookkeeping too.
run_plain: Final = re.compile(rb"(?:" + _PLAIN + rb")*+", re.DOTALL).match


def skip_locals(body: bytes) -> tuple[int, int, int]:
    """Read the local declarations: (how many groups, how many locals, position of the first instruction)."""
    groups, position = unsigned(body, 0)
    total = 0
    for _ in range(groups):
        count, position = unsigned(body, position)
        total += count
        position = value_type(body, position)
    return groups, total, position


def block_type(body: bytes, position: int) -> int:
    """The position after a block type."""
    if body[position] in (0x63, 0x64):
        return signed(body, position + 1)[1]
    return signed(body, position)[1]


def skip_targets(body: bytes, position: int) -> int:
    """The position after the immediates of a br_table: a count, so many labels, and the default's."""
    count, position = unsigned(body, position)
    for _ in range(count + 1):
        _, position = unsigned(body, position)
    return position


def skip_clauses(body: bytes, position: int) -> int:
    """The position after the immediates of a try_table: a block type, a count, so many clauses."""
    count, position = unsigned(body, block_type(body, position))
    for _ in range(count):
        names_tag = body[position] < 2  # catch, catch_ref; else catch_all, catch_all_ref
        position += 1
        for _ in range(1 + names_tag):
            _, position = unsigned(body, position)
    return position


def interesting(body: bytes, position: int) -> Iterator[tuple[int, int, int]]:
    """Yield (opcode, start, end) of each control instruction and call; what lies between is plain."""
    end = len(body)
    while True:
        match = run_plain(body, position)
        assert match is not None  # an empty run matches
        position = match.end()
        if position == end:
            return
        start, op = position, body[position]
        position += 1
        if op in (BLOCK, LOOP, IF, TRY):
            position = block_type(body, position)
        elif op in (CATCH, RETHROW, BR, BR_IF, CALL, RETURN_CALL, DELEGATE, REF_FUNC):
            _, position = unsigned(body, position)
        elif op == BR_TABLE:
            position = skip_targets(body, position)
        elif op not in (ELSE, END, CATCH_ALL):
            raise FormatError(f"opcode {op:#x} at {start}")
        yield op, start, position


def renumber_calls(
    body: bytes, position: int, functions: Sequence[bytes], watched: frozenset[int]
) -> tuple[bytes, bool, bool]:
    """Give every function index in a body its new number (`functions[old]` is the encoded new one).

    Returns the body, whether it uses legacy exception handling (then it is unchanged), and whether it calls one of `watched`.
    """
    found = False
    parts: list[bytes] = []
    end = len(body)
    copied = 0
    while True:
        match = run_over_control(body, position)
        assert match is not None  # an empty run matches
        position = match.end()
        if position == end:
            break
        op = body[position]
        position += 1
        if op in (CALL, REF_FUNC, RETURN_CALL):
            parts.append(body[copied:position])
            index, position = unsigned(body, position)
            parts.append(functions[index])
            copied = position
            if index in watched:
                found = True
        elif op == BR_TABLE:
            position = skip_targets(body, position)
        elif op == TRY:
            return body, True, found
        else:
            raise FormatError(f"opcode {op:#x} at {position - 1}")
    if not parts:
        return body, False, found
    parts.append(body[copied:])
    return b"".join(parts), False, found


_STEP: Final = re.compile(_PLAIN, re.DOTALL).match


def relocate(
    body: bytes,
    *,
    function: Callable[[int], int],
    type_index: Callable[[int], int],
    global_index: Callable[[int], int],
) -> bytes:
    """Rewrite every function, type and global index of a body (small modules: one step per instruction)."""
    _, _, position = skip_locals(body)
    out = bytearray(body[:position])  # helper modules declare locals of number types only
    end = len(body)
    while position < end:
        start, op = position, body[position]
        if op in (GLOBAL_GET, GLOBAL_SET):
            index, position = unsigned(body, start + 1)
            out.append(op)
            out += encode_unsigned(global_index(index))
        elif op in (CALL_INDIRECT, RETURN_CALL_INDIRECT):
            index, middle = unsigned(body, start + 1)
            _, position = unsigned(body, middle)
            out.append(op)
            out += encode_unsigned(type_index(index)) + body[middle:position]
        elif op in (CALL_REF, RETURN_CALL_REF):
            index, position = unsigned(body, start + 1)
            out.append(op)
            out += encode_unsigned(type_index(index))
        elif op in (CALL, RETURN_CALL, REF_FUNC):
            index, position = unsigned(body, start + 1)
            out.append(op)
            out += encode_unsigned(function(index))
        elif op in (BLOCK, LOOP, IF):
            position = block_type(body, start + 1)
            out.append(op)
            if body[start + 1] in (0x63, 0x64):
                raise FormatError("a block with a reference type")
            kind, _ = signed(body, start + 1)
            out += body[start + 1 : position] if kind < 0 else encode_signed(type_index(kind))
        elif op in (ELSE, END):
            position = start + 1
            out.append(op)
        elif op in (BR, BR_IF):
            _, position = unsigned(body, start + 1)
            out += body[start:position]
        elif op == BR_TABLE:
            position = skip_targets(body, start + 1)
            out += body[start:position]
        elif op == GC and body[start + 1] in (0x14, 0x15, 0x16, 0x17):  # ref.test, ref.cast
            heap, position = signed(body, start + 2)
            out += body[start : start + 2]
            out += encode_signed(heap if heap < 0 else type_index(heap))
        else:
            match = _STEP(body, start)
            if match is None:
                raise FormatError(f"opcode {op:#x} at {start}")
            position = match.end()
            out += body[start:position]
    return bytes(out)
