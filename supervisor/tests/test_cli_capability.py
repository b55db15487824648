"""`hostwright capability`: the owner sees every token and ends any."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from .cli_world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def mint(state: Path, caller: str) -> str:
    """As the guard server does it, of which this package knows nothing."""
    (point,) = entry_points(group="hostwright.capabilities")
    (module, _) = point.value.split(":")
    store: Any = point.load()(state)
    parts = __import__(module, fromlist=["TokenHolder", "Grant"])
    grant = parts.Grant(write=("/home/me/site",), domains=("registry.npmjs.org",))
    _, made = store.mint(
        grant, holder=parts.TokenHolder(caller, f'{{"client":"{caller}"}}'), note="x", uses=3,
        seconds=600,
    )  # fmt: skip
    store.close()
    return made.id


def test_the_owner_sees_and_ends_tokens_of_all_callers(world: World) -> None:
    assert world.json("capability", "list") == []
    ids = [mint(world.state, caller) for caller in ("ann", "bob")]
    shown = world.json("capability", "list")
    assert {(one["id"], one["caller"], one["uses_left"]) for one in shown} == {
        (ids[0], "ann", 3),
        (ids[1], "bob", 3),
    }
    text = world.ok("capability", "list").text
    assert "registry.npmjs.org" in text and "hw_cap1" not in text
    assert world.json("capability", "revoke", ids[0])["state"] == "revoked"
    assert [one["id"] for one in world.json("capability", "list")] == [ids[1]]
    assert len(world.json("capability", "list", "--all")) == 2
    (entry,) = world.json("audit", "log")["events"]
    assert (entry["type"], entry["detail"]["capability"]) == ("owner.capability", ids[0])
    missing = world.run("capability", "revoke", "0" * 16, "--json")
    assert (missing.code, missing.error["code"]) == (1, "not_found")
