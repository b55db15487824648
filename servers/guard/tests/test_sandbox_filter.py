"""The system call filter, run instruction by instruction, against what it is meant to say."""

from __future__ import annotations

import errno
import platform
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_guard.sandbox import bpf, doorstep, seccomp, syscalls

MACHINES = tuple(seccomp.ARCHITECTURES)
WORD = st.integers(0, 2**64 - 1)
NUMBERS = st.integers(0, 520) | st.integers(0, 2**32 - 1)


def run(program: bytes, data: bytes) -> int:
    """Classic BPF as the kernel runs it."""
    code = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        if operation == bpf.LD_ABS:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif operation == bpf.AND:
            accumulator &= k
        elif operation == bpf.RET:
            return k
        else:
            holds = {
                bpf.JEQ: accumulator == k,
                bpf.JGE: accumulator >= k,
                bpf.JSET: bool(accumulator & k),
            }[operation]
            at += if_true if holds else if_false


def judged(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    words = (*arguments, *[0] * (6 - len(arguments)))
    which = seccomp.ARCHITECTURES[machine] if architecture is None else architecture
    data = struct.pack("<IIQ6Q", number, which, 0, *(word & (2**64 - 1) for word in words))
    return run(seccomp.filter_for(machine), data)


def failing(number: int) -> int:
    return bpf.errno_(number)


def of(machine: str, numbers: syscalls.Numbers) -> int | None:
    return numbers.x86_64 if machine == "x86_64" else numbers.aarch64


@pytest.mark.parametrize("machine", MACHINES)
def test_every_forbidden_call_is_refused_whatever_its_arguments(machine: str) -> None:
    for name, numbers in syscalls.FORBIDDEN.items():
        number = of(machine, numbers)
        if number is not None:
            assert judged(machine, number, 2**64 - 1, 7, 0) == failing(errno.EPERM), name


@given(number=NUMBERS, arguments=st.lists(WORD, min_size=6, max_size=6), arch=WORD)
@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_ends_the_process(
    machine: str, number: int, arguments: list[int], arch: int
) -> None:
    arch &= 0xFFFF_FFFF
    if arch != seccomp.ARCHITECTURES[machine]:
        assert judged(machine, number, *arguments, architecture=arch) == bpf.KILL_PROCESS


@given(number=st.integers(0, 2**32 - 1), arguments=st.lists(WORD, min_size=6, max_size=6))
@pytest.mark.parametrize("machine", MACHINES)
def test_what_nobody_judged_does_not_exist(machine: str, number: int, arguments: list[int]) -> None:
    verdict = judged(machine, number, *arguments)
    if machine == "x86_64" and number >= seccomp.X32_BIT:
        assert verdict == bpf.KILL_PROCESS
    elif number > syscalls.LAST_JUDGED:
        assert verdict == failing(errno.ENOSYS)


@given(flags=WORD)
@pytest.mark.parametrize("machine", MACHINES)
def test_a_clone_makes_no_namespace(machine: str, flags: int) -> None:
    number = of(machine, syscalls.CLONE)
    assert number is not None
    allowed = judged(machine, number, flags) == bpf.ALLOW
    assert allowed == (not flags & seccomp.NEW_NAMESPACES)


@given(request=WORD)
@pytest.mark.parametrize("machine", MACHINES)
def test_high_bits_do_not_hide_a_request(machine: str, request: int) -> None:
    number = of(machine, syscalls.IOCTL)
    assert number is not None
    refused = judged(machine, number, 0, request) == failing(errno.EPERM)
    assert refused == (request & 0xFFFF_FFFF in seccomp.TERMINAL_INJECTION)
    for injection in seccomp.TERMINAL_INJECTION:
        hidden = (request << 32 | injection) & (2**64 - 1)
        assert judged(machine, number, 0, hidden) == failing(errno.EPERM)


@given(family=WORD, kind=WORD, protocol=WORD)
@pytest.mark.parametrize("machine", MACHINES)
def test_only_tcp_and_udp_have_sockets(machine: str, family: int, kind: int, protocol: int) -> None:
    number = of(machine, syscalls.SOCKET)
    assert number is not None
    low = [word & 0xFFFF_FFFF for word in (family, kind, protocol)]
    wanted = low[0] in (2, 10) and low[1] & 0xF in (1, 2) and low[2] in (0, 6, 17)
    assert (judged(machine, number, family, kind, protocol) == bpf.ALLOW) == wanted
    assert judged(machine, number, 2, 1 | 0o2000000, 6) == bpf.ALLOW


@given(kind=WORD)
@pytest.mark.parametrize("machine", MACHINES)
def test_a_pair_of_sockets_sends_to_nobody_else(machine: str, kind: int) -> None:
    number = of(machine, syscalls.SOCKETPAIR)
    assert number is not None
    allowed = judged(machine, number, 1, kind) == bpf.ALLOW
    assert allowed == (kind & 0xF in (1, 5))


@given(mode=WORD, flags=WORD)
@pytest.mark.parametrize("machine", MACHINES)
def test_no_file_gets_set_id_bits(machine: str, mode: int, flags: int) -> None:
    for name, call in syscalls.SET_MODE.items():
        number = of(machine, call.numbers)
        if number is None:
            continue
        arguments = [0] * 6
        arguments[call.mode] = mode
        if call.flags is not None:
            arguments[call.flags] = flags
        has_mode = call.flags is None or flags & seccomp.CREATES
        refused = judged(machine, number, *arguments) == failing(errno.EPERM)
        assert refused == bool(has_mode and mode & 0o6000), name


@pytest.mark.parametrize("machine", MACHINES)
def test_ordinary_calls_are_allowed(machine: str) -> None:
    ordinary = {"x86_64": (0, 1, 3, 9, 11, 59, 231, 202), "aarch64": (63, 64, 57, 222, 221, 94, 98)}
    for number in ordinary[machine]:
        assert judged(machine, number, 0, 0, 0) == bpf.ALLOW


def test_a_program_that_jumps_out_of_itself_is_not_assembled() -> None:
    with pytest.raises(ValueError, match="behind the end"):
        bpf.assemble([*bpf.when_equal(1, []), bpf.Instruction(bpf.JEQ, 0, 5, 0), bpf.give(0)])
    with pytest.raises(ValueError, match="jumped over"):
        bpf.when_equal(1, [bpf.give(0)] * 256)
    with pytest.raises(ValueError, match="end in a return"):
        bpf.assemble([bpf.load(0)])
    with pytest.raises(seccomp.UnknownMachineError):
        seccomp.filter_for("vax")


@pytest.mark.parametrize("machine", MACHINES)
def test_the_doorstep_is_a_program_of_its_machine(machine: str) -> None:
    program = doorstep.doorstep(machine)
    assert program[:7] == b"\x7fELF\x02\x01\x01"
    kind, number = struct.unpack_from("<HH", program, 16)
    assert (kind, number) == (2, {"x86_64": 62, "aarch64": 183}[machine])
    (entry,) = struct.unpack_from("<Q", program, 24)
    _, flags, offset, address, _, size, _, _ = struct.unpack_from("<IIQQQQQQ", program, 64)
    assert (flags, offset, size) == (5, 0, len(program))
    assert entry == address + 120


@pytest.mark.skipif(platform.machine() not in MACHINES, reason="no filter for this machine")
def test_without_its_warden_the_doorstep_runs_nothing(tmp_path: Path) -> None:
    """Its descriptors are missing: it leaves before it executes anything."""
    file = tmp_path / "doorstep"
    file.write_bytes(doorstep.doorstep())
    file.chmod(0o700)
    done = subprocess.run(
        [str(file), "/bin/echo", "echo", "ran"], capture_output=True, close_fds=True, check=False
    )
    assert (done.returncode, done.stdout) == (doorstep.NOT_READY, b"")
