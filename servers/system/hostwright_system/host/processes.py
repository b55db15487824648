"""Processes: one row each, cheap for all, complete for those that are shown.

One read of `/proc/PID/stat` per process gives what a listing is sorted by. What costs more files
per process (user, command line, program, unit) is read for the rows of the page alone, or for all
when a filter or the sort asks for it. Elsewhere than on Linux psutil fills the same rows, without
units and containers. Blocking; at most about 0.1 s longer when CPU % is asked for and no earlier
sample is kept.
"""

from __future__ import annotations

import pwd
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

import psutil
from pydantic import BaseModel, Field

from hostwright_system.host import table
from hostwright_system.host.clock import iso_utc
from hostwright_system.host.commandline import shown_command
from hostwright_system.host.procfs import CLOCK_TICKS, PAGE_BYTES, Proc, Stat, epoch_of_start
from hostwright_system.host.sampling import MIN_WINDOW_SECONDS, SampleRing

STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "disk_sleep",
    "T": "stopped",
    "t": "tracing_stop",
    "Z": "zombie",
    "X": "dead",
    "I": "idle",
    "P": "parked",
}


class ProcessRow(BaseModel, frozen=True, extra="forbid"):
    """One process. Null means: not known, mostly for lack of permission."""

    pid: int
    parent_pid: int
    name: str = Field(description="The kernel's short name; a process may change its own.")
    state: str = Field(description="running, sleeping, disk_sleep, stopped, zombie, idle, …")
    user: str | None
    uid: int | None = Field(description="Effective user id.")
    cpu_percent: float | None = Field(
        description="Of one core, over the window in the page's notes; null without a sample."
    )
    cpu_seconds: float = Field(description="User and system time since the process began.")
    memory_rss_bytes: int
    memory_percent: float = Field(description="Resident memory as a share of all memory.")
    threads: int
    started_at: str = Field(description="ISO 8601, UTC.")
    start_time_ticks: int = Field(
        description="With the pid, the identity of the process: clock ticks from boot to its start "
        "(where there is no /proc: microseconds since 1970)."
    )
    executable: str | None
    command: str | None = Field(description="Command line with secrets removed, cut at 1000.")
    systemd_unit: str | None
    container_id: str | None
    kernel_thread: bool


TABLE: table.Table[ProcessRow] = table.Table(
    kind="processes",
    fields=(
        table.Field("pid", "number"),
        table.Field("parent_pid", "number"),
        table.Field("name", "text"),
        table.Field("state", "choice"),
        table.Field("user", "choice"),
        table.Field("uid", "number"),
        table.Field("cpu_percent", "number"),
        table.Field("cpu_seconds", "number"),
        table.Field("memory_rss_bytes", "number"),
        table.Field("memory_percent", "number"),
        table.Field("threads", "number"),
        table.Field("start_time_ticks", "number"),
        table.Field("executable", "text", sortable=False),
        table.Field("command", "text", sortable=False),
        table.Field("systemd_unit", "text"),
        table.Field("container_id", "text", sortable=False),
        table.Field("kernel_thread", "flag"),
    ),
    identity=lambda row: f"{row.pid:010d}:{row.start_time_ticks}",
    default_sort="cpu_percent",
    default_order="desc",
)

_CpuTicks = Mapping[tuple[int, int], int]
_DETAILS = frozenset({"user", "uid", "executable", "command", "systemd_unit", "container_id"})


class ProcessLister:
    """Lists processes and keeps earlier CPU readings, so that CPU % needs no wait."""

    def __init__(self, proc: Proc | None = None) -> None:
        self._proc = proc or Proc()
        self._samples: SampleRing[_CpuTicks] = SampleRing()

    def rows(self, used_fields: Collection[str] = ()) -> tuple[list[ProcessRow], list[str]]:
        """All processes and notes on how they were read. `used_fields` are those that the
        question sorts or filters by."""
        if not sys.platform.startswith("linux"):
            return psutil_rows(), ["Read through psutil; units and containers are not known here."]
        stats, base = self._measure(wait="cpu_percent" in used_fields)
        total_memory = psutil.virtual_memory().total
        rows = [_row(stat, base, total_memory) for stat in stats]
        if _DETAILS & set(used_fields):
            rows = self.complete(rows)
        if base is None:
            return rows, ["cpu_percent is null: no earlier sample is kept; ask again, or sort by."]
        return rows, [f"cpu_percent is of one core, over the last {base[0]:.2f} s."]

    def complete(self, rows: Iterable[ProcessRow]) -> list[ProcessRow]:
        """The same rows with user, program, command line and unit."""
        return [self._completed(row) for row in rows]

    def _measure(self, *, wait: bool) -> tuple[list[Stat], tuple[float, _CpuTicks] | None]:
        stats, now = list(self._proc.stats()), time.monotonic()
        base = self._samples.base(now)
        self._samples.add(_ticks(stats), now)
        if base is None and wait:
            time.sleep(MIN_WINDOW_SECONDS)
            first = (now, _ticks(stats))
            stats, now = list(self._proc.stats()), time.monotonic()
            base = (now - first[0], first[1])
        return stats, base

    def _completed(self, row: ProcessRow) -> ProcessRow:
        if row.command is not None or not sys.platform.startswith("linux"):
            return row
        uid = self._proc.effective_uid(row.pid)
        arguments = self._proc.arguments(row.pid)
        place = self._proc.place(row.pid)
        return row.model_copy(
            update={
                "uid": uid,
                "user": None if uid is None else user_name(uid),
                "executable": self._proc.executable(row.pid),
                "command": None if arguments is None else shown_command(arguments),
                "systemd_unit": place.unit,
                "container_id": place.container.id if place.container else None,
            }
        )


def _ticks(stats: Iterable[Stat]) -> _CpuTicks:
    return {(s.pid, s.start_ticks): s.cpu_ticks for s in stats}


def _row(stat: Stat, base: tuple[float, _CpuTicks] | None, total_memory: int) -> ProcessRow:
    percent: float | None = None
    if base is not None:
        # A process that is younger than the window used all of its time within it.
        before = base[1].get((stat.pid, stat.start_ticks), 0)
        percent = round(max(0, stat.cpu_ticks - before) / CLOCK_TICKS / base[0] * 100, 1)
    rss = max(0, stat.rss_pages) * PAGE_BYTES
    return ProcessRow(
        pid=stat.pid,
        parent_pid=stat.ppid,
        name=stat.name,
        state=STATES.get(stat.state, stat.state),
        user=None,
        uid=None,
        cpu_percent=percent,
        cpu_seconds=stat.cpu_ticks / CLOCK_TICKS,
        memory_rss_bytes=rss,
        memory_percent=round(rss / total_memory * 100, 2) if total_memory else 0.0,
        threads=stat.threads,
        started_at=iso_utc(epoch_of_start(stat.start_ticks)),
        start_time_ticks=stat.start_ticks,
        executable=None,
        command=None,
        systemd_unit=None,
        container_id=None,
        kernel_thread=stat.kernel_thread,
    )


@lru_cache(maxsize=1024)
def user_name(uid: int) -> str:
    """The account's name, or the number as text where no account has it (containers)."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


_PSUTIL_FIELDS = [
    "cmdline", "cpu_times", "create_time", "exe", "memory_info", "name", "num_threads", "pid",
    "ppid", "status", "uids",
]  # fmt: skip


def psutil_rows() -> list[ProcessRow]:
    """The same rows by psutil, for systems without /proc."""
    total_memory = psutil.virtual_memory().total
    return [
        _psutil_row(process, total_memory)
        for process in psutil.process_iter(_PSUTIL_FIELDS, ad_value=None)
    ]


def _psutil_row(process: psutil.Process, total_memory: int) -> ProcessRow:
    info = process.info
    uid = info["uids"].effective if info["uids"] else None
    rss = info["memory_info"].rss if info["memory_info"] else 0
    times = info["cpu_times"]
    created = info["create_time"] or 0.0
    arguments = info["cmdline"]
    return ProcessRow(
        pid=info["pid"],
        parent_pid=info["ppid"] or 0,
        name=info["name"] or "",
        state=(info["status"] or "unknown").replace("-", "_"),
        user=None if uid is None else user_name(uid),
        uid=uid,
        cpu_percent=None,
        cpu_seconds=round(times.user + times.system, 2) if times else 0.0,
        memory_rss_bytes=rss,
        memory_percent=round(rss / total_memory * 100, 2) if total_memory else 0.0,
        threads=info["num_threads"] or 0,
        started_at=iso_utc(created),
        start_time_ticks=round(created * 1_000_000),
        executable=info["exe"] or None,
        command=None if arguments is None else shown_command(arguments),
        systemd_unit=None,
        container_id=None,
        kernel_thread=False,
    )
