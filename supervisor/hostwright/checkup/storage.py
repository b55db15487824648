"""The folders, who else could get at them, and whether the databases in them open.

Everything is opened for reading only: looking must not migrate, create or repair.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from hostwright.checkup.findings import Finding, State
from hostwright.manifest_files import user_folder
from hostwright.status import CONNECT_SOCKET, GATEWAY_SOCKET
from hostwright_kit import approvals, job_records, ledger, policy_rates, tokens, vault
from hostwright_kit.config import SYSTEM_FILE
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths
from hostwright_kit.runtime import APPROVALS_FILE, LEDGER_FILE, TOKENS_FILE
from hostwright_kit.store import naming_the_cause

DATABASES: Mapping[str, Sequence[str] | None] = {
    LEDGER_FILE: ledger.MIGRATIONS,
    APPROVALS_FILE: approvals.MIGRATIONS,
    TOKENS_FILE: tokens.MIGRATIONS,
    "jobs/jobs.sqlite3": job_records.MIGRATIONS,
    policy_rates.RATES_FILE: policy_rates.MIGRATIONS,
    vault.VAULT_FILE: vault.MIGRATIONS,
    "sessions.db": None,
    "capabilities.db": None,
}
"""With the schemas that are known here; None: only its server knows them."""
# sockaddr_un.sun_path, without its end (unix(7), and macOS's sys/un.h).
MAX_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
ELSEWHERE = (
    "name another folder with HOSTWRIGHT_STATE_DIR, HOSTWRIGHT_CONFIG_DIR or HOSTWRIGHT_RUNTIME_DIR"
)
# Above this a full check of pages and indexes takes longer than anyone waits.
MAX_FULL_CHECK_BYTES = 64 * 1024 * 1024


def check_folders(paths: Paths) -> Iterator[Finding]:
    """Owner, mode and place of the three folders, and of the files that carry authority."""
    for name, folder in (
        ("configuration folder", paths.config_dir),
        ("state folder", paths.state_dir),
        ("runtime folder", paths.runtime_dir),
    ):
        yield _folder(name, folder)
    for name in (GATEWAY_SOCKET, CONNECT_SOCKET):
        length = len(os.fsencode(paths.runtime_dir / name))
        if length > MAX_SOCKET_PATH_BYTES:
            yield Finding(
                area="folders",
                what=name,
                state="problem",
                message=f"The socket's path has {length} bytes; {MAX_SOCKET_PATH_BYTES} are "
                "possible.",
                fix="Name a shorter folder with HOSTWRIGHT_RUNTIME_DIR.",
                path=paths.runtime_dir / name,
            )
    manifests = user_folder(paths)
    named = os.environ.get("HOSTWRIGHT_CONFIG")
    for file in (
        SYSTEM_FILE,
        paths.config_dir / "config.toml",
        *([Path(named)] if named else []),
        manifests,
        *sorted(manifests.glob("*.toml")),
    ):
        yield from _authority(file)
    for file in (*(paths.state_dir / one for one in DATABASES), paths.state_dir / "operator.json"):
        yield from _private(file)


def check_databases(paths: Paths) -> Iterator[Finding]:
    """Each database: that it opens, is of a schema that we know, and is sound."""
    for name, migrations in DATABASES.items():
        file = paths.state_dir / name
        if not file.exists():
            yield Finding(
                area="databases", what=name, state="ok", message="Not made yet.", path=file
            )
            continue
        try:
            with naming_the_cause(file):
                known = None if migrations is None else len(migrations)
                found = _database(name, file, known)
        except HostError as error:
            found = _bad(name, file, error.message, error.fix)
        yield found


def nearest_folder(path: Path) -> Path:
    """`path`, or what exists of the way to it."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _folder(name: str, folder: Path) -> Finding:
    state, message, fix = _judge_folder(folder)
    return Finding(area="folders", what=name, state=state, message=message, fix=fix, path=folder)


def _judge_folder(folder: Path) -> tuple[State, str, str]:
    try:
        info = folder.stat()
    except FileNotFoundError:
        above = nearest_folder(folder)
        if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
            return "ok", "Not there yet; made when it is needed.", ""
        return "problem", f"It is not there, and cannot be made in {above}.", f"{ELSEWHERE}."
    except OSError as error:
        return "problem", f"It cannot be looked at: {error.strerror}.", f"{ELSEWHERE}."
    if not stat.S_ISDIR(info.st_mode):
        return "problem", "It is not a folder.", f"Move it away, or {ELSEWHERE}."
    if (uid := os.geteuid()) != info.st_uid:
        fix = f"Run as that user, give it to this one (chown -R {uid} {folder}), or {ELSEWHERE}."
        return "problem", f"It belongs to uid {info.st_uid}; this is uid {uid}.", fix
    return _judge_mode(folder, info.st_mode)


def _judge_mode(folder: Path, mode: int) -> tuple[State, str, str]:
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return "problem", "It cannot be written.", f"chmod 700 {folder}, or {ELSEWHERE}."
    if mode & 0o077:
        message = f"Others may get at it (mode {stat.S_IMODE(mode):04o})."
        return "degraded", message, f"chmod 700 {folder}"
    return "ok", "Ours, closed to others.", ""


def _authority(file: Path) -> Iterator[Finding]:
    """Whoever can write a configuration can set the policy."""
    try:
        info = file.stat()
    except (FileNotFoundError, PermissionError):
        # Of another user's private folder, which `read_settings` passes over as well.
        return
    if info.st_uid not in (os.geteuid(), 0):
        whose, fix = f"belongs to uid {info.st_uid}, who", f"chown {os.geteuid()} {file}"
    elif info.st_mode & 0o022:
        whose = f"may be written by others (mode {stat.S_IMODE(info.st_mode):04o}), who"
        fix = f"chmod go-w {file}"
    else:
        return
    message = f"It {whose} can so set the policy and what is started."
    yield Finding(
        area="folders", what=file.name, state="problem", message=message, fix=fix, path=file
    )


def _private(file: Path) -> Iterator[Finding]:
    try:
        info = file.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    state: State = "problem"
    if info.st_uid != os.geteuid():
        message = f"It belongs to uid {info.st_uid}; this is uid {os.geteuid()}."
        fix = f"chown {os.geteuid()} {file}"
    elif info.st_mode & 0o077:
        message, state = f"Others may read it (mode {stat.S_IMODE(info.st_mode):04o}).", "degraded"
        fix = f"chmod 600 {file}"
    else:
        return
    yield Finding(area="folders", what=file.name, state=state, message=message, fix=fix, path=file)


def _database(name: str, file: Path, known: int | None) -> Finding:
    size = file.stat().st_size
    uri = f"{file.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if known is not None and version > known:
            return _bad(
                name,
                file,
                f"It has schema {version}; this program knows {known}.",
                "Upgrade hostwright; the file was left as it is.",
            )
        full = size <= MAX_FULL_CHECK_BYTES
        pragma = "quick_check(1)" if full else "schema_version"
        result = db.execute(f"PRAGMA {pragma}").fetchone()[0]
    if full and result != "ok":
        return _bad(
            name,
            file,
            f"It is damaged: {result}.",
            f"Keep it (mv {file} {file}.damaged) and restore a backup, or start a new one.",
        )
    if not os.access(file, os.W_OK):
        return _bad(name, file, "It cannot be written.", f"chmod 600 {file}")
    of = "" if known is None else f" of {known}"
    message = f"Opens, schema {version}{of}, {size / 1e6:.1f} MB."
    if not full:
        message += " Too large to look at every page."
    return Finding(area="databases", what=name, state="ok", message=message, path=file)


def _bad(name: str, file: Path, message: str, fix: str) -> Finding:
    return Finding(
        area="databases", what=name, state="problem", message=message, fix=fix, path=file
    )
