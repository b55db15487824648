"""`hostwright secret`: values come from the terminal or a pipe and are printed nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from .cli_world import World

VALUE = "s3cret-Xyzzy-4711"
ASKED = {"Value of gh": VALUE, "The same again": VALUE}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_secret_is_kept_listed_tested_rotated_and_deleted(world: World) -> None:
    (world.config / "manifests").mkdir()
    manifest = 'name = "hub"\ncommand = ["true"]\n[secrets]\nKEY = "gh"\n'
    (world.config / "manifests" / "hub.toml").write_text(manifest)
    kept = world.at_terminal("secret", "set", "gh", answers=ASKED)
    assert (kept.code, VALUE in kept.text) == (0, False)
    # Open to the server whose manifest names it.
    (entry,) = world.json("secret", "list")["entries"]
    assert (entry["name"], entry["servers"], entry["version"]) == ("gh", ["hub"], 1)
    assert world.json("secret", "test") == {
        "layer": "file",
        "entries": [{"name": "gh", "ok": True, "problem": None}],
    }
    (key,) = world.state.glob("vault-*.key")
    assert world.json("secret", "rotate") == {"layer": "file", "entries": 1}
    assert not key.exists()
    assert world.json("secret", "test")["entries"][0]["ok"]
    assert VALUE not in world.ok("secret", "list").text + world.ok("audit", "log", "--json").text
    world.ok("secret", "delete", "gh")
    assert world.json("secret", "list")["entries"] == []
    types = [one["type"] for one in world.json("audit", "log")["events"]]
    assert types == ["secret.deleted", "secret.rotated", "secret.set"]


def test_what_is_wrong_is_told_and_nothing_is_kept(world: World) -> None:
    other = {**ASKED, "The same again": "another"}
    assert world.at_terminal("secret", "set", "gh", answers=other).code == 1
    done = world.run("secret", "set", "gh", "--json")
    assert (done.code, done.error["code"]) == (1, "bad_value")
    assert world.json("secret", "list")["entries"] == []
    assert world.run("secret", "delete", "gh", "--json").error["code"] == "not_found"
    assert world.run("secret", "rotate", "--json").error["code"] == "vault_empty"
    assert world.run("secret", "rotate", "--to", "nowhere").code == 2


def test_a_damaged_entry_is_named_and_the_exit_code_says_so(world: World) -> None:
    world.at_terminal("secret", "set", "gh", "--server", "hub", answers=ASKED)
    (key,) = world.state.glob("vault-*.key")
    key.write_text("00" * 32)
    done = world.run("secret", "test", "--json")
    assert (done.code, done.error["code"]) == (1, "vault_key_wrong")
