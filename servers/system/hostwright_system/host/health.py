"""The state of the machine in one answer: load, memory, pressure, disks, what it is.

CPU shares are measured between two readings of the kernel's counters, never since boot: against a
reading that is kept from an earlier call when one is recent enough, otherwise over a wait of
0.1 s. The window is part of the answer. Pressure is PSI (Linux: Documentation/accounting/psi.rst).

`system_health` blocks (up to 0.1 s for a first reading, up to 1 s for mounts that do not answer);
`system_health_async` runs it in a thread. `HealthMonitor.keep_fresh` spares the wait for good.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import psutil
from pydantic import BaseModel, Field

from hostwright_system.host.clock import iso_utc
from hostwright_system.host.disks import DiskRow, disk_rows
from hostwright_system.host.environment import (
    CgroupLimits,
    OperatingSystem,
    Virtualization,
    cgroup_limits,
    operating_system,
    virtualization,
)
from hostwright_system.host.procfs import read_file, text
from hostwright_system.host.sampling import MAX_WINDOW_SECONDS, MIN_WINDOW_SECONDS, SampleRing

MAX_DISKS = 64
MAX_TEMPERATURES = 64


class Cpu(BaseModel, frozen=True):
    """Shares of the time within the window."""

    window_seconds: float = Field(description="Over how long the shares were measured.")
    used_percent: float = Field(description="Of all cores together, 0 to 100.")
    per_core_percent: tuple[float, ...]
    waiting_for_io_percent: float | None = Field(description="Idle with I/O outstanding.")
    stolen_percent: float | None = Field(description="Taken by the hypervisor for others.")
    logical_cores: int
    load_average_1m: float
    load_average_5m: float
    load_average_15m: float


class Memory(BaseModel, frozen=True):
    total_bytes: int
    available_bytes: int = Field(description="Can be had without swapping.")
    used_bytes: int = Field(description="total - available.")
    used_percent: float
    swap_total_bytes: int
    swap_used_bytes: int
    swap_used_percent: float | None = Field(description="Null without swap.")


class PressureAverages(BaseModel, frozen=True):
    """Share of time in which tasks waited for the resource."""

    avg_10s_percent: float
    avg_60s_percent: float
    avg_300s_percent: float
    total_microseconds: int


class PressureOf(BaseModel, frozen=True):
    some: PressureAverages = Field(description="At least one task waited.")
    full: PressureAverages | None = Field(description="All tasks waited at once.")


class Pressure(BaseModel, frozen=True):
    cpu: PressureOf | None
    memory: PressureOf | None
    io: PressureOf | None
    unavailable_reason: str | None = Field(description="Why one of them is null.")


class Temperature(BaseModel, frozen=True):
    sensor: str
    label: str
    celsius: float
    high_celsius: float | None
    critical_celsius: float | None


class SystemHealth(BaseModel, frozen=True):
    """The state of the machine at `measured_at`."""

    measured_at: str = Field(description="ISO 8601, UTC.")
    uptime_seconds: float
    booted_at: str = Field(description="ISO 8601, UTC.")
    operating_system: OperatingSystem
    virtualization: Virtualization
    cgroup_limits: CgroupLimits | None
    cpu: Cpu
    memory: Memory
    pressure: Pressure
    disks: tuple[DiskRow, ...] = Field(description="Without memory file systems; at most 64.")
    disks_truncated: bool
    temperatures: tuple[Temperature, ...] = Field(description="Empty where there is no sensor.")


_CoreTimes = tuple[tuple[float, float, float, float], ...]  # total, idle, iowait, steal


class HealthMonitor:
    """Keeps earlier CPU readings. One per process is enough; construct it at the start."""

    def __init__(self) -> None:
        self._samples: SampleRing[_CoreTimes] = SampleRing()
        self._samples.add(_core_times())

    def read(self) -> SystemHealth:
        """A snapshot. Blocking, see the module."""
        cpu = self._cpu()
        disks, _ = disk_rows(with_memory=False)
        booted = psutil.boot_time()
        return SystemHealth(
            measured_at=iso_utc(time.time()),
            uptime_seconds=round(_uptime(booted), 2),
            booted_at=iso_utc(booted),
            operating_system=operating_system(),
            virtualization=virtualization(),
            cgroup_limits=cgroup_limits(),
            cpu=cpu,
            memory=_memory(),
            pressure=read_pressure(),
            disks=tuple(disks[:MAX_DISKS]),
            disks_truncated=len(disks) > MAX_DISKS,
            temperatures=_temperatures(),
        )

    async def keep_fresh(self) -> None:
        """Keeps a reading recent for as long as it runs (30 µs of work every few seconds), so that
        no call has to wait for one. Runs until cancelled."""
        while True:
            self._samples.add(_core_times())
            await asyncio.sleep(MAX_WINDOW_SECONDS / 3)

    def _cpu(self) -> Cpu:
        now, times = time.monotonic(), _core_times()
        base = self._samples.base(now)
        self._samples.add(times, now)
        if base is None or len(base[1]) != len(times):  # none yet, or a core came or went
            before, start = times, now
            time.sleep(MIN_WINDOW_SECONDS)
            times = _core_times()
            base = (time.monotonic() - start, before[: len(times)])
        return _cpu_shares(base[1], times, base[0])


_default: list[HealthMonitor] = []


def system_health(monitor: HealthMonitor | None = None) -> SystemHealth:
    """The state of the machine now. Blocking; see `system_health_async`."""
    if monitor is None:
        if not _default:
            _default.append(HealthMonitor())
        monitor = _default[0]
    return monitor.read()


async def system_health_async(monitor: HealthMonitor | None = None) -> SystemHealth:
    """The same, in a thread: the event loop goes on."""
    return await asyncio.to_thread(system_health, monitor)


def _core_times() -> _CoreTimes:
    cores: list[tuple[float, float, float, float]] = []
    for core in psutil.cpu_times(percpu=True):
        # Guest time is contained in user time already.
        total = sum(core) - getattr(core, "guest", 0.0) - getattr(core, "guest_nice", 0.0)
        cores.append((total, core.idle, getattr(core, "iowait", 0.0), getattr(core, "steal", 0.0)))
    return tuple(cores)


def _cpu_shares(before: _CoreTimes, after: _CoreTimes, window: float) -> Cpu:
    # The kernel's idle and iowait counters may step back by a tick; a share is never negative.
    deltas = [
        tuple(max(0.0, new - old) for new, old in zip(now, then, strict=True))
        for now, then in zip(after, before, strict=False)
    ]
    sums = [sum(column) for column in zip(*deltas, strict=True)] or [0.0] * 4
    linux = hasattr(psutil.cpu_times(), "iowait")
    one, five, fifteen = os.getloadavg()
    return Cpu(
        window_seconds=round(window, 3),
        used_percent=_busy(sums),
        per_core_percent=tuple(_busy(core) for core in deltas),
        waiting_for_io_percent=_share(sums[2], sums[0]) if linux else None,
        stolen_percent=_share(sums[3], sums[0]) if linux else None,
        logical_cores=len(after),
        load_average_1m=round(one, 2),
        load_average_5m=round(five, 2),
        load_average_15m=round(fifteen, 2),
    )


def _busy(times: Sequence[float]) -> float:
    total, idle, waiting, _ = times
    return _share(max(0.0, total - idle - waiting), total)


def _share(part: float, whole: float) -> float:
    return round(min(100.0, part / whole * 100), 1) if whole > 0 else 0.0


def _memory() -> Memory:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    used = memory.total - memory.available
    return Memory(
        total_bytes=memory.total,
        available_bytes=memory.available,
        used_bytes=used,
        used_percent=_share(used, memory.total),
        swap_total_bytes=swap.total,
        swap_used_bytes=swap.used,
        swap_used_percent=_share(swap.used, swap.total) if swap.total else None,
    )


def _uptime(booted: float) -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # counts suspended time too; Linux
    return time.time() - booted if clock is None else time.clock_gettime(clock)


def read_pressure(folder: str = "/proc/pressure") -> Pressure:
    """PSI of the whole machine; what is missing is null, with the reason."""
    found: dict[str, PressureOf | None] = {}
    reason: str | None = None
    for name in ("cpu", "memory", "io"):
        try:
            found[name] = parse_pressure(text(read_file(f"{folder}/{name}")))
        except FileNotFoundError:
            reason = "This kernel has no /proc/pressure (PSI is not built in)."
        except OSError as error:  # EOPNOTSUPP when PSI is disabled at boot
            reason = f"PSI cannot be read ({error.strerror}); boot with psi=1."
        except ValueError as error:
            reason = f"PSI was not understood: {error}."
    return Pressure(
        cpu=found.get("cpu"),
        memory=found.get("memory"),
        io=found.get("io"),
        unavailable_reason=reason,
    )


def parse_pressure(content: str) -> PressureOf:
    """`some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`."""
    lines: dict[str, PressureAverages] = {}
    for line in content.splitlines():
        kind, _, rest = line.partition(" ")
        values = dict(part.split("=", 1) for part in rest.split())
        try:
            lines[kind] = PressureAverages(
                avg_10s_percent=float(values["avg10"]),
                avg_60s_percent=float(values["avg60"]),
                avg_300s_percent=float(values["avg300"]),
                total_microseconds=int(values["total"]),
            )
        except KeyError as error:
            raise ValueError(f"no {error} in a line of it") from error
    if "some" not in lines:
        raise ValueError("no line `some`")
    return PressureOf(some=lines["some"], full=lines.get("full"))


def _temperatures() -> tuple[Temperature, ...]:
    read = getattr(psutil, "sensors_temperatures", None)  # absent on macOS
    sensors = read() if read is not None else {}
    found = [
        Temperature(
            sensor=sensor,
            label=entry.label,
            celsius=entry.current,
            high_celsius=entry.high,
            critical_celsius=entry.critical,
        )
        for sensor, entries in sorted(sensors.items())
        for entry in entries
    ]
    return tuple(found[:MAX_TEMPERATURES])
