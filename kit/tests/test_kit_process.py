"""The server as a process: it ends when told, in time, with a whole ledger, and starts clearly."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from hostwright_kit.audit import EventFilter, list_receipts

from .kit_harness import Home, Wire, end, finish, free_port, http_exchange, request, wait_for

# Five are promised. The rest is for a machine that is busy with other tests; what would end only
# when its call does takes thirty.
WITHIN_SECONDS = 15.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def told_to_end(wire: Wire, how: str) -> float:
    """Tell the server to end, expect exit 0 in time, and return how long it took."""
    started = time.monotonic()
    if how == "eof":
        assert wire.process.stdin
        wire.process.stdin.close()
    else:
        wire.process.send_signal(signal.SIGTERM if how == "sigterm" else signal.SIGINT)
    assert finish(wire.process, seconds=WITHIN_SECONDS) == 0
    return time.monotonic() - started


@pytest.mark.parametrize("how", ["eof", "sigterm", "sigint"])
def test_an_idle_server_ends_at_once_with_its_reads_on_record(home: Home, how: str) -> None:
    wire = Wire(home.probe())
    for _ in range(20):
        assert "result" in wire.call("look")
    told_to_end(wire, how)
    assert len(home.events(type="call.read")) == 20, "what was queued was flushed"
    home.assert_ledger_holds()
    assert "Traceback" not in home.stderr()


@pytest.mark.parametrize("how", ["eof", "sigterm"])
@pytest.mark.parametrize(
    ("tool", "outcome"),
    [("slow_async", "cancelled"), ("slow_sync", "unrecorded"), ("hog", "unrecorded")],
)
def test_a_running_call_does_not_hold_up_the_end(
    home: Home, how: str, tool: str, outcome: str
) -> None:
    wire = Wire(home.probe())
    wire.begin("tools/call", name=tool, arguments={"seconds": 30})
    if tool == "hog" and how == "eof":
        # The end must have been seen before the loop is blocked for the clock to be running.
        told_to_end_while_blocked(wire, home)
    else:
        wait_for(lambda: f"{tool} begun" in home.acts())
        told_to_end(wire, how)
    (receipt,) = list_receipts(home.ledger, EventFilter(tool=tool)).receipts
    assert receipt.outcome == outcome
    home.assert_ledger_holds()


def told_to_end_while_blocked(wire: Wire, home: Home) -> None:
    assert wire.process.stdin
    wire.process.stdin.close()
    wait_for(lambda: "hog begun" in home.acts())
    assert finish(wire.process, seconds=WITHIN_SECONDS) == 0


def test_a_parent_that_does_not_read_stderr_does_not_keep_the_server(home: Home) -> None:
    reading, writing = os.pipe()
    wire = Wire(home.probe(stderr=writing))
    os.close(writing)
    wire.begin("tools/call", name="shout", arguments={})
    wait_for(lambda: "shout begun" in home.acts())
    told_to_end(wire, "sigterm")
    os.close(reading)


def test_a_call_that_ends_soon_is_answered_after_stdin_is_closed(home: Home) -> None:
    wire = Wire(home.probe())
    wire.begin("tools/call", name="slow_async", arguments={"seconds": 0.5})
    assert wire.process.stdin
    wire.process.stdin.close()
    assert wire.answer()["result"]["content"][0]["text"] == "done"
    assert finish(wire.process, seconds=WITHIN_SECONDS) == 0
    assert home.events(tool="slow_async")[-1].outcome == "ok"


def test_the_last_answer_arrives_whole_though_the_pipe_was_full(home: Home) -> None:
    wire = Wire(home.probe())
    size = 1_000_000
    wire.begin("tools/call", name="big", arguments={"characters": size})
    assert wire.process.stdin
    wire.process.stdin.close()
    time.sleep(1.5)  # longer than the server needs: it must be waiting for us to read
    assert wire.answer()["result"]["content"][0]["text"] == "x" * size
    assert finish(wire.process, seconds=WITHIN_SECONDS) == 0


def test_a_client_that_reads_nothing_does_not_keep_the_server(home: Home) -> None:
    wire = Wire(home.probe())
    wire.begin("tools/call", name="big", arguments={"characters": 1_000_000})
    wait_for(lambda: home.events(tool="big"))
    assert told_to_end(wire, "sigterm") < WITHIN_SECONDS


@pytest.mark.parametrize("way", ["--http", "--socket"])
@pytest.mark.parametrize("tool", ["slow_async", "slow_sync"])
def test_a_listening_server_ends_in_time_with_a_call_running(
    home: Home, way: str, tool: str
) -> None:
    address = f"127.0.0.1:{free_port()}" if way == "--http" else str(home.runtime / "s.sock")
    with home.serving(way, address) as process:
        asking = threading.Thread(target=_post_and_forget, args=(way, address, tool))
        asking.start()
        wait_for(lambda: f"{tool} begun" in home.acts())
        process.send_signal(signal.SIGTERM)
        assert finish(process, seconds=WITHIN_SECONDS) == 0
        asking.join()
    (receipt,) = list_receipts(home.ledger, EventFilter(tool=tool)).receipts
    assert receipt.outcome in ("cancelled", "unrecorded")
    assert (receipt.outcome == "cancelled") == (tool == "slow_async")
    home.assert_ledger_holds()


def _post_and_forget(way: str, address: str, tool: str) -> None:
    body = request(1, "tools/call", name=tool, arguments={"seconds": 30})
    http_exchange(way, address, body, method_header="tools/call", name_header=tool)


def test_a_server_started_with_no_stdin_ends_at_once(home: Home) -> None:
    process = home.probe(stdin=subprocess.DEVNULL)
    assert finish(process, seconds=90) == 0
    assert "Traceback" not in home.stderr()


@pytest.mark.parametrize("closed", [(0,), (0, 2), (0, 1, 2)])
def test_closed_standard_streams_are_not_taken_by_a_database(
    home: Home, closed: tuple[int, ...]
) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    process = home.probe(stdin=subprocess.DEVNULL, before=close)
    code = finish(process, seconds=90)
    assert code == (1 if 1 in closed else 0)
    home.assert_ledger_holds()


def test_stdout_that_is_a_file_is_refused_with_the_fix(home: Home, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        process = home.probe(stdout=out)
        assert process.stdin
        assert process.wait(20) == 1
        process.stdin.close()
    assert "pipe" in home.stderr()


def test_requests_from_a_file_are_answered(home: Home, tmp_path: Path) -> None:
    source = tmp_path / "requests"
    source.write_bytes(
        b"".join(request(number, "tools/call", name="look", arguments={}) for number in range(1, 6))
    )
    with source.open("rb") as requests:
        process = home.probe(stdin=requests)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert sorted(json.loads(line)["id"] for line in out.splitlines()) == [1, 2, 3, 4, 5]


def test_stray_prints_and_children_do_not_touch_the_wire(home: Home) -> None:
    """Descriptor 0 is /dev/null and 1 is stderr for everything that a tool starts."""
    wire = Wire(home.probe())
    wire.call("look")
    fds = Path(f"/proc/{wire.process.pid}/fd")
    assert (fds / "0").readlink() == Path("/dev/null")
    assert (fds / "1").readlink() == (fds / "2").readlink()
    assert told_to_end(wire, "eof") < WITHIN_SECONDS


def run(home: Home, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    process = home.probe(*options, env=env, stdin=subprocess.DEVNULL)
    out, _ = process.communicate(timeout=30)
    return subprocess.CompletedProcess(options, process.returncode, out.decode())


def test_version_names_the_program_and_its_version(home: Home) -> None:
    done = run(home, "--version")
    assert (done.returncode, done.stdout) == (0, "hostwright-probe 1.2.3\n")
    assert not home.ledger.exists(), "asking for the version opens nothing"


def test_check_prints_a_table_or_json_and_exits_1_on_a_problem(home: Home) -> None:
    good = run(home, "--check", COLUMNS="200")
    assert good.returncode == 0
    for word in ("configuration", "state folder", "profile standard", "degraded"):
        assert word in good.stdout
    bad = run(home, "--check", COLUMNS="200", PROBE_CHECK="problem")
    assert bad.returncode == 1
    assert "see [policy]" in bad.stdout, "brackets are text, not markup"
    as_json = run(home, "--check", "--json", PROBE_CHECK="problem")
    assert as_json.returncode == 1
    found = {item["what"]: item for item in json.loads(as_json.stdout)}
    assert found["probe"] == {
        "what": "probe",
        "state": "problem",
        "detail": "see [policy]",
        "fix": "mend it",
    }
    assert found["tools"]["state"] == "ok"


def test_a_bad_configuration_stops_the_start_with_every_error(home: Home) -> None:
    home.configure('[policy]\nprofile = "yolo"\n[approval]\nexpires_minutes = 0\n')
    done = run(home)
    assert done.returncode == 1
    for word in ("config.toml:2", "policy.profile", "config.toml:4", "expires_minutes", "fix:"):
        assert word in home.stderr()
    checked = run(home, "--check", "--json")
    assert checked.returncode == 1
    assert [item["state"] for item in json.loads(checked.stdout)] == ["problem", "problem"]
    assert not home.ledger.exists(), "nothing was opened"


@pytest.mark.parametrize("options", [(), ("--check", "--json")])
def test_a_state_that_cannot_be_used_is_one_clear_error_and_exit_1(
    home: Home, options: tuple[str, ...]
) -> None:
    def start() -> str:
        home.stderr_file.unlink(missing_ok=True)
        done = run(home, *options)
        assert done.returncode == 1
        assert "Traceback" not in home.stderr()
        return done.stdout + home.stderr()

    home.ledger.write_bytes(b"garbage" * 500)
    assert "damaged" in start()
    assert home.ledger.read_bytes() == b"garbage" * 500
    home.ledger.unlink()
    newer = sqlite3.connect(home.ledger)
    newer.execute("PRAGMA user_version=99")
    newer.execute("CREATE TABLE t (x)")
    newer.close()
    assert "Upgrade" in start()
    home.ledger.unlink()
    assert os.geteuid() == 0, "giving the folder away needs root"
    os.chown(home.state, 4242, 4242)
    assert "belongs to uid 4242" in start()
    assert list(home.state.iterdir()) == []


def test_a_port_in_use_is_named_with_the_fix_and_its_holder_left_alone(home: Home) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert run(home, "--http", f"127.0.0.1:{port}").returncode == 1
    assert f"127.0.0.1:{port}" in home.stderr()
    assert "ss -ltnp" in home.stderr()


@pytest.mark.parametrize(
    "address", ["x", "127.0.0.1:99999", "127.0.0.1:", "192.0.2.7:1", "9" * 5000]
)
def test_an_address_that_cannot_be_is_one_clear_error(home: Home, address: str) -> None:
    token = {"HOSTWRIGHT_HTTP_TOKEN": "t" * 40}
    assert run(home, "--http", address, **token).returncode == 1
    assert "Traceback" not in home.stderr()
    assert "fix:" in home.stderr()


def test_a_stale_socket_is_replaced_and_the_new_one_private_and_removed(home: Home) -> None:
    path = home.runtime / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    old = path.stat().st_ino
    with home.serving("--socket", str(path)) as process:
        assert path.stat().st_ino != old or process.poll() is None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert end(process) == 0
        assert not path.exists()


def test_a_live_socket_and_a_file_are_refused_and_left_alone(home: Home) -> None:
    path = home.runtime / "s.sock"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        before = path.stat()
        assert run(home, "--socket", str(path)).returncode == 1
        assert path.stat().st_ino == before.st_ino
    path.unlink()
    path.write_text("mine")
    assert run(home, "--socket", str(path)).returncode == 1
    assert path.read_text() == "mine"
    assert home.stderr().count("is in use") == 2


def test_of_two_servers_that_start_at_once_on_one_socket_one_serves(home: Home) -> None:
    path = str(home.runtime / "s.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    both = [home.probe("--socket", path, stdin=subprocess.DEVNULL) for _ in range(2)]
    wait_for(lambda: [process.poll() for process in both].count(None) == 1)
    wait_for(lambda: "is in use" in home.stderr())
    (loser,) = [process for process in both if process.poll() is not None]
    (winner,) = [process for process in both if process is not loser]
    assert finish(loser) == 1
    wait_for(lambda: Path(path).exists())
    assert end(winner) == 0


def test_a_socket_path_that_is_too_long_is_one_clear_error(home: Home) -> None:
    assert run(home, "--socket", str(home.runtime / ("x" * 120))).returncode == 1
    assert "107" in home.stderr()
    assert "Traceback" not in home.stderr()


def test_beyond_loopback_there_is_no_start_without_a_token(home: Home) -> None:
    assert run(home, "--http", f"0.0.0.0:{free_port()}").returncode == 1
    assert "hostwright token" in home.stderr()
