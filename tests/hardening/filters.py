"""What the kernel would answer to a system call under a filter, computed here: some filters cannot be installed on the machine that tests them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from safeexec_backends._hardening.bpf import Instruction

# linux/bpf_common.h, put together anew: what the assembler calls an instruction is not taken from it.
LD, ALU, JMP, RET = 0x00, 0x04, 0x05, 0x06
W_ABS = 0x20
AND, JA, JEQ, JGE = 0x50, 0x00, 0x10, 0x30


def evaluate(program: Sequence[Instruction], arch: int, nr: int, arguments: Sequence[int] = ()) -> int:
    """The action for call `nr` of `arch` with `arguments`; those that are not given are 0."""
    padded = [*arguments, *([0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", nr & 0xFFFFFFFF, arch, 0, *[a & 0xFFFFFFFFFFFFFFFF for a in padded])
    accumulator = counter = 0
    while True:
        code, yes, no, k = program[counter]
        counter += 1
        if code == RET:
            return k
        if code == LD | W_ABS:
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif code == ALU | AND:
            accumulator &= k
        elif code == JMP | JA:
            counter += k
        elif code == JMP | JEQ:
            counter += yes if accumulator == k else no
        elif code == JMP | JGE:
            counter += yes if accumulator >= k else no
        else:
            raise ValueError(f"unknown instruction {code:#x}")
