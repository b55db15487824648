"""Approvals asked for in advance: real processes of the guard and of the server that acts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .guard_world import ERAS, Era, World, call, failed


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.configure(f'[system]\nroots = ["{found.work}"]\n')
    found.served()
    return found


def write(world: World, text: str = "new", **more: Any) -> dict[str, Any]:
    """Arguments of a call that the standard profile asks about."""
    return {"path": str(world.work / "file.txt"), "content": text, **more}


def asked(arguments: dict[str, Any], tool: str = "file_write", **more: Any) -> dict[str, Any]:
    return {"server": "system", "tool": tool, "arguments": arguments, **more}


@pytest.mark.parametrize("era", ERAS)
async def test_what_was_granted_in_advance_runs_once_and_exactly(world: World, era: Era) -> None:
    async with world.client(era=era) as guard, world.client("system", era=era) as system:
        request = await call(guard, "approval_request", **asked(write(world)), why="a test")
        assert request["state"] == "pending"
        assert "hostwright approve" in request["next"]
        assert await call(guard, "approval_request", **asked(write(world))) == request
        assert (await call(guard, "approval_pending"))["requests"] == [request]
        assert await call(guard, "approval_check", approval_id=request["id"]) == request

        world.decide(request["id"])
        granted = await call(guard, "approval_check", approval_id=request["id"])
        assert (granted["state"], granted["via"]) == ("granted", "terminal")
        again = await call(guard, "approval_request", **asked(write(world)))
        assert again["id"] == request["id"], "an unused grant is not asked for twice"

        other = await failed(system, "file_write", **write(world, "other"))
        assert other["code"] == "approval_needed"
        assert (await call(system, "file_write", **write(world)))["created"]
        used = await call(guard, "approval_check", approval_id=request["id"])
        assert used["state"] == "consumed"
        once = await failed(system, "file_write", **write(world))
        assert once["code"] == "approval_needed"
    intents = world.events(type="call.intent", tool="file_write")
    assert [one.detail["approval"] for one in intents] == [request["id"]]


async def test_a_file_that_changed_meanwhile_is_asked_about_again(world: World) -> None:
    target = world.work / "file.txt"
    target.write_text("as the owner saw it")
    async with world.client() as guard, world.client("system") as system:
        request = await call(guard, "approval_request", **asked(write(world)))
        (state,) = request["overwrites"].values()
        assert state.startswith("sha256 ")
        world.decide(request["id"])
        target.write_text("something else")
        refused = await failed(system, "file_write", **write(world))
        assert refused["code"] == "approval_needed"
        assert refused["approval_id"] != request["id"]
        assert target.read_text() == "something else"
        target.write_text("as the owner saw it")
        await call(system, "file_write", **write(world))
        assert target.read_text() == "new"


async def test_another_client_or_folder_can_not_use_a_grant_nor_see_the_request(
    world: World, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with (
        world.client() as guard,
        world.client("system") as system,
        world.client(name="stranger") as their_guard,
        world.client("system", name="stranger") as their_system,
    ):
        request = await call(guard, "approval_request", **asked(write(world)))
        world.decide(request["id"])
        for tool in ("approval_check", "approval_cancel"):
            refused = await failed(their_guard, tool, approval_id=request["id"])
            assert refused["code"] == "not_found"
        assert (await call(their_guard, "approval_pending"))["requests"] == []
        theirs = await failed(their_system, "file_write", **write(world))
        assert theirs["code"] == "approval_needed"
        async with world.client("system", cwd=elsewhere) as moved:
            refused = await failed(moved, "file_write", **write(world))
            assert refused["code"] == "approval_needed"
        await call(system, "file_write", **write(world))


async def test_a_denied_and_a_cancelled_request_stay_so(world: World) -> None:
    async with world.client() as guard, world.client("system") as system:
        first = await call(guard, "approval_request", **asked(write(world)))
        world.decide(first["id"], grant=False)
        assert (await call(guard, "approval_check", approval_id=first["id"]))["state"] == "denied"
        assert (await failed(guard, "approval_cancel", approval_id=first["id"]))["code"] == (
            "approval_closed"
        )
        second = await call(guard, "approval_request", **asked(write(world)))
        world.decide(second["id"])
        taken_back = await call(guard, "approval_cancel", approval_id=second["id"])
        assert taken_back["state"] == "cancelled"
        refused = await failed(system, "file_write", **write(world))
        assert refused["code"] == "approval_needed"
    kinds = [event.type for event in world.events(type="approval.*")]
    assert kinds == [
        "approval.requested",
        "approval.denied",
        "approval.requested",
        "approval.granted",
        "approval.cancelled",
        "approval.requested",
    ]


async def test_what_needs_no_approval_or_never_gets_one_is_said_at_once(world: World) -> None:
    world.configure('[policy]\nrules = [{effect = "deny", tool = "shell_exec"}]\n')
    async with world.client() as guard:
        free = await call(guard, "approval_request", **asked({}, tool="system_health"))
        assert (free["id"], free["state"]) == (None, "not_needed")
        never = await failed(
            guard, "approval_request", **asked({"argv": ["true"]}, tool="shell_exec")
        )
        assert never["code"] == "denied"
        unknown = await failed(guard, "approval_request", **asked({}, tool="file_wriet"))
        assert (unknown["code"], "file_write" in unknown["fix"]) == ("not_found", True)
        nobody = await failed(guard, "approval_request", server="sistem", tool="x", arguments={})
        assert (nobody["code"], "system" in nobody["fix"]) == ("not_found", True)
    with world.approvals() as approvals:
        assert approvals.pending() == []


async def test_nothing_secret_is_kept_of_what_is_asked(world: World) -> None:
    arguments = {"argv": ["login", "--password", "hunter2-hunter2"]}
    async with world.client() as guard:
        request = await call(guard, "approval_request", **asked(arguments, tool="shell_exec"))
        assert "hunter2" not in str(request)
    kept = (world.state / "approvals.db").read_bytes() + (world.state / "ledger.db").read_bytes()
    for log in world.state.glob("*.db-wal"):
        kept += log.read_bytes()
    assert b"hunter2" not in kept


async def test_no_tool_of_the_guard_grants(world: World) -> None:
    async with world.client() as guard:
        names = {tool.name for tool in await guard.list_tools()}
        request = await call(guard, "approval_request", **asked(write(world)))
        for name in names:
            assert not any(word in name for word in ("approve", "grant", "allow"))
        assert (await call(guard, "approval_check", approval_id=request["id"]))["state"] == (
            "pending"
        )
