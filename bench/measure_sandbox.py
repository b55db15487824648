"""What it costs to hold a command: a start in the sandbox, a TLS GET through the egress gate.

`/bin/true` with the full profile and one allowed domain, beside a plain subprocess and beside other
sandboxes of the distribution where they are installed (each with its own usual profile, which
holds less or other things). The GET goes to a server on loopback, from the same program, inside
the sandbox and outside; every GET opens its own connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from bench.bounds import Bound
from bench.certificates import certificate
from bench.plan import Plan
from bench.results import Kind, Row, missing_row, percentile
from bench.sandbox_peers import SPEC, environment, install_sandbox_runtime
from hostwright_guard.sandbox.capabilities import Wanted
from hostwright_guard.sandbox.gate.gate import Gate
from hostwright_guard.sandbox.gate.names import parse_target
from hostwright_guard.sandbox.gate.rules import Allowance, Attempt, Rules
from hostwright_guard.sandbox.machine import machine
from hostwright_guard.sandbox.made import Stream
from hostwright_guard.sandbox.places import open_places
from hostwright_guard.sandbox.running import Command, Sandboxes

SECTION = "9 sandbox"
OURS = "sandbox_exec"
START = "a command that does nothing, start to end"
GET = "TLS GET, each on its own connection"
NAME = "peer.example"
PEER = Path(__file__).with_name("tls_peer.py")
PYTHON = "/usr/bin/python3"
OTHERS: dict[str, tuple[str, ...]] = {
    "firejail": ("firejail", "--quiet", "--noprofile", "--net=none", "--private", "--seccomp"),
    "nsjail": ("nsjail", "-Q", "-Mo", "--user", "65534", "--chroot", "/", "--"),
    "bwrap, bare": (
        *("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"),
        "--",
    ),
}
NOTE = "bound: 4 × plain + 5 ms; the next sandbox is made before the next start is measured"
Say = Callable[[str], None]
Once = Callable[[], Awaitable[float]]


async def sandbox_costs(plan: Plan, say: Say) -> list[Row]:
    """Rows of both measurements."""
    found = await asyncio.to_thread(machine)
    if found.problem:
        return [missing_row(SECTION, START, OURS, found.problem, kind="ours")]
    with tempfile.TemporaryDirectory(prefix="hostwright-bench-") as folder:
        sandboxes = Sandboxes(Path(folder))
        try:
            rows = await _starts(plan, sandboxes, say)
            rows += await _gets(plan, sandboxes, Path(folder), say)
        finally:
            await sandboxes.close()
    return rows


async def _starts(plan: Plan, sandboxes: Sandboxes, say: Say) -> list[Row]:
    async def held(*read: str) -> float:
        # The one that is made in advance is there, and does not run beside what is measured next.
        await sandboxes.settled()
        began = time.perf_counter()
        code, _ = await _run(sandboxes, ("/bin/true",), NAME, read=read)
        took = (time.perf_counter() - began) * 1000
        if code != 0:
            raise RuntimeError(f"/bin/true ended with {code} in the sandbox")
        await sandboxes.settled()
        return took

    ways: list[tuple[str, Kind, Once]] = [
        ("plain subprocess", "direct", lambda: _plain(("/bin/true",))),
        (OURS, "ours", held),
        # What depends on the call cannot be made before it.
        (f"{OURS}, a file declared", "ours", lambda: held(str(PEER))),
    ]
    missing: list[Row] = []
    for name, argv in OTHERS.items():
        if shutil.which(argv[0]) is None:
            missing.append(missing_row(SECTION, START, name, "it is not installed"))
        elif await _fails((*argv, "/bin/true")):
            missing.append(missing_row(SECTION, START, name, "it does not start here"))
        else:
            ways.append((name, "peer", lambda argv=argv: _plain((*argv, "/bin/true"))))
    say("sandbox-runtime")
    program, problem = await install_sandbox_runtime()
    if problem is None and await _fails((program, "/bin/true"), environment()):
        problem = "it does not start here"
    if problem is None:
        ways.append((SPEC, "peer", lambda: _plain((program, "/bin/true"), environment())))
    else:
        missing.append(missing_row(SECTION, START, SPEC, problem))
    took: dict[str, list[float]] = {name: [] for name, _, _ in ways}
    await held()
    for number in range(plan.rounds * 20):
        say(f"sandbox starts, {number}")
        for name, _, once in ways:
            took[name].append(await once())
    most = 4 * percentile(took["plain subprocess"], 0.5) + 5
    bound = Bound(of="p50", at_most=round(most, 2))
    rows = [
        Row(
            section=SECTION,
            what=START,
            who=name,
            kind=kind,
            unit="ms",
            values=_rounds(values, plan),
            latencies_ms=tuple(values),
            bounds=(bound,) if name == OURS else (),
            note=NOTE if name == OURS else "",
        )
        for (name, kind, _), values in zip(ways, took.values(), strict=True)
    ]
    return rows + missing


async def _gets(plan: Plan, sandboxes: Sandboxes, folder: Path, say: Say) -> list[Row]:
    file, ca = certificate(folder, NAME)
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PEER), "serve", str(file)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    port = int(await server.stdout.readline())
    count = 20
    arguments = ("fetch", str(ca), NAME, str(port), str(count))
    direct: list[float] = []
    through: list[float] = []
    try:
        for number in range(plan.rounds + 1):
            say(f"TLS GET, round {number}")
            plain = json.loads(await _said((PYTHON, str(PEER), *arguments)))
            argv = (PYTHON, str(PEER), *arguments, "by-name")
            code, said = await _run(
                sandboxes, argv, f"{NAME}:{port}", read=(str(ca), str(PEER)), pinned="127.0.0.1"
            )
            if code != 0:
                raise RuntimeError(f"the client in the sandbox ended with {code}")
            if number:
                direct += plain
                through += json.loads(said)
    finally:
        server.kill()
        await server.wait()
    bound = Bound(of="p50", beside="direct", at_most=2)
    both: list[tuple[str, Kind, list[float]]] = [
        ("direct", "direct", direct),
        ("egress gate", "ours", through),
    ]
    return [
        Row(
            section=SECTION,
            what=GET,
            who=who,
            kind=kind,
            unit="ms",
            values=_rounds(values, plan),
            latencies_ms=tuple(values),
            bounds=(bound,) if kind == "ours" else (),
        )
        for who, kind, values in both
    ]


def _rounds(values: Sequence[float], plan: Plan) -> tuple[float, ...]:
    """The median of each round."""
    size = len(values) // plan.rounds
    return tuple(
        percentile(values[number * size : (number + 1) * size], 0.5)
        for number in range(plan.rounds)
    )


async def _run(
    sandboxes: Sandboxes,
    argv: tuple[str, ...],
    domain: str,
    *,
    read: tuple[str, ...] = (),
    pinned: str | None = None,
) -> tuple[int | None, bytes]:
    """One run with the full profile and one allowed domain."""
    said: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}

    async def receive(data: bytes, stream: Stream) -> None:
        said[stream] += data

    async def record(attempt: Attempt) -> None:
        if attempt.verdict == "refused":
            raise RuntimeError(f"the gate refused {attempt.target}: {attempt.reason}")

    rules = Rules((parse_target(domain),), Allowance(1_000, 2**30))
    gate = Gate(rules, record, pinned={NAME: pinned} if pinned else None)
    opened = await asyncio.to_thread(open_places, read, (), protected=())
    try:
        ending = await sandboxes.run(
            Command(argv[0], argv, "/tmp"),  # noqa: S108 - the sandbox's own
            Wanted(),
            opened,
            receive,
            gate=gate,
            names=(NAME,),
            ports=rules.ports,
        )
    finally:
        opened.close()
    if said["stderr"]:
        raise RuntimeError(said["stderr"].decode("utf-8", "replace"))
    return ending.exit_code, said["stdout"]


async def _plain(argv: tuple[str, ...], env: Mapping[str, str] | None = None) -> float:
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, env=env,
    )  # fmt: skip
    await process.communicate()
    return (time.perf_counter() - began) * 1000


async def _fails(argv: tuple[str, ...], env: Mapping[str, str] | None = None) -> bool:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL, env=env,
    )  # fmt: skip
    return await process.wait() != 0


async def _said(argv: tuple[str, ...]) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}
    )
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{argv[0]} ended with {process.returncode}")
    return said
