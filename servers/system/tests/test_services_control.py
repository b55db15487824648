"""Actions on units against a real systemd: the true result, and nothing claimed that is not so."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from hostwright_kit.errors import HostError
from hostwright_system.services import (
    Action,
    ActionFailedError,
    ControlResult,
    Journal,
    service_control,
    service_status,
)
from hostwright_system.services.control import own_units, units_in

from .systemd_host import SystemdHost, systemd_host

__all__ = ["systemd_host"]
pytestmark = pytest.mark.systemd

SLEEP = "[Service]\nExecStart=/bin/sleep 1000\n"
numbers = itertools.count()


class Hands:
    """`service_control` on the booted host, with its journal."""

    def __init__(self, host: SystemdHost) -> None:
        self.host = host
        self.journal = Journal(
            redact=lambda text: text.replace("hunter2", "[redacted]"),
            directory=host.journal_directory,
        )

    async def do(
        self,
        unit: str,
        action: Action,
        *,
        wait_seconds: float = 20,
        allow_protected: bool = False,
    ) -> ControlResult:
        return await service_control(
            unit,
            action,
            wait_seconds=wait_seconds,
            allow_protected=allow_protected,
            bus_address=self.host.bus_address,
            journal=self.journal,
        )

    def unit(self, text: str, suffix: str = "service") -> str:
        name = f"unit{next(numbers)}.{suffix}"
        self.host.add_unit(name, text)
        return name

    def show(self, unit: str, name: str) -> str:
        return self.host.run("systemctl", "show", "-P", name, unit).stdout.decode().strip()

    async def until(self, unit: str, state: str) -> None:
        async with asyncio.timeout(20):
            while self.show(unit, "ActiveState") != state:  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.02)


@pytest.fixture
def hands(systemd_host: SystemdHost) -> Hands:
    return Hands(systemd_host)


async def test_start_and_stop(hands: Hands) -> None:
    unit = hands.unit(SLEEP)
    started = await hands.do(unit.removesuffix(".service"), "start")
    assert started.unit == unit
    assert started.finished
    assert started.job_result == "done"
    assert started.job_path is not None
    assert started.before.active_state == "inactive"
    assert (started.after.active_state, started.after.sub_state) == ("active", "running")
    assert started.after.main_pid == int(hands.show(unit, "MainPID"))
    again = await hands.do(unit, "start")
    assert again.job_result == "done"
    assert again.after.main_pid == started.after.main_pid
    stopped = await hands.do(unit, "stop")
    assert stopped.job_result == "done"
    assert (stopped.after.active_state, stopped.after.main_pid) == ("inactive", None)
    assert hands.show(unit, "ActiveState") == "inactive"
    assert stopped.notes == ()


async def test_restart_gives_a_new_process(hands: Hands) -> None:
    unit = hands.unit(SLEEP)
    first = await hands.do(unit, "restart")
    second = await hands.do(unit, "restart")
    assert second.before.main_pid == first.after.main_pid
    assert second.after.main_pid is not None
    assert second.after.main_pid != first.after.main_pid


async def test_reload_reaches_the_process(hands: Hands) -> None:
    unit = hands.unit(
        "[Service]\nType=notify\nNotifyAccess=all\n"
        'ExecStart=/bin/sh -c \'trap "echo reloaded > /run/reloaded" HUP;'
        " systemd-notify --ready; while :; do sleep 0.05; done'\n"
        "ExecReload=/bin/sh -c 'kill -HUP $MAINPID; "
        "while ! [ -e /run/reloaded ]; do sleep 0.05; done'\n"
    )
    with pytest.raises(HostError) as caught:
        await hands.do(unit, "reload")
    assert caught.value.code == "not_active"
    await hands.do(unit, "start")
    reloaded = await hands.do(unit, "reload")
    assert reloaded.job_result == "done"
    assert reloaded.after.main_pid == reloaded.before.main_pid
    assert (hands.host.root / "run/reloaded").read_text() == "reloaded\n"


async def test_reload_without_a_way_to_reload(hands: Hands) -> None:
    unit = hands.unit(SLEEP)
    await hands.do(unit, "start")
    with pytest.raises(HostError) as caught:
        await hands.do(unit, "reload")
    assert caught.value.code == "unsupported"
    assert "ExecReload" in caught.value.message


async def test_a_failing_reload_is_a_failure(hands: Hands) -> None:
    unit = hands.unit(SLEEP + "ExecReload=/bin/sh -c 'exit 9'\n")
    await hands.do(unit, "start")
    with pytest.raises(ActionFailedError) as caught:
        await hands.do(unit, "reload")
    assert caught.value.code == "reload_failed"
    assert caught.value.job_result == "failed"
    assert "exit status 9" in caught.value.message


async def test_a_failing_start_reports_status_and_log(hands: Hands) -> None:
    unit = hands.unit(
        "[Service]\nType=oneshot\n"
        "ExecStart=/bin/sh -c 'echo cannot open config, password hunter2; exit 3'\n"
    )
    with pytest.raises(ActionFailedError) as caught:
        await hands.do(unit, "start")
    error = caught.value
    assert error.code == "start_failed"
    assert error.job_result == "failed"
    assert (error.state.active_state, error.state.result) == ("failed", "exit-code")
    assert error.last_exit is not None
    assert (error.last_exit.phase, error.last_exit.exit_status) == ("ExecStart", 3)
    assert "exit status 3" in error.message
    assert "cannot open config, password [redacted]" in error.message
    assert "hunter2" not in str(error)
    assert error.fix
    assert any("Failed with result" in entry.message for entry in error.journal)


async def test_the_log_of_a_failure_holds_no_older_lines(hands: Hands) -> None:
    unit = hands.unit(
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo try $(date +%%s%%N); exit 1'\n"
    )
    messages: list[list[str]] = []
    for _ in range(2):
        with pytest.raises(ActionFailedError) as caught:
            await hands.do(unit, "start")
        messages.append([e.message for e in caught.value.journal if e.message.startswith("try")])
    assert [len(found) for found in messages] == [1, 1]
    assert messages[0] != messages[1]


async def test_a_simple_service_that_dies_at_once_is_not_called_started(hands: Hands) -> None:
    unit = hands.unit("[Service]\nExecStart=/bin/sh -c 'echo giving up; exit 4'\n")
    with pytest.raises(ActionFailedError) as caught:
        await hands.do(unit, "start")
    assert caught.value.job_result == "done"  # systemd's own word, and not the truth
    assert "exit status 4" in caught.value.message
    assert "giving up" in caught.value.message


async def test_a_service_that_is_restarted_over_and_over_is_not_called_started(
    hands: Hands,
) -> None:
    unit = hands.unit("[Service]\nExecStart=/bin/sh -c 'exit 5'\nRestart=always\nRestartSec=0.05\n")
    with pytest.raises(ActionFailedError) as caught:
        await hands.do(unit, "restart")
    assert caught.value.code == "restart_failed"


async def test_a_program_that_does_not_exist(hands: Hands) -> None:
    unit = hands.unit("[Service]\nType=exec\nExecStart=/usr/bin/no-such-program\n")
    with pytest.raises(ActionFailedError) as caught:
        await hands.do(unit, "start")
    assert "exit status 203" in caught.value.message
    assert "could not be executed" in caught.value.message


async def test_a_start_that_times_out(hands: Hands) -> None:
    unit = hands.unit("[Service]\nType=notify\nExecStart=/bin/sleep 1000\nTimeoutStartSec=0.5\n")
    with pytest.raises(ActionFailedError) as caught:
        await hands.do(unit, "start")
    assert caught.value.state.result == "timeout"
    assert "result timeout" in caught.value.message


async def test_a_job_that_times_out(hands: Hands) -> None:
    unit = hands.unit(
        "[Unit]\nJobTimeoutSec=0.5\n[Service]\nType=notify\nExecStart=/bin/sleep 1000\n"
    )
    with pytest.raises(ActionFailedError) as caught:
        await hands.do(unit, "start")
    assert caught.value.job_result == "timeout"
    hands.host.run("systemctl", "kill", "-s", "KILL", unit, check=False)


async def test_a_dependency_that_fails(hands: Hands) -> None:
    broken = hands.unit("[Service]\nType=oneshot\nExecStart=/bin/false\n")
    unit = hands.unit(f"[Unit]\nRequires={broken}\nAfter={broken}\n{SLEEP}")
    with pytest.raises(ActionFailedError) as caught:
        await hands.do(unit, "start")
    assert caught.value.job_result == "dependency"
    assert "Requires" in caught.value.fix


async def test_a_job_that_is_canceled(hands: Hands) -> None:
    unit = hands.unit("[Service]\nType=notify\nExecStart=/bin/sleep 1000\nTimeoutStopSec=1\n")
    starting = asyncio.create_task(hands.do(unit, "start"))
    await hands.until(unit, "activating")
    await hands.do(unit, "stop")
    with pytest.raises(ActionFailedError) as caught:
        await starting
    assert caught.value.job_result == "canceled"


async def test_a_long_job_is_said_to_be_at_work(hands: Hands) -> None:
    unit = hands.unit("[Service]\nType=oneshot\nExecStart=/bin/sleep 5\nRemainAfterExit=yes\n")
    answer = await hands.do(unit, "start", wait_seconds=0.3)
    assert not answer.finished
    assert answer.job_result is None
    assert answer.job_path is not None
    assert answer.after.active_state == "activating"
    assert "still at work" in answer.notes[0]
    status = await service_status(unit, bus_address=hands.host.bus_address, journal=hands.journal)
    assert status.job == answer.job_path
    await hands.until(unit, "active")


async def test_a_condition_that_is_not_met_is_said(hands: Hands) -> None:
    unit = hands.unit("[Unit]\nConditionPathExists=/no/such/file\n" + SLEEP)
    answer = await hands.do(unit, "start")
    assert answer.after.active_state == "inactive"
    assert "ConditionPathExists=/no/such/file" in answer.notes[0]


async def test_a_stop_that_needed_force_and_a_socket_that_starts_it_again(hands: Hands) -> None:
    unit = hands.unit(
        "[Service]\nType=notify\nNotifyAccess=all\nTimeoutStopSec=0.3\n"
        'ExecStart=/bin/sh -c \'trap "" TERM; systemd-notify --ready; '
        "while :; do sleep 0.1; done'\n"
    )
    socket = unit.replace(".service", ".socket")
    hands.host.add_unit(socket, f"[Socket]\nListenStream=/run/{socket}\n")
    hands.host.run("systemctl", "start", socket)
    await hands.do(unit, "start")
    stopped = await hands.do(unit, "stop")
    assert stopped.after.active_state == "failed"
    assert any("result timeout" in note for note in stopped.notes)
    assert any(f"{socket} is still active" in note for note in stopped.notes)


async def test_instances_of_a_template(hands: Hands) -> None:
    name = hands.unit("[Service]\nExecStart=/bin/sleep %i\n").replace(".service", "@.service")
    hands.host.add_unit(name, "[Service]\nExecStart=/bin/sleep %i\n")
    instance = name.replace("@.", "@1234.")
    started = await hands.do(instance, "start")
    assert started.after.active_state == "active"
    with pytest.raises(HostError) as caught:
        await hands.do(name, "start")
    assert caught.value.code == "template"
    assert instance in caught.value.fix
    await hands.do(instance, "stop")


async def test_enable_and_disable_report_what_changed(hands: Hands) -> None:
    unit = hands.unit(SLEEP + "[Install]\nWantedBy=multi-user.target\n")
    link = f"/etc/systemd/system/multi-user.target.wants/{unit}"
    enabled = await hands.do(unit, "enable")
    assert enabled.finished
    assert enabled.job_result is None
    assert enabled.before.enabled_state == "disabled"
    assert enabled.after.enabled_state == "enabled"
    assert [(change.change, change.path) for change in enabled.changes] == [("symlink", link)]
    assert enabled.daemon_reloaded
    assert "not started now" in enabled.notes[0]
    assert unit in hands.show("multi-user.target", "Wants")  # the reload took place
    again = await hands.do(unit, "enable")
    assert again.changes == ()
    assert "Nothing changed" in again.notes[0]
    disabled = await hands.do(unit, "disable")
    assert [(change.change, change.path) for change in disabled.changes] == [("unlink", link)]
    assert disabled.after.enabled_state == "disabled"
    assert unit not in hands.show("multi-user.target", "Wants")


async def test_enable_an_instance_and_a_unit_that_cannot_be(hands: Hands) -> None:
    hands.host.add_unit("inst@.service", SLEEP + "[Install]\nWantedBy=multi-user.target\n")
    enabled = await hands.do("inst@one", "enable")
    assert enabled.after.enabled_state == "enabled"
    assert enabled.changes[0].path.endswith("/inst@one.service")
    with pytest.raises(HostError) as caught:
        await hands.do(hands.unit(SLEEP), "enable")
    assert caught.value.code == "not_installable"


@pytest.mark.parametrize("action", ["start", "stop", "restart", "reload", "enable", "disable"])
async def test_a_unit_that_does_not_exist_gets_suggestions(hands: Hands, action: Action) -> None:
    hands.host.add_unit("invoice-mailer.service", SLEEP)
    with pytest.raises(HostError) as caught:
        await hands.do("invoice-mialer", action)
    assert caught.value.code == "not_found"
    assert "invoice-mailer.service" in caught.value.fix


async def test_masked_and_broken_units(hands: Hands) -> None:
    masked = hands.unit(SLEEP)
    (hands.host.root / "etc/systemd/system" / masked).unlink()
    hands.host.run("systemctl", "mask", masked)
    with pytest.raises(HostError) as caught:
        await hands.do(masked, "start")
    assert caught.value.code == "masked"
    with pytest.raises(HostError) as caught:
        await hands.do(hands.unit("[Service]\nType=simple\n"), "start")
    assert caught.value.code == "bad_unit_file"
    with pytest.raises(HostError) as caught:
        await hands.do(hands.unit("[Unit]\nRefuseManualStart=yes\n" + SLEEP), "start")
    assert "may be requested by dependency only" in caught.value.message


async def test_protected_units_need_to_be_meant(hands: Hands) -> None:
    for unit, action in (("dbus", "restart"), ("systemd-journald", "stop")):
        with pytest.raises(HostError) as caught:
            await hands.do(unit, action)  # pyright: ignore[reportArgumentType] (both are actions)
        assert caught.value.code == "protected_unit"
        assert "allow_protected" in caught.value.fix
    assert hands.show("dbus.service", "ActiveState") == "active"
    hands.host.add_unit("ssh.service", SLEEP + "[Install]\nAlias=sshd.service\n")
    await hands.do("ssh", "start")
    with pytest.raises(HostError):
        await hands.do("ssh", "stop")
    assert (await hands.do("ssh", "restart")).after.active_state == "active"
    stopped = await hands.do("ssh", "stop", allow_protected=True)
    assert stopped.after.active_state == "inactive"


async def test_the_units_around_a_process_are_read_from_its_cgroup(hands: Hands) -> None:
    """Asking systemd instead would end it when the caller is outside of its PID namespace."""
    unit = hands.unit(
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=/bin/sh -c 'cat /proc/self/cgroup > /run/own-cgroup'\n"
    )
    await hands.do(unit, "start")
    assert units_in((hands.host.root / "run/own-cgroup").read_text()) == {unit, "system.slice"}
    assert units_in("0::/user.slice/user-7.slice/user@7.service/app.slice/a.scope\n") == {
        "user.slice",
        "user-7.slice",
        "user@7.service",
        "app.slice",
        "a.scope",
    }
    assert units_in("9:name=systemd:/\n0::/\n") == set()
    assert own_units() == units_in(Path("/proc/self/cgroup").read_text())


async def test_a_bus_that_goes_away_leaves_no_false_answer(tmp_path: Path) -> None:
    with SystemdHost(tmp_path) as host:  # its own, since nothing works on it afterwards
        hands = Hands(host)
        unit = hands.unit("[Service]\nType=oneshot\nExecStart=/bin/sleep 5\n")
        waiting = asyncio.create_task(hands.do(unit, "start"))
        await hands.until(unit, "activating")
        host.run("systemctl", "kill", "-s", "KILL", "dbus.service")
        with pytest.raises(HostError) as caught:
            await waiting
    assert caught.value.code == "bus_lost"
    assert "unknown" in caught.value.message


async def test_bad_arguments_are_refused_before_anything_happens(hands: Hands) -> None:
    unit = hands.unit(SLEEP)
    with pytest.raises(HostError) as caught:
        await hands.do(unit, "destroy")  # pyright: ignore[reportArgumentType] (wrong on purpose)
    assert caught.value.code == "bad_action"
    with pytest.raises(HostError) as caught:
        await hands.do(unit, "start", wait_seconds=46)
    assert caught.value.code == "bad_limit"
    assert hands.show(unit, "ActiveState") == "inactive"
