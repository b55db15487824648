"""Sandboxes through the front door: real server processes, the guard before every run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from hostwright_kit.ledger import Ledger
from hostwright_kit.runtime import LEDGER_FILE
from hostwright_kit.vault import open_vault

from .guard_world import World, call, failed

AUTONOMOUS = '[policy]\nprofile = "autonomous"\n'


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 60
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def out(result: dict[str, Any]) -> str:
    return result["stdout"]["head"]


async def test_a_run_that_declares_nothing_needs_nobodys_word(world: World) -> None:
    async with world.client() as client:
        result = await call(client, "sandbox_exec", argv=["id", "-u"])
        assert (result["exit_code"], out(result)) == (0, "65534\n")
        assert set(result["limits_held_by"]) == {"memory", "cpu", "processes"}
        code = await call(client, "sandbox_exec", argv=["sh", "-c", "echo no >&2; exit 3"])
        assert (code["exit_code"], code["stderr"]["head"]) == (3, "no\n")
        killed = await call(client, "sandbox_exec", argv=["sh", "-c", "kill -9 $$"])
        assert (killed["exit_code"], killed["signal"]) == (137, "SIGKILL")
        late = await call(client, "sandbox_exec", argv=["sleep", "60"], timeout_seconds=0.5)
        assert late["timed_out"] is True


async def test_anything_more_is_asked_about_and_bound(world: World) -> None:
    (world.work / "file").write_text("content")
    asked = {"argv": ["cat", str(world.work / "file")], "read_paths": [str(world.work)]}
    async with world.client() as client:
        error = await failed(client, "sandbox_exec", **asked)
        assert error["code"] == "approval_needed"
        world.decide(error["approval_id"])
        other = {**asked, "argv": ["cat", "/etc/passwd"]}
        assert (await failed(client, "sandbox_exec", **other))["code"] == "approval_needed"
        assert out(await call(client, "sandbox_exec", **asked)) == "content"
        assert (await failed(client, "sandbox_exec", **asked))["code"] == "approval_needed"
        large = await failed(client, "sandbox_exec", argv=["true"], limits={"memory_mb": 4096})
        assert large["code"] == "not_granted"


async def test_a_token_is_asked_about_once_and_then_holds_every_run(world: World) -> None:
    (world.work / "shared").mkdir()
    shared = str(world.work / "shared")
    grant = {"write": [shared], "seconds": 20}
    async with world.client() as client:
        error = await failed(client, "capability_mint", grant=grant, uses=3)
        assert error["code"] == "approval_needed"
        world.decide(error["approval_id"])
        minted = await call(client, "capability_mint", grant=grant, uses=3)
        token = minted["token"]
        write = ["sh", "-c", f"echo made > {shared}/file"]
        assert (await call(client, "sandbox_exec", argv=write, token=token))["exit_code"] == 0
        assert (world.work / "shared/file").read_text() == "made\n"
        for more in (
            {"read_paths": [str(world.work)]},
            {"write_paths": [str(world.work)]},
            {"domains": ["a.example"]},
            {"vault": [{"name": "key"}]},
            {"timeout_seconds": 21},
            {"limits": {"memory_mb": 2048}},
        ):
            refused = await failed(client, "sandbox_exec", argv=["true"], token=token, **more)
            assert refused["code"] == "not_granted", more
        narrow = await call(client, "capability_narrow", token=token, grant={"read": [shared]})
        tried = await call(client, "sandbox_exec", argv=write, token=narrow["token"])
        assert tried["exit_code"] != 0
        (shown,) = (await call(client, "capability_list"))["capabilities"]
        assert (shown["uses_left"], shown["state"]) == (1, "usable")
        await call(client, "capability_revoke", token_id=shown["id"])
        dead = await failed(client, "sandbox_exec", argv=["true"], token=token)
        assert dead["code"] == "token_revoked"
        forged = await failed(client, "sandbox_exec", argv=["true"], token=token[:-2] + "AA")
        assert forged["code"] == "bad_token"
    async with world.client(name="other") as other:
        assert (await call(other, "capability_list"))["capabilities"] == []
    text = json.dumps([event.model_dump() for event in world.events()])
    assert token not in text and narrow["token"] not in text


async def test_revoking_ends_what_runs_with_it(world: World) -> None:
    world.configure(AUTONOMOUS)
    async with world.client() as client:
        minted = await call(client, "capability_mint", grant={}, uses=1)
        run = await call(
            client, "sandbox_exec", argv=["sh", "-c", "echo begun; sleep 100"],
            token=minted["token"], timeout_seconds=100, wait_seconds=0,
        )  # fmt: skip
        assert run["state"] == "running"

        async def begun() -> bool:
            found = await call(client, "sandbox_output", job_id=run["job_id"])
            return "begun" in found["page"]["text"]

        # Before that it would be refused instead of ended.
        await until(begun)
        await call(client, "capability_revoke", token_id=minted["capability"]["id"])

        async def ended() -> bool:
            found = await call(client, "sandbox_output", job_id=run["job_id"], wait_seconds=5)
            return found["job"]["state"] == "cancelled"

        await until(ended)


async def test_a_long_run_becomes_a_job(world: World) -> None:
    async with world.client() as client:
        run = await call(
            client, "sandbox_exec", argv=["sh", "-c", "echo begun; sleep 60"],
            timeout_seconds=60, wait_seconds=0.2,
        )  # fmt: skip
        assert run["state"] == "running"

        async def begun() -> bool:
            page = await call(client, "sandbox_output", job_id=run["job_id"])
            return page["page"]["text"] == "begun\n"

        await until(begun)
        ended = await call(client, "sandbox_cancel", job_id=run["job_id"])
        assert ended["state"] == "cancelled"


async def test_output_is_bounded_and_paged(world: World) -> None:
    async with world.client() as client:
        flood = await call(
            client, "sandbox_exec", argv=["head", "-c", "3000000", "/dev/zero"],
            head_bytes=10, tail_bytes=10,
        )  # fmt: skip
        assert flood["stdout"]["total_bytes"] == 3_000_000
        assert flood["stdout"]["omitted_bytes"] == 2_999_980
        page = await call(client, "sandbox_output", job_id=flood["job_id"], offset_bytes=2_999_990)
        assert page["page"]["complete"] is True


async def test_secrets_come_by_name_and_are_not_repeated(world: World) -> None:
    world.configure(AUTONOMOUS)
    ledger = Ledger(world.state / LEDGER_FILE)
    vault = open_vault(world.state, ledger)
    vault.set("api-key", SecretStr("s3cr3t-value-of-it"), servers=["guard"])
    vault.set("foreign", SecretStr("another-s3cr3t"), servers=["system"])
    vault.close()
    ledger.close()
    script = (
        "echo $KEY; cat /run/secrets/api-key; echo; printf %s $KEY | base64; printf %s $KEY | wc -c"
    )
    async with world.client() as client:
        result = await call(
            client,
            "sandbox_exec",
            argv=["sh", "-c", script],
            vault=[{"name": "api-key", "env": "KEY"}],
        )
        assert out(result).splitlines() == ["[redacted]", "", "[redacted]", "18"]
        file = await call(
            client,
            "sandbox_exec",
            argv=["sh", "-c", "wc -c < /run/secrets/api-key; cat /run/secrets/api-key"],
            vault=[{"name": "api-key"}],
        )
        assert out(file) == "18\n[redacted]"
        denied = await failed(
            client, "sandbox_exec", argv=["true"], vault=[{"name": "foreign", "env": "KEY"}]
        )
        assert denied["code"] == "secret_denied"
        missing = await failed(client, "sandbox_exec", argv=["true"], vault=[{"name": "none"}])
        assert missing["code"] == "secret_missing"
    intents = world.events(type="call.intent", tool="sandbox_exec")
    # The owner sees which entries, nobody sees what is in them.
    assert intents[0].detail["arguments"]["vault"] == [{"name": "api-key", "env": "KEY"}]
    assert "s3cr3t" not in json.dumps([event.model_dump() for event in world.events()])
    for file in world.state.rglob("*"):
        if file.is_file():
            assert b"s3cr3t-value" not in file.read_bytes()


async def test_a_server_that_is_killed_leaves_nothing_running(world: World) -> None:
    async with world.client() as client:
        run = await call(
            client, "sandbox_exec", argv=["sh", "-c", "exec sleep 4321"],
            timeout_seconds=60, wait_seconds=0.5,
        )  # fmt: skip
        assert run["state"] == "running"
        await until(lambda: len(sleepers()) == 1)
        server = server_of(world)
        os.kill(server, signal.SIGKILL)
        await until(lambda: sleepers() == [])


def sleepers() -> list[int]:
    return [pid for pid, line in command_lines() if line == b"sleep\x004321\x00"]


def server_of(world: World) -> int:
    wanted = f"HOSTWRIGHT_STATE_DIR={world.state}".encode()
    found = [
        pid
        for pid, line in command_lines()
        if b"hostwright_kit.run" in line
        and wanted in (Path("/proc") / str(pid) / "environ").read_bytes()
    ]
    assert len(found) == 1
    return found[0]


def command_lines() -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append((int(file.parent.name), file.read_bytes()))
        except OSError:  # it ended meanwhile
            continue
    return found


async def test_where_no_sandbox_can_be_had_nothing_runs(world: World, tmp_path: Path) -> None:
    """bubblewrap that cannot make namespaces, as in a locked-down container."""
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "bwrap").write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo bubblewrap 0.8.0; exit; fi\n'
        "echo 'bwrap: No permissions to create new namespace' >&2; exit 1\n"
    )
    (broken / "bwrap").chmod(0o755)
    world.path = f"{broken}:{os.environ['PATH']}"
    async with world.client() as client:
        error = await failed(client, "sandbox_exec", argv=["touch", "/tmp/ran"])
        assert error["code"] == "sandbox_unavailable"
        assert "user namespaces" in error["fix"]
    (broken / "bwrap").write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    async with world.client() as client:
        status = await call(client, "sandbox_status")
        assert "too old" in status["problem"]
        error = await failed(client, "sandbox_exec", argv=["true"])
        assert error["code"] == "sandbox_unavailable"
