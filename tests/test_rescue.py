"""`hostwright rescue` as a process, on installations that are really broken."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hostwright.rescue import good, snapshots
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.operator_pin import OperatorPin

from .daemon_harness import (
    BIN,
    LINUX,
    THIRD_PARTY,
    Installation,
    processes_running,
    settle,
    wait_for,
)

pytestmark = pytest.mark.skipif(not LINUX, reason="reads /proc")
PIN = "4711-pin"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Installation]:
    home = Installation(tmp_path)
    home.without_suite()
    OperatorPin(home.state).set(PIN)
    try:
        yield home
    finally:
        home.close()


def findings(home: Installation) -> dict[str, dict[str, Any]]:
    done = home.cli("rescue", "--json", ok=False)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1), done.stderr
    return {one["id"]: one for one in found["findings"]}


def repair(home: Installation, repair_id: str, pin: str = PIN) -> tuple[int, str]:
    """The owner at a terminal."""
    ours, theirs = pty.openpty()
    script = 'terminal=$1; shift; exec "$@" <>"$terminal" >&0 2>&1'
    words = [str(BIN / "hostwright"), "rescue", "repair", repair_id]
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", os.ttyname(theirs), *words],
        env={**home.env, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    screen, typed = b"", False
    deadline = time.monotonic() + 120
    while True:
        ready, _, _ = select.select([ours], [], [], 0.1)
        if ready:
            screen += os.read(ours, 65_536)
        elif process.poll() is not None:
            break
        if b"PIN, to do this: " in screen and not typed:
            os.write(ours, pin.encode() + b"\n")
            typed = True
        assert time.monotonic() < deadline, screen
    os.close(ours)
    os.close(theirs)
    return process.returncode, screen.decode()


def recorded(home: Installation) -> list[tuple[str, str]]:
    return [(one.type, str(one.detail["repair"])) for one in home.events(type="rescue.*")]


def test_a_garbled_configuration_goes_back_to_the_one_that_started(home: Installation) -> None:
    with home.up():
        wait_for(lambda: bool(good.copies(home.state)))
    file = home.config / "config.toml"
    sound = file.read_bytes()
    file.write_text('[policy\nprofile = "stand')
    wrong = findings(home)["config:1"]
    assert wrong["severity"] == "error"
    assert str(file) in wrong["message"]
    assert wrong["repair"]["id"] == "config"
    # Neither a wrong PIN nor a process without a terminal changes anything.
    code, said = repair(home, "config", "wrong")
    assert (code, "PIN is wrong" in said) == (1, True), said
    assert "terminal" in home.cli("rescue", "repair", "config", ok=False).stderr
    assert file.read_bytes() != sound
    assert recorded(home) == []

    code, said = repair(home, "config")
    assert code == 0, said
    assert file.read_bytes() == sound
    assert findings(home)["config"]["severity"] == "ok"
    assert recorded(home) == [("rescue.begun", "config"), ("rescue.repaired", "config")]
    home.assert_ledger_holds()
    (snapshot,) = snapshots.all_in(home.state / snapshots.FOLDER)
    assert (snapshot.state, (snapshot.folder / "files/0").read_bytes()[:7]) == ("done", b"[policy")
    with home.up() as daemon:
        assert daemon.status()["problems"] == []


def test_a_repair_that_was_killed_is_told_and_taken_back(home: Installation) -> None:
    file = home.config / "config.toml"
    before = file.read_bytes()
    killed = (
        "import os, signal, sys; from pathlib import Path; from hostwright.rescue import snapshots;"
        "file = Path(sys.argv[2]);"
        "snapshots.take(Path(sys.argv[1]), 'config', 'put back', (file,));"
        "file.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    top = home.state / snapshots.FOLDER
    done = subprocess.run([sys.executable, "-c", killed, str(top), str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    (one,) = snapshots.all_in(top)
    found = findings(home)
    assert "cut off" in found[f"undo:{one.id}"]["message"]
    code, said = repair(home, f"undo:{one.id}")
    assert code == 0, said
    assert file.read_bytes() == before
    assert f"undo:{one.id}" not in findings(home)


def test_open_modes_are_closed_and_put_on_record(home: Installation) -> None:
    key = home.state / "operator.json"
    key.chmod(0o644)
    (home.config / "config.toml").chmod(0o666)
    found = findings(home)
    assert found["mode:state/operator.json"]["severity"] == "error"
    for name in ("mode:state/operator.json", "mode:config/config.toml"):
        code, said = repair(home, name)
        assert code == 0, said
    assert (key.stat().st_mode & 0o777, (home.config / "config.toml").stat().st_mode & 0o777) == (
        0o600,
        0o644,
    )
    kinds = [kind for kind, _ in recorded(home)]
    assert kinds == ["rescue.begun", "rescue.repaired"] * 2


def test_a_strangers_port_is_named_and_the_stranger_lives(home: Installation) -> None:
    code = (
        "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
        "print(s.getsockname()[1], flush=True); time.sleep(600)"
    )
    stranger = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert stranger.stdout is not None
        home.port = int(stranger.stdout.readline())
        found = findings(home)["port"]
        assert (found["severity"], found["repair"]) == ("error", None)
        assert f"pid {stranger.pid} " in found["evidence"][0]
        assert "not ours" in found["evidence"][0]
        done = home.cli("rescue", "repair", "port", ok=False)
        assert (done.returncode, "Nothing here has the repair" in done.stderr) == (1, True)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_what_a_killed_daemon_left_is_ended_and_cleared(home: Installation) -> None:
    # One that has left its parent's session, so nothing but its mark tells whose it is.
    script = 'setsid sleep 600.75 </dev/null >/dev/null 2>&1 & exec "$@"'
    server = [sys.executable, str(THIRD_PARTY), "--name", "demo"]
    home.manifest("demo", f"command = {json.dumps(['/bin/sh', '-c', script, 'sh', *server])}")
    with home.up() as daemon:
        daemon.wait_state("demo", "ready")
        daemon.kill_daemon()
        (pid,) = processes_running("sleep\x00600.75")
        found = findings(home)
        assert found["orphans"]["severity"] == "error", found["orphans"]
        assert f"pid {pid} " in " ".join(found["orphans"]["evidence"])
        assert found["socket:gateway.sock"]["severity"] == "warning"
        assert found["pid-file"]["severity"] == "warning"
        code, said = repair(home, "pid-file")
        assert (code, (home.runtime / "daemon.pid").read_bytes()) == (0, b""), said
        code, said = repair(home, "orphans")
        assert code == 0, said
        assert not settle(home.processes)
    code, said = repair(home, "socket:gateway.sock")
    assert code == 0, said
    code, said = repair(home, "socket:connect.sock")
    assert code == 0, said
    left = [one for one in findings(home).values() if one["severity"] in ("error", "warning")]
    assert {one["id"] for one in left} <= {"socket:ledger.sock"}, left


def test_a_port_that_a_process_of_ours_holds_is_freed(home: Installation) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        home.port = probe.getsockname()[1]
    code = (
        "import socket, sys, time; s = socket.socket();"
        "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print('up', flush=True);"
        "time.sleep(600)"
    )
    ours = subprocess.Popen(
        [sys.executable, "-c", code, str(home.port)],
        stdout=subprocess.PIPE,
        text=True,
        env={**home.env, "HOSTWRIGHT_CHILD": "left"},
    )
    try:
        assert ours.stdout is not None
        ours.stdout.readline()
        found = findings(home)["port"]
        assert found["repair"]["id"] == "port", found
        # Ended as a process is whose parent does not wait for it.
        code_, said = repair(home, "port")
        assert code_ == 0, said
        assert ours.wait(60) == -signal.SIGTERM
        assert findings(home)["port"]["severity"] == "ok"
    finally:
        ours.kill()
        ours.wait()


def test_a_truncated_ledger_is_told_and_repairs_go_to_the_journal(home: Installation) -> None:
    home.cli("panic")
    (home.state / "panic.json").unlink()
    for one in home.state.glob("ledger.db*"):
        content = one.read_bytes()
        one.write_bytes(content[: len(content) // 3] if one.name == "ledger.db" else b"")
    found = findings(home)
    assert found["database:ledger.db"]["severity"] == "error"
    damaged = (home.state / "ledger.db").read_bytes()
    (home.config / "config.toml").chmod(0o666)
    code, said = repair(home, "mode:config/config.toml")
    assert code == 0, said
    assert "On record: journal" in said
    assert (home.state / "ledger.db").read_bytes() == damaged
    # With a sound ledger again, the journal is taken over by the next daemon.
    for one in home.state.glob("ledger.db*"):
        one.rename(home.folder / one.name)
    with home.up():
        wait_for(lambda: len(recorded(home)) == 2)
    assert not (home.state / "rescue/journal.jsonl").exists()


def test_no_database_and_no_entry_is_called_sound_that_is_not(home: Installation) -> None:
    ledger = Ledger(home.ledger)
    for number in range(20):
        ledger.append(Entry(type="owner.test", detail={"number": number}))
    ledger.close()
    assert findings(home)["ledger:chain"]["severity"] == "ok"
    # An entry is edited; the file itself stays a sound database.
    with closing(sqlite3.connect(home.ledger)) as db:
        db.execute("DROP TRIGGER entries_no_update")
        (body,) = db.execute("SELECT body FROM entries WHERE seq = 8").fetchone()
        edited = bytes(body).replace(b'"number":7', b'"number":9')
        assert edited != body
        db.execute("UPDATE entries SET body = ? WHERE seq = 8", (edited,))
        db.commit()
    others = ("vault.db", "rates.db", "sessions.db", "capabilities.db")
    for name in others:
        (home.state / name).write_bytes(b"no database " * 500)
        (home.state / name).chmod(0o600)
    found = findings(home)
    assert found["database:ledger.db"]["severity"] == "ok"
    assert found["ledger:chain"]["severity"] == "error"
    assert "entry 8" in found["ledger:chain"]["message"]
    assert {name: found[f"database:{name}"]["severity"] for name in others} == dict.fromkeys(
        others, "error"
    )
    assert all((home.state / name).read_bytes() == b"no database " * 500 for name in others)
    assert home.cli("rescue", ok=False).returncode == 1
