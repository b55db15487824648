"""Listing and status, against a real systemd."""

from __future__ import annotations

import pytest

from hostwright_kit.errors import HostError
from hostwright_system.services import (
    Journal,
    Scope,
    list_units,
    service_control,
    service_status,
    systemd_status,
)

from .systemd_host import SystemdHost, systemd_host

__all__ = ["systemd_host"]
pytestmark = pytest.mark.systemd

SLEEP = "[Service]\nExecStart=/bin/sleep 1000\n"


@pytest.fixture
def journal(systemd_host: SystemdHost) -> Journal:
    return Journal(
        redact=lambda text: text.replace("hunter2", "[redacted]"),
        directory=systemd_host.journal_directory,
    )


async def test_the_status_of_systemd_itself(systemd_host: SystemdHost) -> None:
    status = await systemd_status(bus_address=systemd_host.bus_address)
    assert status.available
    assert status.reason is None
    assert status.version is not None and int(status.version.split()[0].split(".")[0]) > 240
    assert status.state in ("running", "degraded")
    assert status.units_count is not None and status.units_count > 50
    assert status.virtualization


async def test_the_environment_names_the_bus(
    systemd_host: SystemdHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", systemd_host.bus_address)
    assert (await systemd_status()).available


async def test_a_degraded_system_names_what_failed(systemd_host: SystemdHost) -> None:
    systemd_host.add_unit("broken.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    systemd_host.run("systemctl", "start", "broken", check=False)
    status = await systemd_status(bus_address=systemd_host.bus_address)
    assert status.state == "degraded"
    assert status.units_failed == ("broken.service",)
    systemd_host.run("systemctl", "reset-failed")
    assert (await systemd_status(bus_address=systemd_host.bus_address)).state == "running"


async def test_a_list_is_filtered_and_paged_without_loss(systemd_host: SystemdHost) -> None:
    for number in range(7):
        systemd_host.add_unit(f"page{number}.service", SLEEP, reload=False)
    systemd_host.run("systemctl", "daemon-reload")
    systemd_host.run("systemctl", "start", "page3", "page5")
    bus = systemd_host.bus_address
    everything = await list_units("page*", bus_address=bus)
    names = [f"page{number}.service" for number in range(7)]
    assert [unit.name for unit in everything.units] == names
    assert everything.total == 7
    assert not everything.truncated
    by_name = {unit.name: unit for unit in everything.units}
    assert by_name["page0.service"].load_state == "not-loaded"
    assert by_name["page0.service"].enabled_state == "static"
    assert by_name["page3.service"].sub_state == "running"

    running = await list_units("page*", state="running", bus_address=bus)
    assert [unit.name for unit in running.units] == ["page3.service", "page5.service"]

    seen: list[str] = []
    cursor = None
    while True:
        page = await list_units("page*", limit=3, cursor=cursor, bus_address=bus)
        assert page.total == 7
        seen += [unit.name for unit in page.units]
        cursor = page.next_cursor
        assert page.truncated == (cursor is not None)
        if cursor is None:
            break
    assert seen == names


async def test_other_types_and_one_exact_name(systemd_host: SystemdHost) -> None:
    bus = systemd_host.bus_address
    sockets = await list_units(unit_type="socket", bus_address=bus)
    assert "dbus.socket" in {unit.name for unit in sockets.units}
    assert [u.name for u in (await list_units("dbus.socket", bus_address=bus)).units] == [
        "dbus.socket"
    ]
    assert [u.name for u in (await list_units("dbus", bus_address=bus)).units] == ["dbus.service"]
    all_types = await list_units("dbus.*", unit_type=None, bus_address=bus)
    assert {unit.name for unit in all_types.units} >= {"dbus.service", "dbus.socket"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"limit": 0}, "bad_limit"),
        ({"limit": 1001}, "bad_limit"),
        ({"unit_type": "daemon"}, "bad_unit_type"),
        ({"state": "runing"}, "bad_state"),
        ({"cursor": "%%%"}, "bad_cursor"),
        ({"pattern": "a b*"}, "bad_unit_name"),
    ],
)
async def test_bad_list_arguments_are_refused(
    systemd_host: SystemdHost, arguments: dict[str, object], code: str
) -> None:
    with pytest.raises(HostError) as caught:
        await list_units(**arguments, bus_address=systemd_host.bus_address)  # pyright: ignore[reportArgumentType] (wrong on purpose)
    assert caught.value.code == code
    assert caught.value.fix


async def test_the_status_of_a_running_service(systemd_host: SystemdHost, journal: Journal) -> None:
    path = systemd_host.add_unit(
        "hello.service",
        "[Unit]\nDescription=Says hello\n[Service]\nType=notify\nNotifyAccess=all\n"
        "MemoryAccounting=yes\nTasksAccounting=yes\nCPUAccounting=yes\n"
        "ExecStart=/bin/sh -c 'echo password hunter2; "
        'systemd-notify --ready --status="token hunter2"; exec sleep 1000\'\n'
        "[Install]\nWantedBy=multi-user.target\n",
    )
    systemd_host.run("systemctl", "start", "hello")
    systemd_host.sync_journal()
    status = await service_status(
        "hello", journal_lines=20, bus_address=systemd_host.bus_address, journal=journal
    )
    assert status.name == "hello.service"
    assert status.description == "Says hello"
    assert (status.load_state, status.active_state, status.sub_state) == (
        "loaded",
        "active",
        "running",
    )
    assert status.result == "success"
    assert status.service_type == "notify"
    assert status.enabled_state == "disabled"
    shown = systemd_host.run("systemctl", "show", "-P", "MainPID", "hello").stdout
    assert status.main_pid == int(shown)
    assert status.active_since is not None and status.active_since.endswith("Z")
    assert status.restarts_count == 0
    # Containers without the memory controller have no figure; then there must be none of ours.
    for name, ours in (
        ("MemoryCurrent", status.memory_used_bytes),
        ("TasksCurrent", status.tasks_count),
        ("CPUUsageNSec", status.cpu_time_seconds),
    ):
        shown = systemd_host.run("systemctl", "show", "-P", name, "hello").stdout.strip()
        assert (ours is None) == (shown == b"[not set]")
        assert ours is None or ours > 0
    assert status.fragment_path == f"/etc/systemd/system/{path.name}"
    assert status.status_text == "token [redacted]"
    messages = [entry.message for entry in status.journal]
    assert "password [redacted]" in messages
    assert messages[-1] == "Started hello.service - Says hello."
    assert "hunter2" not in status.model_dump_json()


async def test_a_failed_service_tells_how_it_ended(
    systemd_host: SystemdHost, journal: Journal
) -> None:
    systemd_host.add_unit(
        "prefail.service",
        "[Service]\nExecStartPre=/bin/sh -c 'exit 7'\nExecStart=/bin/sleep 1\n",
    )
    systemd_host.add_unit("noexec.service", "[Service]\nExecStart=/usr/bin/no-such-program\n")
    systemd_host.add_unit("crash.service", "[Service]\nExecStart=/bin/sh -c 'kill -SEGV $$$$'\n")
    for name in ("prefail", "noexec", "crash"):
        systemd_host.run("systemctl", "start", name, check=False)
    bus = systemd_host.bus_address

    prefail = await service_status("prefail", bus_address=bus, journal=journal)
    assert (prefail.active_state, prefail.result) == ("failed", "exit-code")
    assert prefail.last_exit is not None
    assert (prefail.last_exit.phase, prefail.last_exit.exit_status) == ("ExecStartPre", 7)

    noexec = await service_status("noexec", bus_address=bus, journal=journal)
    assert noexec.last_exit is not None
    assert noexec.last_exit.exit_status == 203
    assert noexec.last_exit.meaning is not None
    assert "could not be executed" in noexec.last_exit.meaning

    crash = await service_status("crash", bus_address=bus, journal=journal)
    assert crash.last_exit is not None
    assert crash.last_exit.signal == 11
    assert crash.last_exit.exit_status is None


async def test_what_triggers_a_unit(systemd_host: SystemdHost, journal: Journal) -> None:
    systemd_host.add_unit("job.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n")
    systemd_host.add_unit("job.timer", "[Timer]\nOnCalendar=*-*-* 04:00:00\n")
    systemd_host.add_unit("job.socket", "[Socket]\nListenStream=/run/job.sock\n")
    systemd_host.run("systemctl", "start", "job.timer", "job.socket")
    status = await service_status("job", bus_address=systemd_host.bus_address, journal=journal)
    socket, timer = status.triggered_by
    assert (socket.name, socket.active_state) == ("job.socket", "active")
    assert socket.listens_on == ("Stream /run/job.sock",)
    assert timer.name == "job.timer"
    assert timer.next_at is not None and timer.next_at.endswith(":00:00.000000Z")
    of_timer = await service_status(
        "job.timer", bus_address=systemd_host.bus_address, journal=journal
    )
    assert of_timer.unit_type == "timer"
    assert of_timer.service_type is None
    assert of_timer.sub_state == "waiting"


async def test_a_name_that_does_not_exist_gets_suggestions(
    systemd_host: SystemdHost, journal: Journal
) -> None:
    systemd_host.add_unit("telemetry-export.service", SLEEP)
    for wrong in ("telemetry-exprot", "telemetry"):
        with pytest.raises(HostError) as caught:
            await service_status(wrong, bus_address=systemd_host.bus_address, journal=journal)
        assert caught.value.code == "not_found"
        assert "telemetry-export.service" in caught.value.fix


async def test_a_template_has_no_state_but_its_instances_have(
    systemd_host: SystemdHost, journal: Journal
) -> None:
    systemd_host.add_unit("worker@.service", "[Service]\nExecStart=/bin/sleep 10%i\n")
    systemd_host.run("systemctl", "start", "worker@5")
    bus = systemd_host.bus_address
    with pytest.raises(HostError) as caught:
        await service_status("worker@", bus_address=bus, journal=journal)
    assert caught.value.code == "template"
    assert "worker@5.service" in caught.value.fix
    status = await service_status("worker@5", bus_address=bus, journal=journal)
    assert status.active_state == "active"
    assert status.fragment_path is not None and status.fragment_path.endswith("worker@.service")


async def test_a_unit_file_that_systemd_cannot_load(
    systemd_host: SystemdHost, journal: Journal
) -> None:
    systemd_host.add_unit("bad.service", "[Service]\nType=simple\n")
    status = await service_status("bad", bus_address=systemd_host.bus_address, journal=journal)
    assert status.load_state == "bad-setting"
    assert status.load_error


async def test_an_unreadable_journal_does_not_hide_the_state(systemd_host: SystemdHost) -> None:
    elsewhere = Journal(redact=str, directory=systemd_host.folder)
    status = await service_status(
        "dbus", journal_lines=5, bus_address=systemd_host.bus_address, journal=elsewhere
    )
    assert status.active_state == "active"
    assert status.journal == ()
    assert "journal could not be read" in status.notes[0]


async def test_the_users_own_manager(systemd_host: SystemdHost, journal: Journal) -> None:
    address = systemd_host.user_bus_address()
    scope: Scope = "user"
    units = systemd_host.root / "root/.config/systemd/user"
    units.mkdir(parents=True)
    (units / "mine.service").write_text("[Service]\nExecStart=/bin/sh -c 'echo mine; sleep 99'\n")
    systemd_host.run("busctl", "--address=unix:path=/run/user/0/bus", "call",
                     "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                     "org.freedesktop.systemd1.Manager", "Reload")  # fmt: skip
    assert (await systemd_status(scope=scope, bus_address=address)).available
    done = await service_control("mine", "start", scope=scope, bus_address=address, journal=journal)
    assert done.after.active_state == "active"
    systemd_host.sync_journal()
    status = await service_status(
        "mine", journal_lines=10, scope=scope, bus_address=address, journal=journal
    )
    assert (status.fragment_path or "").endswith("/.config/systemd/user/mine.service")
    assert "mine" in [entry.message for entry in status.journal]
    assert {entry.unit for entry in status.journal} == {"mine.service"}
    with pytest.raises(HostError) as caught:
        await service_status("mine", bus_address=systemd_host.bus_address, journal=journal)
    assert caught.value.code == "not_found"
