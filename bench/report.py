"""The table, once for the terminal and once as Markdown, and what it has to be read with."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.results import Row, ratios, verdicts

COLUMNS = (
    *("measured", "who", "median", "lowest – highest", "p50 ms", "p99 ms", "CPU ms/call"),
    *("to reach", "ours ÷ theirs; remarks"),
)
PACKAGES = ("hostwright", "hostwright-kit", "hostwright-system", "fastmcp", "mcp", "pydantic")
FAST = "uvicorn", "httptools", "uvloop"


def cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """One line: who, and what was found."""
    remarks = [f"{_short(ratio)}× {who}" for who, ratio in ratios(row, rows)]
    if row.note:
        remarks.append(row.note)
    reach = "; ".join(said for said, _ in verdicts(row, rows))
    if not row.values:
        return (row.who, "–", "–", "–", "–", "–", reach, "; ".join(remarks))
    spread = f"{_short(min(row.values))} – {_short(max(row.values))}"
    return (
        row.who,
        f"{_short(row.median)} {row.unit}",
        spread if len(row.values) > 1 else "–",
        *(_optional(row.percentile_ms(part)) for part in (0.50, 0.99)),
        _optional(row.cpu_ms_per_call),
        reach,
        "; ".join(remarks),
    )


def show(rows: Sequence[Row]) -> None:
    """The table on the terminal."""
    table = Table(title="Hostwright beside its peers", title_justify="left", show_lines=False)
    for column in COLUMNS:
        right = column in COLUMNS[2:7]
        table.add_column(column, justify="right" if right else "left", no_wrap=right)
    before = ""
    for row in rows:
        if row.what != before:
            table.add_section()
        style = "bold" if row.kind == "ours" else ""
        first = row.what if row.what != before else ""
        table.add_row(Text(first), *(Text(cell, style=style) for cell in cells(row, rows)))
        before = row.what
    # Piped into a file or a log there is no width to keep to.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def markdown(rows: Sequence[Row]) -> str:
    """The same table as Markdown; our rows are bold."""
    lines = [_line(COLUMNS), _line(["---", "---", *["---:"] * 5, "---", "---"])]
    before = ""
    for row in rows:
        found = list(cells(row, rows))
        if row.kind == "ours":
            found[:2] = [f"**{cell}**" for cell in found[:2]]
        lines.append(_line([row.what if row.what != before else "", *found]))
        before = row.what
    return "\n".join(lines) + "\n"


def heading(plan: str, loads: Sequence[tuple[str, float]], seconds: float, peers: str) -> str:
    """Date, machine, load and versions: without them no figure means anything."""
    ours = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    web = ", ".join(f"{name} {_version(name)}" for name in FAST)
    load = ", ".join(f"{part} {value:.1f}" for part, value in loads)
    memory = psutil.virtual_memory().total / 2**30
    return f"""# Results

Written by `make bench`; [README.md](README.md) says what is measured and how to read it.

- **Date** {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {plan} run, {seconds:.0f} s
- **Machine** {_cpu()}, {os.cpu_count()} cores, {memory:.1f} GiB memory, {platform.system()} \
{platform.release()}, state on {_file_system()}
- **Load average** (1 minute, at the begin of each part; the bench itself causes 1 to 2): {load}
- **Versions** Python {platform.python_version()}, {ours}; {web}
- **Peers** FastMCP proxy: fastmcp {version("fastmcp")}; {peers}

"""


def _line(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _optional(value: float | None) -> str:
    return "–" if value is None else _short(value)


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "absent"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _file_system() -> str:
    """The kind of file system that the ledger's figures depend on."""
    here = Path(__file__).resolve()
    mounts = [
        mount for mount in psutil.disk_partitions(all=True) if here.is_relative_to(mount.mountpoint)
    ]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown"
