"""The doorstep: the few machine instructions between a finished sandbox and the command in it.

bwrap(1) runs this program instead of the command. By then everything is mounted, all capabilities
are gone and the seccomp filter holds. What is left must happen inside, right before the command,
and within microseconds; an interpreter would have to be visible in the sandbox and would take
longer than all the rest. So it is a static ELF file of some hundred bytes, put together here:

    write(3, "r", 1)                        ready; the kernel adds who writes (unix(7))
    read(3, …, 1) = 1, or exit 125          until the warden says that all is checked
    mmap(A, …, PROT_READ, PRIVATE | FIXED, 8, 0) = A, or exit      what to execute (`image.py`)
    chdir(A[3]) = 0, or exit
    landlock_restrict_self(4, 0), or exit   the rule set that the warden has filled
    close_range(3, MAX, CLOEXEC), or exit   nothing but 0, 1 and 2 reaches the command
    execve(A[0], A[1], A[2])
    write(3, errno, 4), exit 127            it could not be executed

Every other failure exits with 125 as well: without Landlock there is no command. Formats: the
System V ABI's ELF, x86_64 and AArch64 instruction encodings. Pure: makes bytes.
"""

from __future__ import annotations

import functools
import platform
import struct

from hostwright_guard.sandbox.image import ADDRESS, MAPPED
from hostwright_guard.sandbox.seccomp import UnknownMachineError

CONTROL_FD = 3
RULESET_FD = 4
IMAGE_FD = 8

NOT_READY = 125
NOT_EXECUTED = 127

_BASE = 0x40_0000
_HEADERS = 64 + 56
_MACHINES = {"x86_64": 62, "aarch64": 183}


@functools.cache
def doorstep(machine: str | None = None) -> bytes:
    """The program for one architecture."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        raise UnknownMachineError(machine)
    code = _x86_64() if machine == "x86_64" else _aarch64()
    size = _HEADERS + len(code)
    header = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 2, _MACHINES[machine], 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    # One segment, readable and executable: PT_LOAD, PF_R | PF_X.
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code


def _x86_64() -> bytes:
    """rdi, rsi, rdx, r10, r8, r9 are arguments, rax the call; rbx keeps the image's address."""

    def call(number: int) -> bytes:
        return b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"  # mov eax, number; syscall

    one_byte = b"\x48\x89\xe6\xba\x01\x00\x00\x00"  # mov rsi, rsp; mov edx, 1
    control = b"\xbf" + struct.pack("<I", CONTROL_FD)  # mov edi, CONTROL_FD
    leave = b"\xbf" + struct.pack("<I", NOT_READY) + call(60)  # exit(125)
    leave_unless_zero = b"\x85\xc0\x74" + bytes([len(leave)]) + leave  # test eax, eax; jz over
    leave_unless_one = b"\x83\xf8\x01\x74" + bytes([len(leave)]) + leave  # cmp eax, 1; je over
    return b"".join(
        (
            b"\x6a\x72",  # push 'r'
            control + one_byte + call(1) + leave_unless_one,  # write
            control + one_byte + call(0) + leave_unless_one,  # read
            b"\xbb" + struct.pack("<I", ADDRESS),  # mov ebx, ADDRESS
            b"\x89\xdf\xbe" + struct.pack("<I", MAPPED),  # mov edi, ebx; mov esi, MAPPED
            b"\xba\x01\x00\x00\x00\x41\xba\x12\x00\x00\x00",  # mov edx, 1; mov r10d, 0x12
            b"\x41\xb8" + struct.pack("<I", IMAGE_FD) + b"\x45\x31\xc9",  # mov r8d; xor r9d, r9d
            call(9),  # mmap
            b"\x48\x39\xd8\x74" + bytes([len(leave)]) + leave,  # cmp rax, rbx; je over
            b"\x48\x8b\x7b\x18" + call(80) + leave_unless_zero,  # chdir([rbx + 24])
            b"\xbf" + struct.pack("<I", RULESET_FD) + b"\x31\xf6" + call(446) + leave_unless_zero,
            control,
            b"\xbe\xff\xff\xff\xff\xba\x04\x00\x00\x00",  # mov esi, -1; mov edx, CLOEXEC
            call(436) + leave_unless_zero,
            b"\x48\x8b\x3b",  # mov rdi, [rbx]: program
            b"\x48\x8b\x73\x08",  # mov rsi, [rbx + 8]: arguments
            b"\x48\x8b\x53\x10",  # mov rdx, [rbx + 16]: variables
            call(59),  # execve
            b"\xf7\xd8\x50",  # neg eax; push rax
            control + b"\x48\x89\xe6\xba\x04\x00\x00\x00" + call(1),
            b"\xbf" + struct.pack("<I", NOT_EXECUTED) + call(60),
        )
    )


def _aarch64() -> bytes:
    """x0 to x5 are arguments, x8 the call; x19 keeps the image's address. Every instruction is one
    little-endian word."""

    def words(*values: int) -> bytes:
        return struct.pack(f"<{len(values)}I", *values)

    def mov(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register  # movz xN, #value

    def mov_high(register: int, value: int) -> int:
        return 0xD2A00000 | value >> 16 << 5 | register  # movz xN, #value, lsl #16

    def call(number: int) -> tuple[int, int]:
        return mov(8, number), 0xD4000001  # svc #0

    leave = (mov(0, NOT_READY), *call(93))
    over = (len(leave) + 1) << 5
    leave_unless_zero = (0x34000000 | over, *leave)  # cbz w0, over
    # cmp w0, #1; b.eq over
    leave_unless_one = (0x7100041F, 0x54000000 | over, *leave)
    stack_to_x1 = 0x910003E1  # mov x1, sp
    return words(
        mov(1, ord("r")),
        0xF81F0FE1,  # str x1, [sp, #-16]!
        *(mov(0, CONTROL_FD), stack_to_x1, mov(2, 1), *call(64), *leave_unless_one),  # write
        *(mov(0, CONTROL_FD), stack_to_x1, mov(2, 1), *call(63), *leave_unless_one),  # read
        *(mov_high(19, ADDRESS), mov_high(0, ADDRESS), mov_high(1, MAPPED), mov(2, 1)),
        *(mov(3, 0x12), mov(4, IMAGE_FD), mov(5, 0), *call(222)),  # mmap
        *(0xEB13001F, 0x54000000 | over, *leave),  # cmp x0, x19; b.eq over
        0xF9400E60,  # ldr x0, [x19, #24]
        *(*call(49), *leave_unless_zero),  # chdir
        *(mov(0, RULESET_FD), mov(1, 0), *call(446), *leave_unless_zero),
        *(mov(0, CONTROL_FD), 0x12800001, mov(2, 4)),  # mov w1, #-1
        *(*call(436), *leave_unless_zero),
        0xF9400260,  # ldr x0, [x19]: program
        0xF9400661,  # ldr x1, [x19, #8]: arguments
        0xF9400A62,  # ldr x2, [x19, #16]: variables
        *call(221),  # execve
        0x4B0003E0,  # neg w0, w0
        0xB90003E0,  # str w0, [sp]
        *(mov(0, CONTROL_FD), stack_to_x1, mov(2, 4), *call(64)),
        *(mov(0, NOT_EXECUTED), *call(93)),
    )
