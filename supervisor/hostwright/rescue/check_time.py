"""The clock, the certificates that somebody named, and what the last crash said.

No repairs: none of these can be mended from here without guessing.
"""

from __future__ import annotations

import ctypes
import re
import ssl
import sys
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from hostwright.rescue import good
from hostwright.rescue.findings import Finding, Severity
from hostwright.rescue.ground import Ground, clip

# This program was not there before; a clock that says so is wrong.
EARLIEST = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
AHEAD_SECONDS = 300.0
TIME_ERROR = 5  # adjtimex(2)
SOON_SECONDS = 14 * 86_400.0
RECENT_SECONDS = 86_400.0
LOG_BYTES = 256 * 1024
CRASH_LINES = 20
VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
CERTIFICATE_KEY = re.compile(
    r"(^|_)(ca|cert|certs|certificate)(_|$)|ca_file|ca_bundle", re.IGNORECASE
)
MAX_CERTIFICATES = 500


def check_clock(ground: Ground) -> Iterator[Finding]:
    """Whether the wall clock can be right: approvals, certificates and the ledger go by it."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ground.now))
    fix = "Set it, and let something keep it (timedatectl set-ntp true)."
    if ground.now < EARLIEST:
        yield Finding("clock", "clock", "error", f"It says {shown}, which cannot be.", fix=fix)
        return
    last = _last_entry(ground)
    if last is not None and last > ground.now + AHEAD_SECONDS:
        yield Finding(
            "clock",
            "clock",
            "error",
            f"It says {shown}, and the ledger's last entry is {last - ground.now:.0f} s later: it "
            "was set back, or was wrong before.",
            fix=fix,
        )
        return
    if _unsynchronised():
        message = f"It says {shown}. The kernel knows of nobody who keeps it."
        yield Finding("clock", "clock", "note", message, fix=fix)
        return
    yield Finding("clock", "clock", "ok", f"It says {shown}.")


def check_certificates(ground: Ground) -> Iterator[Finding]:
    """Those that the configuration, a manifest or the environment names, and the system's own."""
    for where, path in _named(ground):
        yield from _file(ground, where, path)
    paths = ssl.get_default_verify_paths()
    if not any(place and Path(place).exists() for place in (paths.cafile, paths.capath)):
        yield Finding(
            "certificate:system",
            "certificates",
            "warning",
            "The system has no certificates of authorities: no TLS connection can be checked.",
            fix="Install them (apt-get install ca-certificates).",
        )


def check_crash(ground: Ground) -> Iterator[Finding]:
    """What the daemon's log ends with, if it did not end well, and servers that crashed lately."""
    file = ground.state / "logs" / "daemon.log"
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - LOG_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        age = ground.now - file.stat().st_mtime
    except FileNotFoundError:
        lines, age = [], 0.0
    marks = ("Traceback (most recent call last)", "Fatal Python error", "✗ ")
    starts = [number for number, line in enumerate(lines) if line.lstrip().startswith(marks)]
    if starts and age < RECENT_SECONDS * 7:
        told = lines[starts[-1] :][:CRASH_LINES]
        ran_on = any("gateway http" in line for line in lines[starts[-1] :])
        severity: Severity = "note" if ran_on or ground.daemon.status else "warning"
        yield Finding(
            "crash:daemon",
            "crash",
            severity,
            f"The daemon's log tells of a failure ({age / 3600:.1f} h ago at the latest).",
            evidence=tuple(clip(line) for line in told if line.strip()),
            fix=f"The whole of it: {file}",
        )
    yield from _crashed_servers(ground)


def _crashed_servers(ground: Ground) -> Iterator[Finding]:
    from hostwright_kit.audit import EventFilter, list_events
    from hostwright_kit.runtime import LEDGER_FILE

    ledger = ground.state / LEDGER_FILE
    if not ledger.exists():
        return
    since = datetime.fromtimestamp(ground.now - RECENT_SECONDS, UTC).isoformat()
    told: dict[str, list[str]] = {}
    for kind in ("server.crashed", "server.broken"):
        wanted = EventFilter(type=kind, since=since)
        for event in list_events(ledger, wanted, limit=100).events:
            reason = clip(str(event.detail.get("reason", "")))
            told.setdefault(event.server or "?", []).append(f"{event.time} {kind}: {reason}")
    for server, lines in sorted(told.items()):
        message = f"{server} crashed {len(lines)} time(s) in the last 24 h."
        yield Finding(
            f"crash:{server}",
            "crash",
            "note",
            message,
            evidence=tuple(sorted(lines, reverse=True)[:5]),
            fix=f"hostwright logs {server}",
        )


def _last_entry(ground: Ground) -> float | None:
    """The time of the ledger's newest entry, if it can be read."""
    import sqlite3

    from hostwright_kit.errors import HostError
    from hostwright_kit.ledger_reading import reading
    from hostwright_kit.runtime import LEDGER_FILE

    try:
        with reading(ground.state / LEDGER_FILE) as db:
            row = db.execute("SELECT time FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        return datetime.fromisoformat(row[0]).timestamp() if row else None
    except (HostError, sqlite3.Error, ValueError):
        return None  # told by the databases


def _unsynchronised() -> bool:
    if sys.platform != "linux":
        return False
    # struct timex is 208 bytes at most; modes = 0 only asks.
    buffer = ctypes.create_string_buffer(512)
    return ctypes.CDLL(None).adjtimex(buffer) == TIME_ERROR


# -- certificates --------------------------------------------------------------------------------


def _named(ground: Ground) -> list[tuple[str, Path]]:
    found = {(name, ground.environ[name]) for name in VARIABLES if ground.environ.get(name)}
    for name in good.names_in(ground.config):
        try:
            table = tomllib.loads((ground.config / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # told by the configuration
        found |= {(f"{name}: {key}", text) for key, text in _texts(table)}
    places: dict[Path, list[str]] = {}
    for where, text in sorted(found):
        places.setdefault(Path(text).expanduser(), []).append(where)
    return [(", ".join(wheres), path) for path, wheres in places.items()]


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text under a key that is about certificates."""
    if isinstance(value, dict):
        for name, one in cast("dict[str, Any]", value).items():
            yield from _texts(one, name)
        return
    named = CERTIFICATE_KEY.search(key) or key in VARIABLES
    if named and isinstance(value, str) and "/" in value:
        yield key, value


def _file(ground: Ground, where: str, path: Path) -> Iterator[Finding]:
    name = f"certificate:{path}"

    def finding(severity: Severity, message: str, *evidence: str) -> Finding:
        fix = "" if severity == "ok" else f"Renew it, or name another one ({where})."
        return Finding(name, "certificates", severity, message, evidence, fix)

    try:
        ends = sorted(_ends(path.read_bytes()))
    except OSError as error:
        yield finding("error", f"{path} cannot be read: {error.strerror}.")
        return
    except ValueError as error:
        yield finding("error", f"{path} holds no certificate: {clip(str(error))}.")
        return
    over = [f"{subject}, until {_day(end)}" for end, _, subject in ends if end < ground.now]
    early = [f"{subject}, from {_day(at)}" for _, at, subject in ends if at > ground.now]
    soon = [
        f"{subject}, until {_day(end)}"
        for end, _, subject in ends
        if ground.now <= end < ground.now + SOON_SECONDS
    ]
    if over or early:
        useless = len(over) + len(early) >= len(ends)
        message = f"{path}: {len(over)} of {len(ends)} expired, {len(early)} not valid yet."
        # Bundles of authorities carry ended ones for years.
        yield finding("error" if useless else "note", message, *(over + early)[:10])
    elif soon:
        yield finding("warning", f"{path}: {len(soon)} of {len(ends)} end soon.", *soon[:10])
    else:
        yield finding("ok", f"{path}: {len(ends)} certificate(s), valid.")


def _ends(content: bytes) -> Iterator[tuple[float, float, str]]:
    """End, beginning and subject of each certificate in a PEM file."""
    import warnings

    from cryptography import x509

    with warnings.catch_warnings():
        # What authorities once did with serial numbers is no news for the owner.
        warnings.simplefilter("ignore")
        found = x509.load_pem_x509_certificates(content)[:MAX_CERTIFICATES]
    for one in found:
        end, start = one.not_valid_after_utc, one.not_valid_before_utc
        yield end.timestamp(), start.timestamp(), clip(one.subject.rfc4514_string())


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
