"""The keeper over real processes: readiness, crash loops, health, commands, truthful answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import textwrap
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from hostwright.keeper import processes
from hostwright.keeper.child import Child
from hostwright.keeper.environment import build_environment
from hostwright.keeper.machine import State
from hostwright.keeper.server import Target
from hostwright.keeper.status import (
    Extras,
    Health,
    ServerBroken,
    ServerCrashed,
    ServerEvent,
    ServerReady,
    ServerStarted,
    ServerStopped,
)
from hostwright.manifest import Manifest
from hostwright_kit.errors import HostError

from .keeper_world import FAST, SERVER, SLEEPER, Open, ask, manifest, open_files


async def test_start_status_stop(suite: Open) -> None:
    s = await suite(manifest("a"), manifest("b"), manifest("off", enabled=False))
    results = await s.keeper.start_all()
    assert [(r.name, r.ok, r.changed, r.state) for r in results] == [
        ("a", True, True, State.READY),
        ("b", True, True, State.READY),
    ]
    row = await s.when("a", lambda row: row.memory_bytes is not None)
    assert row.pid == s.child("a").pid
    assert (row.health, row.tools, row.restarts, row.last_error) == ("ok", 3, 0, None)
    assert row.memory_bytes
    assert row.memory_bytes > 1_000_000
    assert row.memory_kind == "pss"
    assert row.uptime_seconds
    assert row.latency_ms
    assert (await s.when("a", lambda row: (row.health_age_seconds or 9) < 0.05)).health == "ok"

    again = await s.keeper.start("a")
    assert (again.ok, again.changed) == (True, False)
    stopped = await s.keeper.stop("a")
    assert (stopped.ok, stopped.changed, stopped.state) == (True, True, State.STOPPED)
    assert stopped.stop
    assert stopped.stop.how == "stdin_closed"
    assert "stdin was closed" in stopped.message
    assert row.pid
    assert processes.identity(row.pid) is None
    assert (await s.keeper.stop("a")).message == "a was not running."
    row = s.row("a")
    assert (row.pid, row.health, row.memory_bytes) == (None, "unknown", None)

    assert s.row("off").state is State.DISABLED
    assert (await s.keeper.start("off")).ok
    kinds = [type(event) for event in s.events if event.name == "a"]
    assert kinds == [ServerStarted, ServerReady, ServerStopped]
    text = "\n".join(await s.keeper.tail("a"))
    assert "-- ready after" in text
    assert "-- stopped (asked to)" in text


async def test_a_crash_loop_ends_broken_and_a_restart_closes_the_breaker(
    suite: Open, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    source = f"""
        import os, sys
        print("starting up", file=sys.stderr)
        if not os.path.exists({str(good)!r}):
            print("no config found", file=sys.stderr); sys.exit(3)
        {textwrap.indent(SERVER, " " * 8).strip()}
    """
    s = await suite(manifest("a", source, restart=FAST | {"breaker_failures": 5}))
    first = await s.keeper.start("a")
    assert not first.ok
    assert first.state is State.BACKING_OFF
    assert "exited with code 3 before it was ready" in first.message
    row = await s.until("a", State.BROKEN)
    assert row.last_stderr[-2:] == ("starting up", "no config found")
    assert row.restarts == 4
    assert row.last_error == "exited with code 3 before it was ready"

    crashes = s.of(ServerCrashed)
    assert len(crashes) == 5
    delays = [event.retry_in_seconds for event in crashes]
    assert delays[-1] is None
    for number, delay in enumerate(delays[:-1]):
        plain = 0.02 * 2**number
        assert plain * 0.75 <= delay <= plain * 1.2
    assert len(set(delays)) == 5  # jitter
    (broken,) = s.of(ServerBroken)
    assert broken.failures == 5
    assert broken.last_stderr[-1] == "no config found"
    assert any("broken: 5 failures" in line for line in await s.keeper.tail("a"))

    with pytest.raises(HostError, match=r"a is broken \(exited with code 3") as caught:
        await s.keeper.wait_ready("a", timeout_seconds=5)
    assert "hostwright start a" in caught.value.fix
    good.touch()
    result = await s.keeper.restart("a")
    assert (result.ok, result.state) == (True, State.READY)
    # Closed in full: four more failures are tolerated.
    good.unlink()
    s.say("a", "fail")
    await s.until("a", State.BROKEN)
    assert len(s.of(ServerCrashed)) == 10


async def test_a_killed_server_comes_back_and_waiters_get_the_new_one(suite: Open) -> None:
    s = await suite(manifest("a"))
    await s.keeper.start_all()
    old = s.child("a")
    os.kill(old.pid, signal.SIGKILL)
    await old.wait()
    await asyncio.sleep(0)
    target = await s.keeper.wait_ready("a", timeout_seconds=20)
    assert isinstance(target, Child)
    assert target.pid != old.pid
    assert s.row("a").restarts == 1
    assert s.of(ServerCrashed)[0].reason == "killed by SIGKILL"


async def test_fifty_kills_in_a_row_are_survived(suite: Open) -> None:
    s = await suite(
        manifest(
            "a",
            restart=FAST
            | {"first_delay_seconds": 0.01, "max_delay_seconds": 0.02, "breaker_failures": 100},
        )
    )
    await s.keeper.start_all()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    pids: set[int] = set()
    for _ in range(50):
        target = await s.keeper.wait_ready("a", timeout_seconds=20)
        assert isinstance(target, Child)
        pids.add(target.pid)
        os.kill(target.pid, signal.SIGKILL)
        await target.wait()
        await asyncio.sleep(0)
    await s.keeper.wait_ready("a", timeout_seconds=20)
    assert s.row("a").restarts == 50
    assert [pid for pid in pids if processes.identity(pid)] == []
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2


async def test_one_that_stops_answering_is_unhealthy_then_restarted(suite: Open) -> None:
    s = await suite(
        manifest(
            "a",
            health={"interval_seconds": 0.1, "timeout_seconds": 0.2, "failures_before_restart": 2},
            stop_timeout_seconds=0.4,
        )
    )
    await s.keeper.start_all()
    pid = s.row("a").pid
    s.say("a", "mute")
    row = await s.until("a", State.UNHEALTHY)
    assert row.health == "failing"
    assert row.last_error == "a health check failed: no answer within 0.2 s"
    await s.until("a", State.BACKING_OFF, State.STARTING)
    row = await s.until("a", State.READY)
    assert row.pid != pid
    assert "2 health checks in a row failed" in s.of(ServerCrashed)[0].reason


async def test_a_missed_check_heals_without_a_restart(suite: Open) -> None:
    fail = [False]

    async def probe(target: Target) -> Health:
        if fail[0]:
            raise RuntimeError("token=abcdefghijkl refused")
        return await ask(target)

    s = await suite(manifest("a"), probe=probe)
    await s.keeper.start_all()
    fail[0] = True
    row = await s.until("a", State.UNHEALTHY)
    assert "refused" in str(row.last_error)
    assert "abcdefghijkl" not in str(row.last_error)
    fail[0] = False
    await s.until("a", State.READY)
    assert s.row("a").restarts == 0
    assert s.of(ServerCrashed) == []


async def test_one_that_never_answers_fails_its_start(suite: Open) -> None:
    s = await suite(manifest("a", SLEEPER, start_timeout_seconds=0.3, stop_timeout_seconds=0.4))
    result = await s.keeper.start("a")
    assert not result.ok
    assert "did not answer within 0.3 s" in result.message


@pytest.mark.parametrize(
    ("policy", "word", "state"),
    [
        ("on-failure", "leave", State.STOPPED),
        ("on-failure", "fail", State.READY),
        ("always", "leave", State.READY),
        ("never", "fail", State.STOPPED),
    ],
)
async def test_restart_policies(suite: Open, policy: str, word: str, state: State) -> None:
    s = await suite(manifest("a", restart=FAST | {"policy": policy}))
    await s.keeper.start_all()
    pid = s.row("a").pid
    s.say("a", word)
    row = await s.when("a", lambda row: row.pid != pid and row.state is state)
    assert row.last_error == f"exited with code {0 if word == 'leave' else 7}"


async def test_what_cannot_start_is_shown_with_its_reason(suite: Open) -> None:
    s = await suite(
        manifest("gone", command=["no-such-program"], restart=FAST | {"breaker_failures": 2}),
        manifest("unset", env={"A": "${NOT_SET_ANYWHERE}"}),
        manifest("a"),
    )
    results = {result.name: result for result in await s.keeper.start_all()}
    assert results["a"].ok
    assert "no-such-program" in results["gone"].message
    assert "NOT_SET_ANYWHERE" in results["unset"].message
    row = await s.until("gone", State.BROKEN)
    assert "Install it" in str(row.last_error)
    assert not (await s.keeper.restart("gone")).ok


async def test_commands_in_every_order_end_truthfully(suite: Open) -> None:
    s = await suite(manifest("a"))
    start = asyncio.create_task(s.keeper.start("a"))
    await asyncio.sleep(0)
    stop = await s.keeper.stop("a")
    assert (stop.ok, stop.state) == (True, State.STOPPED)
    started = await start
    assert (started.ok, started.state) == (False, State.STOPPED)
    both = await asyncio.gather(s.keeper.start("a"), s.keeper.restart("a"), s.keeper.start("a"))
    assert [result.ok for result in both] == [True, True, True]
    assert s.row("a").state is State.READY
    stops = await asyncio.gather(s.keeper.stop("a"), s.keeper.stop("a"))
    assert [result.ok for result in stops] == [True, True]
    with pytest.raises(HostError, match="no server 'b'") as caught:
        await s.keeper.start("b")
    assert "Known here: a" in caught.value.fix
    with pytest.raises(HostError, match="a is stopped"):
        await s.keeper.wait_ready("a", timeout_seconds=5)


async def test_waiting_for_readiness_is_bounded(suite: Open) -> None:
    s = await suite(manifest("a", SLEEPER, stop_timeout_seconds=0.4))
    start = asyncio.create_task(s.keeper.start("a"))
    await asyncio.sleep(0)
    with pytest.raises(HostError, match=r"not ready within 0\.05 s \(starting\)"):
        await s.keeper.wait_ready("a", timeout_seconds=0.05)
    await s.keeper.stop("a")
    assert not (await start).ok


async def test_stop_while_backing_off_stays_stopped(suite: Open) -> None:
    slow = {"first_delay_seconds": 0.2, "max_delay_seconds": 0.2, "jitter": 0.0}
    s = await suite(manifest("a", "raise SystemExit(1)", restart=slow))
    await s.keeper.start("a")
    assert s.row("a").retry_in_seconds
    assert (await s.keeper.stop("a")).ok
    await asyncio.sleep(0.4)
    assert s.row("a").state is State.STOPPED
    assert s.row("a").restarts == 0


async def test_the_environment_is_given_on_purpose(suite: Open, tmp_path: Path) -> None:
    report = (
        "import os, sys; print('key is', os.environ['KEY'], file=sys.stderr)\n"
        f"with open({str(tmp_path / 'env')!r}, 'w') as file:\n"
        "    for item in os.environ.items(): print(*item, sep='=', file=file)\n"
    )
    read_end: list[str] = []

    @contextlib.contextmanager
    def prepare(_: Manifest) -> Generator[Extras]:
        read, write = os.pipe()
        os.close(write)
        read_end.append(str(Path(f"/proc/self/fd/{read}").readlink()))
        yield Extras(env={"HOSTWRIGHT_LINK_FD": str(read)}, pass_fds=(read,))
        os.close(read)

    s = await suite(
        manifest(
            "a",
            report + SERVER,
            env={"KEY": "${MY_API_KEY}", "B": "2"},
        ),
        prepare=prepare,
        environ={
            "PATH": os.environ["PATH"],
            "MY_API_KEY": "a-very-secret",
            "OTHER_TOKEN": "x",
            "LC_ALL": "C.UTF-8",
            "HOSTWRIGHT_CHILD": "outer",
        },
    )
    assert (await s.keeper.start("a")).ok
    names = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert set(names) == {"PATH", "LC_ALL", "KEY", "B", "HOSTWRIGHT_CHILD", "HOSTWRIGHT_LINK_FD"}
    assert names["KEY"] == "a-very-secret"
    assert names["HOSTWRIGHT_CHILD"] == s.child("a").family.mark
    assert read_end
    assert read_end[0] not in open_files()
    await s.when("a", lambda row: len(row.last_stderr) > 0)
    await s.keeper.tail("a")
    everything = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl")) + repr(s.events)
    everything += repr(s.keeper.status()) + (tmp_path / "run/children.json").read_text()
    assert "a-very-secret" not in everything
    assert "key is [redacted]" in everything


def test_ours_inherit_what_is_no_secret_and_others_only_what_is_ordinary() -> None:
    daemon = {
        "PATH": "/bin",
        "EDITOR": "vi",
        "AWS_SECRET_ACCESS_KEY": "x",
        "HOSTWRIGHT_STATE_DIR": "/s",
        "HOSTWRIGHT_WALLET__TOKEN_LIFETIME": "5",
        "HOSTWRIGHT_TOKEN": "x",
        "HOSTWRIGHT_LINK_FD": "9",
        "HOSTWRIGHT_CHILD": "outer",
    }
    ours = Manifest(name="a", entry_point="a")
    assert build_environment(ours, daemon, {"B": "2", "PATH": "/b"}, "mark") == {
        "PATH": "/b",
        "EDITOR": "vi",
        "HOSTWRIGHT_STATE_DIR": "/s",
        "HOSTWRIGHT_WALLET__TOKEN_LIFETIME": "5",
        "B": "2",
        "HOSTWRIGHT_CHILD": "mark",
    }
    assert build_environment(manifest("b"), daemon, {}, "mark") == {
        "PATH": "/bin",
        "HOSTWRIGHT_CHILD": "mark",
    }


async def test_a_failing_listener_and_a_failing_preparation_stop_nothing(suite: Open) -> None:
    def listener(_: ServerEvent) -> None:
        raise ValueError("listener")

    s = await suite(manifest("a"), on_event=listener)
    assert (await s.keeper.start("a")).ok

    def prepare(_: Manifest) -> Any:
        raise ValueError("no key to give")

    await s.keeper.close()
    s = await suite(manifest("a"), prepare=prepare)
    result = await s.keeper.start("a")
    assert "no key to give" in result.message


async def test_a_remote_server_is_asked_and_never_given_up(suite: Open) -> None:
    up = [False]

    async def probe(target: Target) -> Health:
        assert not isinstance(target, Child)
        assert target.headers == {"Authorization": "Bearer s3cret-s3cret"}
        if not up[0]:
            raise ConnectionError("refused")
        return Health(latency_ms=1, tools=1)

    remote = Manifest.model_validate(
        {
            "name": "r",
            "url": "http://127.0.0.1:9/mcp",
            "start_timeout_seconds": 0.1,
            "headers": {"Authorization": "Bearer ${R_TOKEN}"},
            "restart": FAST | {"breaker_failures": 1},
        }
    )
    s = await suite(remote, probe=probe, environ={"R_TOKEN": "s3cret-s3cret"})
    assert not (await s.keeper.start("r")).ok
    await s.when("r", lambda row: row.restarts >= 2)
    up[0] = True
    row = await s.until("r", State.READY)
    assert row.pid is None
    assert "s3cret" not in repr(s.keeper.target("r"))
    assert (await s.keeper.stop("r")).ok


async def test_logs_through_the_keeper(suite: Open) -> None:
    s = await suite(manifest("a"))
    lines = s.keeper.follow("a")
    first = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(1)
    await s.keeper.start_all()
    assert "-- started, pid" in await asyncio.wait_for(first, 20)
    assert "-- ready after" in (await s.keeper.tail("a", 1))[0]
    with pytest.raises(HostError):
        await s.keeper.tail("nobody")


async def test_orphans_that_end_by_themselves_are_reaped(
    suite: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostwright.keeper.keeper.LOOK_SECONDS", 0.05)
    source = (
        "import os\nif os.fork() == 0:\n    if os.fork(): os._exit(0)\n    os._exit(0)\nos.wait()\n"
    )
    s = await suite(manifest("a", source + SERVER))
    await s.keeper.start_all()
    async with asyncio.timeout(20):
        while any(  # noqa: ASYNC110
            row.zombie and row.session == s.child("a").pid for row in processes.table().values()
        ):
            await asyncio.sleep(0.02)
    assert s.row("a").state is State.READY
