"""A sandbox that was made before it was asked for holds what any other holds, for one run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from hostwright_guard.sandbox import image
from hostwright_guard.sandbox.capabilities import Limits, Wanted
from hostwright_guard.sandbox.made import Stream
from hostwright_guard.sandbox.places import Places, open_places
from hostwright_guard.sandbox.running import Command, Ending, Sandboxes
from hostwright_kit.errors import HostError

EVERYTHING = """
grep -E 'Cap|Seccomp|NoNewPrivs|Uid|Gid|Groups' /proc/self/status
cut -d' ' -f2-4 /proc/self/mounts; ls -la / /etc /dev /run 2>&1 | cut -c1-10,40-
ulimit -a; id; env | sort; pwd; hostname; cat /proc/net/dev /proc/net/route
head -c 20 /proc/kallsyms; echo $?; cat /etc/shadow; mount -t tmpfs x /tmp; mkdir /usr/x
python3 -c 'import socket; socket.socket(socket.AF_UNIX)' 2>&1 | tail -1
echo x > /tmp/file && ls /tmp; set -- /proc/[0-9]*; echo $#; wc -c
"""


@asynccontextmanager
async def sandboxes(folder: Path) -> AsyncGenerator[Sandboxes]:
    made = Sandboxes(folder)
    try:
        yield made
    finally:
        await made.close()


async def sh(
    made: Sandboxes, script: str, *, limits: Limits | None = None, stdin: bytes = b"", **env: str
) -> tuple[Ending, str]:
    said = bytearray()

    async def receive(data: bytes, _: Stream) -> None:
        said.extend(data)

    command = Command("/bin/sh", ("sh", "-c", script), "/tmp", environment=env, stdin=stdin)
    ending = await made.run(command, Wanted(limits=limits or Limits()), Places(()), receive)
    return ending, said.decode()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1_200):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come to that")


def children() -> set[int]:
    """Every process below this one that runs.

    Where an earlier test has made this process the heir of orphans, they stay as zombies.
    """
    found: set[int] = set()
    for pid in [os.getpid()]:
        waiting = [pid]
        while waiting:
            for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
                try:
                    inner = [int(one) for one in task.read_text().split()]
                except OSError:  # it ended meanwhile
                    continue
                found.update(inner)
                waiting += inner
    return {pid for pid in found if not _is_zombie(pid)}


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:  # it has ended
        return True


async def test_it_holds_exactly_what_one_made_on_demand_holds(tmp_path: Path) -> None:
    async with sandboxes(tmp_path) as made:
        _, first = await sh(made, EVERYTHING, stdin=b"four", KEY="value")
        await made.settled()
        spare = made._spares._ready
        assert spare is not None
        _, second = await sh(made, EVERYTHING, stdin=b"four", KEY="value")
        assert made._spares._ready is not spare
    assert "KEY=value" in first and first.endswith("4\n")
    assert second == first


async def test_it_is_used_for_one_run_and_nothing_stays(tmp_path: Path) -> None:
    async with sandboxes(tmp_path) as made:
        await sh(made, "true")
        for _ in range(3):
            await made.settled()
            _, said = await sh(made, "ls /tmp; echo secret > /tmp/left; echo $KEY", KEY="")
            assert said == "\n"
        # Many at once: one of them has the spare, the others are made.
        await made.settled()
        many = await asyncio.gather(*(sh(made, f"echo {n}; ls /tmp") for n in range(6)))
        assert [said for _, said in many] == [f"{n}\n" for n in range(6)]


async def test_one_that_was_killed_is_not_used(tmp_path: Path) -> None:
    async with sandboxes(tmp_path) as made:
        await sh(made, "true")
        await made.settled()
        spare = made._spares._ready
        assert spare is not None
        for folder in spare.group.folders:
            for pid in (folder / "cgroup.procs").read_text().split():
                # With the first of them the kernel ended the others.
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        await until(lambda: not spare.link.quiet)
        ending, said = await sh(made, "echo alive")
        assert (ending.exit_code, said) == (0, "alive\n")


async def test_other_limits_and_places_are_not_forced_into_it(tmp_path: Path) -> None:
    async with sandboxes(tmp_path) as made:
        await sh(made, "true")
        await made.settled()
        spare = made._spares._ready
        ending, _ = await sh(
            made, "head -c 40000000 /dev/zero > /tmp/x", limits=Limits(scratch_mb=8)
        )
        assert ending.exit_code != 0
        assert made._spares._ready is spare
        (tmp_path / "shown").write_text("shown")
        opened = open_places([str(tmp_path / "shown")], [], protected=[])
        said = bytearray()

        async def receive(data: bytes, _: Stream) -> None:
            said.extend(data)

        command = Command("/bin/cat", ("cat", str(tmp_path / "shown")), "/tmp")
        await made.run(command, Wanted(), opened, receive)
        opened.close()
        assert said == b"shown"
        assert made._spares._ready is spare


async def test_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    before = children()
    async with sandboxes(tmp_path) as made:
        await sh(made, "true")
        await made.settled()
        assert children() - before
    await until(lambda: not children() - before)


def test_what_is_longer_than_a_program_can_be_given_is_refused() -> None:
    with pytest.raises(HostError, match="longer than"):
        image.make_image("/bin/true", ["x" * image.MAPPED], {}, "/tmp")
