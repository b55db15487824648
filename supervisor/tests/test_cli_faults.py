"""Bad input through the front door: one clear error with its remedy, no traceback, nothing lost."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
from pathlib import Path

import pytest

from .cli_world import SUITE, Done, World

FOREIGN_UID = 65_534


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.without_suite()
    return found


def refused(world: World, *, code: str = "not_started", **env: str) -> Done:
    """`up --detach` must fail with one error, and leave no process."""
    done = world.run("up", "--detach", "--json", **env)
    assert done.code == 1, done
    assert done.error["code"] == code, done
    assert done.err == ""
    assert not world.processes()
    return done


def test_a_port_in_use(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = refused(world, HOSTWRIGHT_GATEWAY__PORT=port)
        for words in (("up",), ("up", "--detach")):
            told = world.run(*words, HOSTWRIGHT_GATEWAY__PORT=port)
            assert told.code == 1
            assert told.out == ""
            assert told.err.startswith("✗ ")
            assert told.err.count(f"Cannot listen on 127.0.0.1:{port}") == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in done.error["message"]
    assert "choose another port" in done.error["message"]
    assert world.json("up", "--detach")["servers"][0]["state"] == "disabled"
    assert world.ok("down")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[policy\n", "config.toml:1: Is not valid TOML"),
        ("[gateway]\nport = true\nhosts = 1\n", "config.toml:3: gateway.hosts"),
        ("[gateway]\nhost = '0.0.0.0'\nrequire_token = false\n", "would let the network in"),
        ("[policy]\nprofile = 'any'\n", "config.toml:2: policy.profile"),
    ],
    ids=["syntax", "keys", "open", "value"],
)
def test_a_wrong_configuration(world: World, text: str, told: str) -> None:
    file = world.config / "config.toml"
    file.write_text(text)
    assert told in refused(world).error["message"]
    assert file.read_text() == text
    assert world.run("pending", "--json").code == (0 if "gateway" in text else 1)


def test_a_wrong_manifest_is_shown_and_does_not_stop_the_others(world: World) -> None:
    manifests = world.config / "manifests"
    (manifests / "bad.toml").write_text('name = "bad"\ncommand = ["true"]\ntimeout = 1\n')
    (manifests / "gone.toml").write_text('name = "gone"\ncommand = ["/no/such/program"]\n')
    with world.daemon() as status:
        states = {one["name"]: one for one in status["servers"]}
        assert states.keys() == {"gone", "hostwright", *SUITE}
        assert "/no/such/program" in states["gone"]["last_error"]
        shown = world.ok("status").out
        assert "bad.toml:3: timeout: This key is not known." in shown
        assert "/no/such/program" in shown
        start = world.run("start", "gone", "--json")
        assert start.code == 1
        assert "/no/such/program" in start.text


def test_a_stale_pid_file_holds_nobody_up(world: World) -> None:
    # A pid that lives, but is not a daemon's.
    (world.runtime / "daemon.pid").write_text(f"{os.getpid()}\n")
    assert world.run("status", "--json").error["code"] == "no_daemon"
    assert world.run("down", "--json").error["code"] == "no_daemon"
    with world.daemon() as status:
        assert status["pid"] != os.getpid()
        assert (world.runtime / "daemon.pid").read_text().strip() == str(status["pid"])


@pytest.mark.parametrize("which", ["STATE", "CONFIG", "RUNTIME"])
def test_a_folder_that_belongs_to_somebody_else(world: World, which: str) -> None:
    folder = world.folder / "theirs"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, FOREIGN_UID, FOREIGN_UID)
    else:
        folder = Path("/usr")
    env = {f"HOSTWRIGHT_{which}_DIR": str(folder)}
    done = refused(world, code="folder_foreign", **env)
    assert "belongs to uid" in done.error["message"]
    assert "Nothing was changed" in done.error["fix"]
    checked = world.run("check", "--json", **env)
    assert checked.code == 1
    assert "belongs to uid" in checked.out
    assert world.run("token", "x", "--json", **env).error["code"] == "folder_foreign"
    if os.geteuid() == 0:
        assert folder.stat().st_uid == FOREIGN_UID
        assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["ledger.db", "approvals.db", "tokens.db"])
def test_a_corrupt_database(world: World, name: str) -> None:
    world.ask(path="/srv/a")
    world.ok("token", "laptop")
    file = world.state / name
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    damaged = b"\0" * 512 + file.read_bytes()[512:]
    file.write_bytes(damaged)
    done = refused(world)
    assert f"{file} is damaged" in done.error["message"]
    assert f"mv {file} {file}.damaged" in done.error["message"]
    words = {"ledger.db": ("audit", "log"), "approvals.db": ("pending",), "tokens.db": ("token",)}
    command = world.run(*words[name], "--json")
    assert command.code == 1
    assert command.error["code"] == "store_corrupt"
    assert file.read_bytes() == damaged
    if name == "ledger.db":  # the remedy works
        file.rename(f"{file}.damaged")
        with world.daemon():
            assert world.json("audit", "verify")["ok"]


def test_a_file_in_the_way_of_a_socket(world: World) -> None:
    (world.runtime / "gateway.sock").write_text("in the way")
    done = refused(world)
    assert "gateway.sock is in use" in done.error["message"]
    assert (world.runtime / "gateway.sock").read_text() == "in the way"


def test_a_state_folder_that_cannot_be_written(world: World) -> None:
    blocker = world.folder / "file"
    blocker.write_text("")
    done = refused(world, code="folder_unavailable", HOSTWRIGHT_STATE_DIR=str(blocker / "state"))
    assert "HOSTWRIGHT_STATE_DIR" in done.error["fix"]


@pytest.mark.parametrize(
    "words",
    [("nonsense",), ("start",), ("audit", "burn"), ("logs", "x", "-n", "many"), ("up", "--x")],
)
def test_wrong_usage(world: World, words: tuple[str, ...]) -> None:
    done = world.run(*words, "--json")
    assert (done.code, done.error["code"]) == (2, "usage")
    if words == ("nonsense",):
        told = world.run(*words)
        assert (told.code, told.out) == (2, "")
        assert "hostwright --help" in told.err


def test_help_and_version(world: World) -> None:
    shown = world.ok("--help").out
    commands = (
        "init up down status start stop restart logs tools call approve deny pending audit token "
        "install import check doctor new events top secret policy export reload"
    )
    for command in commands.split():
        assert f"│ {command} " in shown, command
    assert not re.findall(r"│ \w+ +│", shown), "each says what it is for"
    assert "Exit codes: 0 done" in shown
    assert world.ok("--version").out.strip()
