"""An assembler for the classic BPF programs that seccomp runs (linux/filter.h, linux/seccomp.h)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP, _EQUAL, _AT_LEAST = 0x05, 0x15, 0x35  # BPF_JMP | BPF_JA, BPF_JEQ, BPF_JGE, each with BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
USER_NOTIF = 0x7FC00000
"""Whoever has the filter's listener decides; the caller waits. Where nobody has it, the call fails with ENOSYS."""


def errno(code: int) -> int:
    """The action that makes a call fail with `code`."""
    return 0x00050000 | code


class Instruction(NamedTuple):
    code: int
    yes: int
    no: int
    k: int


class OneOf(NamedTuple):
    """Argument `argument`, an int in the kernel as here (so its upper half does not count), is one of `values`."""

    argument: int
    values: tuple[int, ...]


class Within(NamedTuple):
    """Argument `argument` (32 bits) has no bit outside `mask` and every bit of `required`."""

    argument: int
    mask: int
    required: int = 0


class WithinOrOneOf(NamedTuple):
    """`Within`, or exactly one of `values`."""

    argument: int
    mask: int
    required: int
    values: tuple[int, ...]


class Between(NamedTuple):
    """Argument `argument`, a positive int in the kernel, lies between `low` and `high`, both included, or is one of `also`."""

    argument: int
    low: int
    high: int = 0x7FFFFFFF
    also: tuple[int, ...] = ()


class MaskedOneOf(NamedTuple):
    """Argument `argument` (32 bits), masked, is one of `values`."""

    argument: int
    mask: int
    values: tuple[int, ...]


class Unless(NamedTuple):
    """Argument `argument` (an int) is not `value`; if it is, `action` is taken at once."""

    argument: int
    value: int
    action: int


class UnlessNull(NamedTuple):
    """Argument `argument`, a pointer, is not null; if it is, in both halves, `action` is taken at once."""

    argument: int
    action: int


Condition = OneOf | Within | WithinOrOneOf | Between | MaskedOneOf | Unless | UnlessNull


class Rule(NamedTuple):
    """What happens to one system call: allowed when every condition holds, `otherwise` if one does not."""

    conditions: tuple[Condition, ...]
    otherwise: int


Action = int | Rule


def _load(offset: int) -> Instruction:
    return Instruction(_LOAD, 0, 0, offset)


def _values(values: tuple[int, ...], tail: int) -> list[Instruction]:
    # Each comparison jumps over the rest of the comparisons, or on to the next; the last one over `tail` instructions to the refusal.
    count = len(values)
    return [
        Instruction(_EQUAL, count - place - 1, tail if place == count - 1 else 0, value & 0xFFFFFFFF)
        for place, value in enumerate(values)
    ]


def _condition(condition: Condition, tail: int) -> list[Instruction]:
    low = _ARGUMENTS + 8 * condition.argument
    if isinstance(condition, OneOf):
        return [_load(low), *_values(condition.values, tail)]
    if isinstance(condition, Unless):
        return [_load(low), Instruction(_EQUAL, 0, 1, condition.value), Instruction(_RETURN, 0, 0, condition.action)]
    if isinstance(condition, UnlessNull):
        halves = [_load(low), Instruction(_EQUAL, 0, 3, 0), _load(low + 4), Instruction(_EQUAL, 0, 1, 0)]
        return [*halves, Instruction(_RETURN, 0, 0, condition.action)]
    if isinstance(condition, MaskedOneOf):
        return [_load(low), Instruction(_AND, 0, 0, condition.mask), *_values(condition.values, tail)]
    if isinstance(condition, Between):
        count = len(condition.also)
        return [
            _load(low),
            *[Instruction(_EQUAL, count - place + 1, 0, value) for place, value in enumerate(condition.also)],
            Instruction(_AT_LEAST, 0, tail + 1, condition.low),
            Instruction(_AT_LEAST, tail, 0, condition.high + 1),
        ]
    if isinstance(condition, WithinOrOneOf):
        body = _condition(Within(condition.argument, condition.mask, condition.required), tail)
        count = len(condition.values)
        over = [Instruction(_EQUAL, count - place - 1 + len(body), 0, v) for place, v in enumerate(condition.values)]
        return [_load(low), *over, *body]
    body = [_load(low), Instruction(_AND, 0, 0, condition.required), Instruction(_EQUAL, 0, tail, condition.required)]
    outside = ~condition.mask & 0xFFFFFFFF
    return [_load(low), Instruction(_AND, 0, 0, outside), Instruction(_EQUAL, 0, len(body) + tail, 0), *body]


def _leaf(action: Action) -> list[Instruction]:
    if isinstance(action, int):
        return [Instruction(_RETURN, 0, 0, action)]
    code = [Instruction(_RETURN, 0, 0, ALLOW)]
    for condition in reversed(action.conditions):
        code = _condition(condition, len(code)) + code
    return [*code, Instruction(_RETURN, 0, 0, action.otherwise)]


def _tree(ranges: Sequence[tuple[int, Action]]) -> list[Instruction]:
    # A search tree, not a chain: the kernel walks the program once per system call number when it is installed.
    if len(ranges) == 1:
        return _leaf(ranges[0][1])
    middle = len(ranges) // 2
    left, right = _tree(ranges[:middle]), _tree(ranges[middle:])
    if len(left) <= 255:
        return [Instruction(_AT_LEAST, len(left), 0, ranges[middle][0]), *left, *right]
    return [Instruction(_AT_LEAST, 0, 1, ranges[middle][0]), Instruction(_JUMP, 0, 0, len(left)), *left, *right]


def assemble(arch: int, actions: Mapping[int, Action], default: int, beyond: int) -> list[Instruction]:
    """A filter: `actions` by system call number, `default` for other numbers up to the highest one, `beyond` above it.

    Another architecture's calls (a 32-bit entry on a 64-bit kernel has other numbers) and x32's kill the process.
    """
    ranges: list[tuple[int, Action]] = []

    def add(start: int, action: Action) -> None:
        if not ranges or ranges[-1][1] != action:
            ranges.append((start, action))

    following = 0
    for nr in sorted(actions):
        if nr > following:
            add(following, default)
        add(nr, actions[nr])
        following = nr + 1
    add(following, beyond)
    add(0x40000000, KILL_PROCESS)  # __X32_SYSCALL_BIT and everything above, negative numbers included
    program = [
        _load(_ARCH),
        Instruction(_EQUAL, 1, 0, arch),
        Instruction(_RETURN, 0, 0, KILL_PROCESS),
        _load(_NUMBER),
        *_tree(ranges),
    ]
    if len(program) > 4096:
        raise ValueError("the filter is longer than the kernel takes")
    return program


def encode(program: Sequence[Instruction]) -> bytes:
    """struct sock_filter[]: u16 code; u8 jt; u8 jf; u32 k."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
