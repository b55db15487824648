"""Where there is no systemd, every function says so, why, and what to do about it."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostwright_kit.errors import HostError
from hostwright_system.services import (
    Journal,
    journal_logs,
    list_units,
    service_control,
    service_status,
    systemd_status,
)
from hostwright_system.services.bus import booted, bus_address

JOURNAL = Journal(redact=str)


@pytest.fixture
def plain_bus(tmp_path: Path) -> Iterator[str]:
    """A real D-Bus daemon on which no systemd is."""
    address = f"unix:path={tmp_path}/bus"
    config = tmp_path / "bus.conf"
    config.write_text(
        "<busconfig><type>session</type>"
        f"<listen>{address}</listen>"
        '<policy context="default"><allow send_destination="*"/><allow own="*"/>'
        '<allow receive_sender="*"/>'
        "</policy></busconfig>"
    )
    with subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"],
        stdout=subprocess.PIPE,
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline()
        yield address
        daemon.kill()


@pytest.mark.skipif(booted(), reason="this machine is run by systemd")
async def test_this_machine_says_why_it_has_no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DBUS_SYSTEM_BUS_ADDRESS", "DBUS_SESSION_BUS_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    status = await systemd_status()
    assert not status.available
    assert not status.booted
    assert status.reason is not None and "is not run by systemd" in status.reason
    assert status.fix
    calls: list[Callable[[], Awaitable[Any]]] = [
        list_units,
        lambda: service_status("cron", journal=JOURNAL),
        lambda: service_control("cron", "start", journal=JOURNAL),
        lambda: service_control("cron", "enable", scope="user", journal=JOURNAL),
        lambda: journal_logs("cron", journal=JOURNAL),
    ]
    for call in calls:
        with pytest.raises(HostError) as caught:
            await call()
        assert caught.value.code == "no_systemd"
        assert caught.value.message == status.reason


async def test_a_bus_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nothing")
    status = await systemd_status()
    assert not status.available
    assert status.reason is not None and "nothing does not answer" in status.reason
    assert status.fix is not None and "dbus" in status.fix
    with pytest.raises(HostError) as caught:
        await list_units()
    assert caught.value.code == "no_systemd"


async def test_an_address_that_is_none() -> None:
    status = await systemd_status(bus_address="nonsense")
    assert not status.available
    assert status.reason is not None and "nonsense" in status.reason


async def test_a_bus_without_systemd(plain_bus: str) -> None:
    status = await systemd_status(scope="user", bus_address=plain_bus)
    assert not status.available
    assert status.reason is not None and "no systemd on it" in status.reason
    with pytest.raises(HostError) as caught:
        await service_control("x", "start", scope="user", bus_address=plain_bus, journal=JOURNAL)
    assert caught.value.code == "no_systemd"


def test_the_address_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/from/environment")
    assert bus_address("system") == "unix:path=/from/environment"
    assert bus_address("system", "unix:path=/given") == "unix:path=/given"


async def test_a_folder_without_a_journal(tmp_path: Path) -> None:
    for journal in (
        Journal(redact=str, directory=tmp_path),
        Journal(redact=str, directory=tmp_path / "missing"),
    ):
        with pytest.raises(HostError) as caught:
            await journal_logs(journal=journal)
        assert caught.value.code == "no_journal"
        assert "systemd-journald" in caught.value.fix


async def test_no_socket_is_left_open(plain_bus: str) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for address in ("unix:path=/nothing/at/all", plain_bus, "nonsense") * 3:
        await systemd_status(bus_address=address)
    assert open_files() == before
