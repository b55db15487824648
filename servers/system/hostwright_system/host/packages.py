"""Installed packages, from each package manager's own database.

dpkg (deb822 status file, deb-control(5)), apk (/lib/apk/db/installed) and pacman (desc files) are
plain text and are read directly, without the manager and so without its lock. rpm's database is
binary: `rpm` itself is asked. Homebrew keeps one folder per formula and version. A manager that is
present but cannot be read is named in the notes with the reason. Blocking.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from hostwright_kit.errors import HostError
from hostwright_system.host import table

RPM_TIMEOUT_SECONDS = 30.0
MAX_SUMMARY_LENGTH = 200

Manager = Literal["dpkg", "rpm", "apk", "pacman", "brew"]


class PackageRow(BaseModel, frozen=True, extra="forbid"):
    """One installed package."""

    name: str
    version: str
    architecture: str | None
    manager: Manager
    installed_size_bytes: int | None
    summary: str | None


TABLE: table.Table[PackageRow] = table.Table(
    kind="packages",
    fields=(
        table.Field("name", "text"),
        # Versions do not sort as text, and each manager has its own order.
        table.Field("version", "text", sortable=False),
        table.Field("architecture", "choice"),
        table.Field("manager", "choice"),
        table.Field("installed_size_bytes", "number"),
        table.Field("summary", "text", sortable=False),
    ),
    identity=lambda row: f"{row.name} {row.manager} {row.architecture} {row.version}",
    default_sort="name",
)


def package_rows(root: Path = Path("/")) -> tuple[list[PackageRow], list[str]]:
    """All packages of all managers that are present under `root`, and which were read."""
    readers: dict[Manager, Callable[[Path], Iterator[PackageRow] | None]] = {
        "dpkg": _dpkg,
        "rpm": _rpm,
        "apk": _apk,
        "pacman": _pacman,
        "brew": _brew,
    }
    rows: dict[str, PackageRow] = {}
    counts: list[str] = []
    failures: list[str] = []
    for manager, reader in readers.items():
        try:
            packages = reader(root)
            if packages is None:
                continue
            found = list(packages)
        except (OSError, subprocess.SubprocessError) as error:
            failures.append(f"{manager} could not be read: {str(error)[:200]}")
            continue
        counts.append(f"{manager} ({len(found)})")
        rows |= {TABLE.identity(row): row for row in found}
    if not counts:
        raise HostError(
            "No package database was read: " + ("; ".join(failures) or "none is present") + ".",
            fix="Managers that are known: " + ", ".join(readers) + ".",
            code="unsupported",
        )
    return list(rows.values()), [f"Read: {', '.join(counts)}.", *failures]


def parse_paragraphs(lines: str) -> Iterator[dict[str, str]]:
    """deb822: `Name: value` fields, lines that begin with white space continue the value, an empty
    line ends the paragraph. Field names ignore case; the first of a doubled field counts."""
    fields: dict[str, str] = {}
    current: str | None = None
    for line in lines.split("\n"):
        if not line.strip():
            if fields:
                yield fields
            fields, current = {}, None
        elif line[0] in " \t":
            if current is not None:
                fields[current] += "\n" + line[1:]
        else:
            name, separator, value = line.partition(":")
            current = name.strip().lower() if separator else None
            if current is None:
                continue
            if current in fields:
                current = None
            else:
                fields[current] = value.strip()
    if fields:
        yield fields


def _dpkg(root: Path) -> Iterator[PackageRow] | None:
    status = root / "var/lib/dpkg/status"
    # Images without dpkg itself (distroless) keep one file per package instead.
    parts = root / "var/lib/dpkg/status.d"
    files = [status] if status.is_file() else []
    if parts.is_dir():
        files += sorted(p for p in parts.iterdir() if p.is_file() and p.suffix != ".md5sums")
    return _dpkg_rows(files) if files else None


def _dpkg_rows(files: list[Path]) -> Iterator[PackageRow]:
    for file in files:
        for fields in parse_paragraphs(_text(file)):
            # "want error status": only the last word says whether its files are there.
            state = fields.get("status", "install ok installed").split()
            if "package" not in fields or state[-1:] != ["installed"]:
                continue
            size = fields.get("installed-size", "")
            yield PackageRow(
                name=fields["package"],
                version=fields.get("version", ""),
                architecture=fields.get("architecture"),
                manager="dpkg",
                installed_size_bytes=int(size) * 1024 if size.isdecimal() else None,
                summary=_summary(fields.get("description", "")),
            )


def _rpm(root: Path) -> Iterator[PackageRow] | None:
    present = any((root / p).is_dir() for p in ("var/lib/rpm", "usr/lib/sysimage/rpm"))
    if not present or shutil.which("rpm") is None:
        return None
    layout = r"%{NAME}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\t%{ARCH}\t%{LONGSIZE}\t%{SUMMARY}\n"
    done = subprocess.run(
        ["rpm", "--root", str(root.resolve()), "-qa", "--queryformat", layout],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=RPM_TIMEOUT_SECONDS,
        check=True,
    )
    rows = list(parse_rpm(done.stdout.decode("utf-8", "replace")))
    # Debian's rpm tool brings an empty database: that manager manages nothing here.
    return iter(rows) if rows else None


def parse_rpm(output: str) -> Iterator[PackageRow]:
    """The lines of the query format above; signing keys are listed by rpm but are no packages."""
    for line in output.split("\n"):
        fields = line.split("\t", 4)
        if len(fields) != 5 or fields[0] == "gpg-pubkey":
            continue
        name, version, architecture, size, summary = fields
        yield PackageRow(
            name=name,
            version=version.removeprefix("0:"),
            architecture=architecture,
            manager="rpm",
            installed_size_bytes=int(size) if size.isdecimal() else None,
            summary=_summary(summary),
        )


def _apk(root: Path) -> Iterator[PackageRow] | None:
    candidates = (root / "lib/apk/db/installed", root / "usr/lib/apk/db/installed")
    database = next((p for p in candidates if p.is_file()), None)
    return None if database is None else parse_apk(_text(database))


def parse_apk(database: str) -> Iterator[PackageRow]:
    """One-letter fields, an empty line between packages: P name, V version, A architecture,
    I size in bytes, T description."""
    for paragraph in database.split("\n\n"):
        fields: dict[str, str] = {}
        for line in paragraph.split("\n"):
            if line[1:2] == ":":
                fields.setdefault(line[0], line[2:])
        if "P" in fields:
            size = fields.get("I", "")
            yield PackageRow(
                name=fields["P"],
                version=fields.get("V", ""),
                architecture=fields.get("A"),
                manager="apk",
                installed_size_bytes=int(size) if size.isdecimal() else None,
                summary=_summary(fields.get("T", "")),
            )


def _pacman(root: Path) -> Iterator[PackageRow] | None:
    folder = root / "var/lib/pacman/local"
    return _pacman_rows(folder) if folder.is_dir() else None


def _pacman_rows(folder: Path) -> Iterator[PackageRow]:
    for file in sorted(folder.glob("*/desc")):
        row = parse_pacman(_text(file))
        if row is not None:
            yield row


def parse_pacman(desc: str) -> PackageRow | None:
    """A desc file: `%FIELD%` on a line, its values on the following lines up to an empty one."""
    fields: dict[str, str] = {}
    for block in desc.split("\n\n"):
        heading, _, value = block.strip("\n").partition("\n")
        if heading.startswith("%") and heading.endswith("%"):
            fields[heading.strip("%")] = value
    if "NAME" not in fields:
        return None
    size = fields.get("SIZE", "")
    return PackageRow(
        name=fields["NAME"],
        version=fields.get("VERSION", ""),
        architecture=fields.get("ARCH"),
        manager="pacman",
        installed_size_bytes=int(size) if size.isdecimal() else None,
        summary=_summary(fields.get("DESC", "")),
    )


def _brew(root: Path) -> Iterator[PackageRow] | None:
    candidates = ("opt/homebrew/Cellar", "usr/local/Cellar", "home/linuxbrew/.linuxbrew/Cellar")
    cellars = [root / c for c in candidates if (root / c).is_dir()]
    return _brew_rows(cellars) if cellars else None


def _brew_rows(cellars: list[Path]) -> Iterator[PackageRow]:
    for cellar in cellars:
        for version in sorted(cellar.glob("*/*")):
            if version.is_dir() and not version.name.startswith("."):
                yield PackageRow(
                    name=version.parent.name,
                    version=version.name,
                    architecture=None,
                    manager="brew",
                    installed_size_bytes=None,
                    summary=None,
                )


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8", "replace")


def _summary(description: str) -> str | None:
    return description.partition("\n")[0].strip()[:MAX_SUMMARY_LENGTH] or None
