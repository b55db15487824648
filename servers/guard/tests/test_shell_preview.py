"""`[system] shell_preview`: shell_exec of the system server shows, sandbox_commit applies."""

from __future__ import annotations

from pathlib import Path

import pytest

from .guard_world import World, call, failed

SETTINGS = '[policy]\nprofile = "standard"\n[system]\nshell_preview = true\n'


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.configure(SETTINGS)
    (found.work / "kept.txt").write_text("one\n")
    (found.work / "old.txt").write_text("two\n")
    return found


async def test_what_a_command_would_change_is_shown_and_applied_when_approved(
    world: World,
) -> None:
    async with world.client("system") as system, world.client() as guard:
        tried = await call(
            system,
            "shell_exec",
            command="echo three >> kept.txt; rm old.txt; echo out; cat; exit 3",
            stdin="typed",
        )
        assert (tried["exit_code"], tried["stdout"]["head"]) == (3, "out\ntyped")
        assert tried["folder"] == str(world.work)
        assert "+three" in tried["diff"]
        commit = tried["commit"]
        assert commit["changes"] == ["changed file kept.txt", "deleted file old.txt"]
        assert (world.work / "kept.txt").read_text() == "one\n", "nothing was touched"
        waits = await failed(guard, "sandbox_commit", **commit)
        assert waits["code"] == "approval_needed"
        other = {**commit, "changes": ["changed file kept.txt"]}
        assert (await failed(guard, "sandbox_commit", **other))["code"] == "approval_needed"
        assert (world.work / "old.txt").exists()
        world.decide(waits["approval_id"])
        applied = await call(guard, "sandbox_commit", **commit)
        assert applied["applied"] == 2
    assert (world.work / "kept.txt").read_text() == "one\nthree\n"
    assert not (world.work / "old.txt").exists()


async def test_it_reaches_neither_what_lies_elsewhere_nor_the_network(
    world: World, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("secret\n")
    async with world.client("system") as system:
        tried = await call(system, "shell_exec", argv=["cat", str(outside)])
        assert tried["exit_code"] != 0
        assert "secret" not in str(tried)
        tried = await call(
            system, "shell_exec", command=f"echo x > {outside}; ls /proc/net/route && cat $_"
        )
        assert outside.read_text() == "secret\n"
        assert tried["commit"] is None
        elsewhere = await failed(system, "shell_exec", argv=["true"], cwd=str(tmp_path / "state"))
        assert elsewhere["code"] in ("denied", "not_granted")
        # What needs more is asked about, as ever.
        waits = await failed(system, "shell_start", argv=["true"])
        assert waits["code"] == "approval_needed"
    assert not world.events(tool="sandbox_commit")
