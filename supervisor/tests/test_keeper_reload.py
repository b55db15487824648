"""Other manifests while everything runs: nobody is touched who need not be."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostwright.keeper.keeper import Keeper
from hostwright.keeper.machine import State
from hostwright.keeper.reload import LIVE, Reloaded, needs_restart
from hostwright.manifest import Manifest
from hostwright.reloading import Reloader
from hostwright_kit.errors import HostError

from .keeper_world import SERVER, Busy, Open, Suite, manifest


def pids(s: Suite, *names: str) -> list[int]:
    return [s.child(name).pid for name in names]


async def test_only_what_differs_is_touched(suite: Open) -> None:
    s = await suite(manifest("stays"), manifest("told"), manifest("other"), manifest("goes"))
    await s.keeper.start_all()
    before = pids(s, "stays", "told", "other")
    done = await s.keeper.reload(
        [
            manifest("stays"),
            manifest("told", description="new words", tools={"exclude": ["x*"]}),
            manifest("other", env={"A": "b"}),
            manifest("comes"),
            manifest("off", enabled=False),
        ]
    )
    assert done == Reloaded(
        added=("comes", "off"),
        removed=("goes",),
        restarted=("other",),
        changed=("told",),
        unchanged=("stays",),
    )
    assert sorted(s.keeper.names) == ["comes", "off", "other", "stays", "told"]
    with pytest.raises(HostError, match="no server 'goes'"):
        s.keeper.target("goes")
    await s.until("comes", State.READY)
    await s.when("other", lambda row: row.state is State.READY and row.pid != before[2])
    assert pids(s, "stays", "told") == before[:2]
    assert s.row("told").description == "new words"
    assert s.keeper.manifest("told").tools.exclude == ("x*",)
    assert s.row("off").state is State.DISABLED
    assert not (await s.keeper.reload([s.keeper.manifest(n) for n in s.keeper.names])).anything


async def test_rules_hold_at_once_and_the_owner_is_not_overruled(suite: Open) -> None:
    s = await suite(manifest("a"), manifest("b"), manifest("c", enabled=False), activity=Busy())
    await s.keeper.start_all()
    pid = s.child("a").pid
    await s.keeper.stop("b")
    await s.keeper.reload(
        [manifest("a", idle_after_seconds=0.05), manifest("b", env={"A": "b"}), manifest("c")]
    )
    await s.until("a", State.HIBERNATED)
    await s.until("c", State.READY)
    assert s.row("b").state is State.STOPPED
    # A sleeper is not woken to be changed: it wakes up as the new one.
    done = await s.keeper.reload([manifest("a", env={"A": "b"}), manifest("b"), manifest("c")])
    assert "a" in done.changed
    assert s.row("a").state is State.HIBERNATED
    await s.keeper.wait_ready("a", timeout_seconds=20)
    assert s.child("a").pid != pid
    await s.keeper.reload([manifest("a", enabled=False), manifest("b"), manifest("c")])
    assert s.row("a").state is State.DISABLED


async def test_a_broken_server_is_tried_again_when_its_command_is_corrected(suite: Open) -> None:
    s = await suite(manifest("a", "raise SystemExit(1)", restart={"breaker_failures": 1}))
    await s.keeper.start_all()
    await s.until("a", State.BROKEN)
    await s.keeper.reload([manifest("a", SERVER)])
    await s.until("a", State.READY)


def test_what_restarts_is_everything_that_is_not_named_as_live() -> None:
    plain = Manifest.model_validate({"name": "a", "command": ["x"]})
    assert needs_restart(plain, plain.model_copy(update={"env": {"A": "b"}}))
    assert needs_restart(plain, plain.model_copy(update={"command": ("y",)}))
    assert set(Manifest.model_fields) >= LIVE
    for key in LIVE:
        assert not needs_restart(plain, plain.model_copy(update={key: object()}))


class Files:
    """Two folders of manifests, a keeper that runs them, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.suite, self.owner = folder / "suite", folder / "owner"
        self.suite.mkdir()
        self.told: list[Reloaded] = []

    def write(self, file: Path, **extra: Any) -> None:
        values = {"name": file.stem, "command": [sys.executable, "-c", SERVER]} | extra
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        aside = file.with_suffix(".new")
        aside.write_text(text)
        aside.replace(file)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def serving(suite: Open, files: Files) -> tuple[Suite, Reloader]:
    reloader = Reloader((files.suite, files.owner))
    s = await suite(*reloader.manifests)
    reloader.serve(s.keeper, files.told.append)
    await s.keeper.start_all()
    return s, reloader


async def test_a_changed_file_is_noticed_and_a_broken_one_changes_nothing(
    suite: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostwright.manifest_files.installed_servers", dict)
    files = Files(tmp_path)
    files.write(files.suite / "a.toml")
    files.write(files.suite / "b.toml")
    s, reloader = await serving(suite, files)
    kept = pids(s, "a", "b")
    async with reloader.watching():
        await files.until(files.owner.is_dir)
        files.write(files.owner / "c.toml")  # the owner's first
        await files.until(lambda: "c" in s.keeper.names)
        await s.until("c", State.READY)
        (files.suite / "a.toml").write_text("name = 'a'\ncommand = [")
        await files.until(lambda: bool(reloader.problems))
        assert reloader.problems[0].file == files.suite / "a.toml"
        files.write(files.suite / "a.toml", description="mended")
        await files.until(lambda: not reloader.problems)
        await s.when("a", lambda row: row.description == "mended")
        (files.owner / "c.toml").unlink()
        await files.until(lambda: "c" not in s.keeper.names)
    assert pids(s, "a", "b") == kept
    assert [done.added for done in files.told if done.added] == [("c",)]


async def test_a_broken_override_does_not_bring_the_overridden_one_back(
    suite: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostwright.manifest_files.installed_servers", dict)
    files = Files(tmp_path)
    files.owner.mkdir()
    files.write(files.suite / "a.toml")
    files.write(files.owner / "a.toml", description="the owner's")
    s, reloader = await serving(suite, files)
    pid = s.child("a").pid
    (files.owner / "a.toml").write_text("name = 'a'\nno_such_key = 1\n")
    result = await reloader.reload()
    assert result.kept == ("a",)
    assert "no_such_key" in result.problems[0]
    assert s.row("a").description == "the owner's"
    # Still known to be that file's: a second look keeps it as well.
    assert (await reloader.reload()).kept == ("a",)
    (files.owner / "a.toml").unlink()
    result = await reloader.reload()
    assert result.kept == ()
    assert s.row("a").description == ""
    assert s.child("a").pid == pid


async def test_a_reload_before_there_is_a_keeper_is_a_fault(tmp_path: Path) -> None:
    reloader = Reloader((tmp_path,))
    with pytest.raises(RuntimeError, match="before there is a keeper"):
        await reloader.reload()


def test_a_keeper_that_is_not_open_makes_no_servers(tmp_path: Path) -> None:
    keeper = Keeper((), runtime_dir=tmp_path, state_dir=tmp_path, probe=None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="before the keeper is open"):
        asyncio.run(keeper.reload([manifest("a")]))
