"""The exported units under a real systemd: started, killed, hung, stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from servers.system.tests.systemd_host import SystemdHost, SystemdHostError

from .daemon_harness import BIN, over_socket, wait_for

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.systemd


def exported(*words: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HOSTWRIGHT_")}
    done = subprocess.run(
        [str(BIN / "hostwright"), "export", "systemd", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdHost]:
    """A systemd that sees this checkout and its Python."""
    folders = [ROOT, Path(sys.base_prefix)]
    seen = [folder for folder in folders if not folder.is_relative_to("/usr")]
    host = SystemdHost(tmp_path_factory.mktemp("systemd"), seen)
    try:
        host.__enter__()
    except SystemdHostError as error:
        if error.refused:
            pytest.skip(f"systemd tests not run: {error}")
        pytest.fail(f"systemd tests: {error}", pytrace=False)
    try:
        yield host
    finally:
        host.close()


def shown(host: SystemdHost, unit: str) -> dict[str, str]:
    lines = host.run("systemctl", "show", unit).stdout.decode().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def journal(host: SystemdHost, unit: str) -> str:
    host.sync_journal()
    return host.run("journalctl", "-u", unit, "--no-pager").stdout.decode()


def states(host: SystemdHost) -> list[str]:
    """What the daemon says of its servers, asked over its socket from outside."""
    path = host.root / "run/hostwright/gateway.sock"
    try:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), timeout=30) as client:
            answer = client.get("http://gateway/control/status")
    except httpx2.HTTPError:
        return []
    return [one["state"] for one in answer.json()["servers"]]


def restarted(host: SystemdHost, unit: str, times: int) -> bool:
    state = shown(host, unit)
    return int(state["NRestarts"]) >= times and state["ActiveState"] == "active"


def members(host: SystemdHost, unit: str) -> str:
    """Every process in the unit's cgroup and below."""
    listed = host.run("systemctl", "show", "-p", "ControlGroup", "--value", unit).stdout.decode()
    return host.run(
        "systemd-cgls", "--no-pager", "--full", listed.strip() or "/nowhere", check=False
    ).stdout.decode()


@pytest.mark.timeout(400)
def test_the_daemons_unit_starts_is_watched_and_leaves_nothing(host: SystemdHost) -> None:
    unit = "hostwright.service"
    host.add_unit(unit, exported())
    started = host.run("systemctl", "start", unit, check=False)
    assert started.returncode == 0, journal(host, unit)
    # `start` returns when the daemon has said that its listeners are open.
    state = shown(host, unit)
    assert (state["Type"], state["SubState"]) == ("notify", "running")
    assert state["StatusText"] == "serving http://127.0.0.1:18790/mcp"
    wait_for(
        lambda: set(states(host)) == {"ready"},
        lambda: journal(host, unit),
        seconds=90,
    )
    host.run("systemctl", "reload", unit)

    # Killed: all that ran below it is gone, and it serves again.
    first = state["MainPID"]
    host.run("kill", "-9", first)
    wait_for(lambda: restarted(host, unit, 1), lambda: journal(host, unit), seconds=90)
    assert shown(host, unit)["MainPID"] != first
    wait_for(
        lambda: set(states(host)) == {"ready"},
        lambda: journal(host, unit),
        seconds=90,
    )

    # Hung: it gives no sign of life any more.
    folder = host.root / "etc/systemd/system" / f"{unit}.d"
    folder.mkdir()
    (folder / "quick.conf").write_text("[Service]\nWatchdogSec=8\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", unit)
    assert shown(host, unit)["WatchdogUSec"] == "8s"
    host.run("kill", "-STOP", shown(host, unit)["MainPID"])
    wait_for(lambda: restarted(host, unit, 1), lambda: journal(host, unit), seconds=90)
    assert "Watchdog timeout" in journal(host, unit)
    (folder / "quick.conf").unlink()
    host.run("systemctl", "daemon-reload")

    host.run("systemctl", "stop", unit)
    state = shown(host, unit)
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success"), journal(host, unit)
    assert "hostwright" not in members(host, unit)


def test_the_daemon_serves_closed_off_from_the_machine(host: SystemdHost) -> None:
    unit = "hostwright.service"
    host.add_unit(unit, exported("--strict"))
    started = host.run("systemctl", "start", unit, check=False)
    assert started.returncode == 0, journal(host, unit)
    wait_for(lambda: set(states(host)) == {"ready"}, lambda: journal(host, unit), seconds=90)
    assert shown(host, unit)["ProtectSystem"] == "strict"
    host.run("systemctl", "stop", unit)
    assert shown(host, unit)["Result"] == "success", journal(host, unit)


@pytest.mark.parametrize("options", [(), ("--strict",)])
async def test_a_single_servers_unit_serves_on_its_socket(
    host: SystemdHost, options: tuple[str, ...]
) -> None:
    unit = "hostwright-system.service"
    host.add_unit(unit, exported("system", *options))
    started = host.run("systemctl", "start", unit, check=False)
    assert started.returncode == 0, journal(host, unit)
    path = host.root / "run/hostwright-system/mcp.sock"
    wait_for(
        path.exists,
        lambda: journal(host, unit),
        seconds=90,
    )
    way = StreamableHttpTransport("http://localhost/mcp", httpx_client_factory=over_socket(path))
    async with Client(way) as client:
        health = await client.call_tool("system_health", {})
    assert health.structured_content
    assert health.structured_content["uptime_seconds"] > 0
    if options:
        # Really closed off, and working all the same.
        assert shown(host, unit)["ProtectSystem"] == "strict"
        score = host.run("systemd-analyze", "security", "--no-pager", unit).stdout.decode()
        assert "Overall exposure level" in score
    host.run("systemctl", "stop", unit)
    assert shown(host, unit)["Result"] == "success", journal(host, unit)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((), "hostwright.service"),
        (("--strict",), "hostwright.service"),
        (("--user",), "hostwright.service"),
        (("system", "--http", "127.0.0.1:18791"), "hostwright-system.service"),
        (("system", "--user", "--strict"), "hostwright-system.service"),
    ],
)
def test_systemd_finds_nothing_wrong(tmp_path: Path, words: tuple[str, ...], name: str) -> None:
    (tmp_path / name).write_text(exported(*words))
    manager = ["--user"] if "--user" in words else []
    done = subprocess.run(
        ["systemd-analyze", *manager, "verify", str(tmp_path / name)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
