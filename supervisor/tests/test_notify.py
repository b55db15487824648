"""What systemd is told, received on a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostwright.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(10)
        yield receiver


def told(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_ready_reloading_stopping(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready("serving\nMAINPID=1")
    assert told(manager) == ["READY=1", "STATUS=serving MAINPID=1"]
    notifier.reloading()
    first, second = told(manager)
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    assert int(second.partition("=")[2]) > 0
    notifier.status("two of three ready")
    assert told(manager) == ["STATUS=two of three ready"]
    notifier.stopping()
    assert told(manager) == ["STOPPING=1"]


async def test_signs_of_life_come_from_the_event_loop(manager: socket.socket) -> None:
    notifier = Notifier(
        {
            "NOTIFY_SOCKET": manager.getsockname(),
            "WATCHDOG_USEC": "20000",
            "WATCHDOG_PID": str(os.getpid()),
        }
    )
    assert notifier.watchdog_seconds == 0.02
    living = asyncio.create_task(notifier.keep_alive())
    for _ in range(3):
        assert await asyncio.to_thread(told, manager) == ["WATCHDOG=1"]
    living.cancel()
    await asyncio.wait([living])


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"WATCHDOG_USEC": "1000000"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"},
    ],
)
async def test_nothing_is_due_where_nobody_asked(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    assert notifier.watchdog_seconds is None
    async with asyncio.timeout(10):
        await notifier.keep_alive()


def test_a_manager_that_is_gone_costs_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert "READY=1" in caplog.text


def test_an_abstract_address(caplog: pytest.LogCaptureFixture) -> None:
    name = f"hostwright-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(10)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert told(receiver) == ["STOPPING=1"]
    assert not caplog.records
