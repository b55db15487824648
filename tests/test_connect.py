"""`hostwright connect`: it hands its pipes to the daemon, and lives as long as the session."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .daemon_harness import BIN, LINUX, Daemon, Installation, request, wait_for


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installation = Installation(tmp_path_factory.mktemp("connect"))
    installation.without_suite()
    installation.third_party("demo")
    try:
        yield installation
    finally:
        installation.close()


@pytest.fixture(scope="module")
def daemon(home: Installation) -> Iterator[Daemon]:
    with home.up() as running:
        yield running


def connect(home: Installation, *words: str, stdin: Any, stdout: Any) -> subprocess.Popen[bytes]:
    command = [str(BIN / "hostwright"), "connect", *words]
    return subprocess.Popen(command, env=home.env, stdin=stdin, stdout=stdout)


def becomes_small(process: subprocess.Popen[bytes]) -> None:
    """It is no Python any longer, under the same pid."""
    comm = Path(f"/proc/{process.pid}/comm")
    wait_for(lambda: comm.read_text().strip() == "sh")
    for number in (0, 1):
        assert "pipe:" not in str(Path(f"/proc/{process.pid}/fd/{number}").readlink())


@pytest.mark.skipif(not LINUX, reason="looks into /proc")
def test_a_signal_to_the_command_ends_the_session_and_its_calls(
    home: Installation, daemon: Daemon
) -> None:
    with daemon.wire("demo") as watcher:

        def seen(what: str) -> int:
            found = watcher.ask("tools/call", name="seen", arguments={})["result"]
            return str(found["content"][0]["text"]).count(what)

        before = seen("notifications/cancelled")
        with daemon.wire("demo") as wire:
            wire.ask("tools/list")
            becomes_small(wire.process)
            wire.begin("tools/call", name="hang", arguments={"by": "the-one-to-be-cut-off"})
            wait_for(lambda: seen("the-one-to-be-cut-off"))
            wire.process.send_signal(signal.SIGTERM)
            assert wire.process.wait(10) == -signal.SIGTERM
            wait_for(lambda: seen("notifications/cancelled") > before)
            # The daemon has let go of its ends as well.
            assert wire.process.stdout
            assert wire.process.stdout.read() == b""


def test_sockets_are_handed_over_like_pipes_also_one_for_both_ways(
    home: Installation, daemon: Daemon
) -> None:
    """As Node starts its children: each stream is a socket; or both are the same."""
    for count in (1, 2):
        pairs = [socket.socketpair() for _ in range(count)]
        with connect(home, "demo", stdin=pairs[0][1], stdout=pairs[-1][1]) as process:
            for _, theirs in pairs:
                theirs.close()
            mine, answers = pairs[0][0], pairs[-1][0]
            answers.settimeout(20)
            lines = answers.makefile("rb")
            for number in range(3):
                arguments = {"text": "x" * 100_000}
                mine.sendall(request(number, "tools/call", name="echo", arguments=arguments))
                assert json.loads(lines.readline())["id"] == number
            mine.shutdown(socket.SHUT_WR)
            assert lines.readline() == b""
            assert process.wait(10) == 0
            for ours, _ in pairs:
                ours.close()


def test_a_file_is_copied_and_answered_to_its_end(
    home: Installation, daemon: Daemon, tmp_path: Path
) -> None:
    asked, answered = tmp_path / "asked", tmp_path / "answered"
    asked.write_bytes(
        b"".join(
            request(number, "tools/call", name="echo", arguments={"n": number})
            for number in range(5)
        )
    )
    with (
        asked.open("rb") as source,
        answered.open("wb") as sink,
        connect(home, "demo", stdin=source, stdout=sink) as process,
    ):
        assert process.wait(20) == 0
    found = sorted(json.loads(line)["id"] for line in answered.read_text().splitlines())
    assert found == list(range(5))


def test_what_is_asked_before_the_pipe_is_closed_is_answered(daemon: Daemon) -> None:
    with daemon.wire("demo") as wire:
        wire.begin("tools/call", name="echo", arguments={"seconds": 0.3})
        assert wire.process.stdin
        wire.process.stdin.close()
        assert wire.answer()["result"]["content"]
        assert wire.process.wait(10) == 0


def test_a_client_that_says_nothing_at_all_ends_in_peace(
    home: Installation, daemon: Daemon
) -> None:
    command = [str(BIN / "hostwright"), "connect", "demo"]
    done = subprocess.run(
        command, env=home.env, input=b"", capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert daemon.process.poll() is None


def test_a_name_that_no_server_has_is_refused_with_those_there_are(
    home: Installation, daemon: Daemon
) -> None:
    done = home.cli("connect", "nothing", ok=False)
    assert done.returncode == 1
    assert "demo" in done.stderr
    assert home.cli("connect", "--help").stderr.startswith("usage")


def test_ensure_starts_the_daemon_once_for_all_who_come(tmp_path: Path) -> None:
    home = Installation(tmp_path)
    home.without_suite()
    home.third_party("demo")
    pipe = subprocess.PIPE
    try:
        started = [connect(home, "--ensure", "demo", stdin=pipe, stdout=pipe) for _ in range(3)]
        for process in started:
            assert process.stdin
            assert process.stdout
            process.stdin.write(request(1, "tools/call", name="echo", arguments={}))
            process.stdin.flush()
        for process in started:
            assert process.stdout
            assert b"demo.echo" in process.stdout.readline()
        # When the daemon ends, so do they.
        assert "ended" in home.cli("down").stdout
        for process in started:
            assert process.wait(10) == 0
            assert process.stdin
            assert process.stdout
            process.stdin.close()
            process.stdout.close()
        assert not LINUX or wait_for(lambda: not home.processes())
    finally:
        home.cli("down", ok=False)
        home.close()
