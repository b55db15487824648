"""A small assembler for classic BPF, as seccomp(2) runs it.

Standard: the instruction set of the kernel's `Documentation/networking/filter.rst`, as far as a
filter over `struct seccomp_data` needs it: load a 32-bit word, mask it, compare it, return.

A program here is a list of *blocks*. A block looks at one system call and, once entered, always
ends in a return: no jump leaves it, so that what a filter does can be read from top to bottom.
Pure: touches nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

LD_ABS = 0x20
AND = 0x54
JEQ = 0x15
JGE = 0x35
JSET = 0x45
RET = 0x06

KILL_PROCESS = 0x8000_0000
ALLOW = 0x7FFF_0000
_ERRNO = 0x0005_0000

MAX_JUMP = 255
MAX_INSTRUCTIONS = 4096

# Offsets in struct seccomp_data; both architectures that we know are little-endian.
NUMBER = 0
ARCHITECTURE = 4


class Instruction(NamedTuple):
    """One `struct sock_filter`."""

    code: int
    k: int
    if_true: int = 0
    if_false: int = 0


def errno_(number: int) -> int:
    """The return value that makes a system call fail with this errno."""
    return _ERRNO | number


def low_word(argument: int) -> int:
    """Offset of the low half of an argument.

    The kernel looks at no more than that of an `int`: a comparison of all 64 bits would be passed
    by setting one that nobody reads.
    """
    return 16 + 8 * argument


def load(offset: int) -> Instruction:
    return Instruction(LD_ABS, offset)


def mask(bits: int) -> Instruction:
    return Instruction(AND, bits)


def give(value: int) -> Instruction:
    """End the filter with this value."""
    return Instruction(RET, value)


def when_equal(value: int, then: Sequence[Instruction]) -> list[Instruction]:
    """Run `then` if the word is `value`; else go on behind it."""
    return [Instruction(JEQ, value, 0, _short(then)), *then]


def unless_equal(value: int, then: Sequence[Instruction]) -> list[Instruction]:
    return [Instruction(JEQ, value, _short(then), 0), *then]


def when_at_least(value: int, then: Sequence[Instruction]) -> list[Instruction]:
    return [Instruction(JGE, value, 0, _short(then)), *then]


def when_any_bit(bits: int, then: Sequence[Instruction]) -> list[Instruction]:
    return [Instruction(JSET, bits, 0, _short(then)), *then]


def one_of(values: Sequence[int], otherwise: int) -> list[Instruction]:
    """End with `otherwise` unless the word is one of `values`; then go on."""
    code: list[Instruction] = []
    for index, value in enumerate(values):
        # Over the comparisons that are left, and over the return behind them.
        code.append(Instruction(JEQ, value, len(values) - index, 0))
    return [*code, give(otherwise)]


def assemble(program: Sequence[Instruction]) -> bytes:
    """The program as the kernel reads it."""
    if not 0 < len(program) <= MAX_INSTRUCTIONS:
        raise ValueError(f"a filter of {len(program)} instructions")
    for place, one in enumerate(program):
        if one.code in (JEQ, JGE, JSET) and place + 1 + max(one.if_true, one.if_false) >= len(
            program
        ):
            raise ValueError(f"instruction {place} jumps behind the end")
    if program[-1].code != RET:
        raise ValueError("the filter does not end in a return")
    return b"".join(struct.pack("<HBBI", i.code, i.if_true, i.if_false, i.k) for i in program)


def _short(block: Sequence[Instruction]) -> int:
    if len(block) > MAX_JUMP:
        raise ValueError(f"a block of {len(block)} instructions cannot be jumped over")
    return len(block)
