"""`check` and `doctor`: all faults at once, each with its place and remedy, and nothing changed."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostwright_kit.ledger import MIGRATIONS

from .cli_world import Done, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def findings(done: Done, state: str = "problem") -> dict[str, dict[str, Any]]:
    document = done.document
    assert document["ok"] is (done.code == 0)
    return {one["what"]: one for one in document["findings"] if one["state"] == state}


def test_a_fresh_installation_is_sound_and_looking_makes_nothing(world: World) -> None:
    for folder in (world.state, world.config, world.runtime):
        folder.rmdir()
    done = world.run("check", "--json")
    assert done.code == 0, done
    assert not findings(done, "degraded")
    assert {path.name for path in world.folder.iterdir()} == {"home", "work"}
    table = world.ok("check").out
    assert "configuration folder" in table
    assert "Not there yet" in table


def test_every_fault_of_every_file_is_told_at_once_with_line_and_remedy(world: World) -> None:
    (world.config / "config.toml").write_text(
        "[policy]\n"
        'profile = "reckless"\n'
        "[system]\n"
        'roots = ["relative"]\n'
        "colour = 1\n"
        "[gateway]\n"
        "port = 99999\n"
        "[nobody]\n"
        "x = 1\n"
    )
    manifests = world.config / "manifests"
    manifests.mkdir(mode=0o700)
    (manifests / "a.toml").write_text('name = "a"\ncommand = ["/no/such/program"]\n')
    (manifests / "b.toml").write_text('name = "b"\ncommand = ["true"]\nwhat = 1\n')
    (manifests / "c.toml").write_text("name = \n")
    (manifests / "d.toml").write_text('name = "hostwright"\ncommand = ["true"]\n')
    done = world.run("check", "--json", HOSTWRIGHT_APPROVAL__EXPIRES_MINUTES="0")
    assert done.code == 1
    found = findings(done)
    config = str(world.config / "config.toml")
    lines = {
        "policy.profile": 2,
        "system.roots": 4,
        "system.colour": 5,
        "gateway.port": 7,
        "nobody": 8,
    }
    # The port of this test's environment would hide the one in the file.
    assert "gateway.port" not in found
    plain = world.run("check", "--json", HOSTWRIGHT_GATEWAY__PORT="")
    assert findings(plain)["gateway.port"]["message"]
    for key in lines.keys() - {"gateway.port"}:
        assert (found[key]["path"], found[key]["line"]) == (config, lines[key]), found[key]
    assert "HOSTWRIGHT_APPROVAL__EXPIRES_MINUTES" in found["approval.expires_minutes"]["message"]
    by_file = {Path(one["path"]).name: one for one in found.values() if one["path"]}
    assert by_file["a.toml"]["line"] == 2
    assert by_file["b.toml"]["what"] == "what"
    assert by_file["c.toml"]["line"] == 1
    assert "supervisor's own name" in by_file["d.toml"]["message"]
    assert all(one["fix"] for one in found.values()), found
    table = world.run("check")
    assert table.code == 1
    assert f"{config}:5" in table.out


def test_a_private_thing_that_others_may_touch_is_told(world: World) -> None:
    world.state.chmod(0o755)
    config = world.config / "config.toml"
    config.write_text("")
    config.chmod(0o666)
    world.runtime.rmdir()
    world.runtime.write_text("not a folder")
    done = world.run("check", "--json")
    assert "mode 0755" in findings(done, "degraded")["state folder"]["message"]
    assert "policy" in findings(done)["config.toml"]["message"]
    assert "not a folder" in findings(done)["runtime folder"]["message"]
    assert world.state.stat().st_mode & 0o777 == 0o755


def test_the_port_is_free_or_taken_by_a_stranger(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = world.run("check", "--json", HOSTWRIGHT_GATEWAY__PORT=port)
        assert done.code == 1
        taken = findings(done)[f"127.0.0.1:{port}"]
        assert "another port" in taken["fix"]
    assert findings(world.run("check", "--json"), "ok")["127.0.0.1:0"]["message"] == "Free."


def _damaged(file: Path) -> None:
    file.write_bytes(b"no database" * 999)


def _newer(file: Path) -> None:
    with sqlite3.connect(file) as db:
        db.execute(f"PRAGMA user_version={len(MIGRATIONS) + 7}")
    db.close()


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        ("tokens.db", _damaged, "damaged"),
        ("approvals.db", _newer, f"schema {len(MIGRATIONS) + 7}"),
        ("ledger.db", Path.mkdir, "cannot be used"),
    ],
    ids=["damaged", "newer", "folder"],
)
def test_a_database_that_cannot_be_used_is_named_and_left(
    world: World, name: str, spoil: Callable[[Path], None], told: str
) -> None:
    file = world.state / name
    spoil(file)
    before = file.read_bytes() if file.is_file() else b""
    done = world.run("doctor", "--json")
    assert done.code == 1
    assert told in findings(done)[name]["message"]
    assert (file.read_bytes() if file.is_file() else b"") == before


def test_doctor_sees_what_is_missing_and_what_a_dead_daemon_left(world: World) -> None:
    (world.runtime / "daemon.pid").write_text("999999\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(world.runtime / "connect.sock"))
    (world.runtime / "gateway.sock").write_text("no socket")
    (world.runtime / "children.json").write_text("no record")
    (world.state / "operator.json").write_text("{}")
    (world.home / ".claude.json").write_text("{ broken")
    world.ok("install", "codex")
    done = world.run("doctor", "--json")
    degraded, problems = findings(done, "degraded"), findings(done)
    assert "hostwright up" in degraded["daemon"]["fix"]
    assert "999999" in degraded["daemon.pid"]["message"]
    assert "dead daemon" in degraded["connect.sock"]["message"]
    assert "not a socket" in problems["gateway.sock"]["message"]
    assert "damaged" in degraded["children.json"]["message"]
    assert "damaged" in problems["pin_damaged"]["message"]
    assert ".claude.json" in degraded["claude-code"]["message"]
    good = findings(done, "ok")
    assert good["codex"]["message"] == "hostwright (user)."
    assert {"Python", "SQLite", "disk"} <= good.keys() | degraded.keys()


def test_doctor_finds_a_client_that_starts_another_installation(world: World) -> None:
    file = world.home / ".codex" / "config.toml"
    file.parent.mkdir()
    file.write_text(
        '[mcp_servers.hostwright]\ncommand = "/old/venv/bin/hostwright"\nargs = ["connect"]\n'
    )
    found = findings(world.run("doctor", "--json"), "degraded")["codex"]
    assert "another installation" in found["message"]
    assert found["fix"] == "hostwright install codex"
    world.ok("install", "codex")
    assert "codex" in findings(world.run("doctor", "--json"), "ok")


def test_doctor_walks_the_ledger(world: World) -> None:
    for number in range(3):
        world.ask(number=number)
    sound = findings(world.run("doctor", "--json"), "ok")["chain"]
    assert "3 entries, unbroken" in sound["message"]
    with sqlite3.connect(world.ledger) as db:
        db.execute("DROP TRIGGER entries_no_delete")
        db.execute("DELETE FROM entries WHERE seq = 2")
    db.close()
    done = world.run("doctor", "--json")
    assert done.code == 1
    assert "Broken at entry 2" in findings(done)["chain"]["message"]


@pytest.mark.parametrize(
    ("variable", "text"),
    [("HOSTWRIGHT_STATE_DIR", "relative"), ("HOSTWRIGHT_CONFIG", "/no/such/file.toml")],
)
def test_a_wrong_variable_is_one_clear_error(world: World, variable: str, text: str) -> None:
    done = world.run("check", **{variable: text})
    assert done.code == 1
    assert text in done.text
    assert "fix:" in done.text


def test_a_runtime_folder_too_deep_for_a_socket_is_told(world: World) -> None:
    deep = world.folder / ("x" * 120)
    done = world.run("check", "--json", HOSTWRIGHT_RUNTIME_DIR=str(deep))
    assert "bytes" in findings(done)["gateway.sock"]["message"]
