"""Putting this installation into a client's configuration, and taking it out again.

Makes the entries (`hostwright connect` over stdio, or the gateway's URL with a bearer token), and
keeps file and token in step: a token is made only once the change is known to be possible, is
worthless again when writing fails, and is revoked when the entry that held it goes. Blocking
(files, SQLite).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, Field, SecretStr, ValidationError

from hostwright.clients import Applied, Change, Entry, Plan, Scope, apply, plan
from hostwright.manifest import SUPERVISOR
from hostwright.manifest_files import read_manifests
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths, resolve_paths
from hostwright_kit.runtime import TOKENS_FILE
from hostwright_kit.tokens import PREFIX, Tokens

NAME = "hostwright"
# Stands for a token that is not made yet; as long as a real one.
_PLACEHOLDER = PREFIX + "0" * 43
_TOKEN = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}")
_FOLDERS = (
    ("HOSTWRIGHT_CONFIG_DIR", ("XDG_CONFIG_HOME",)),
    ("HOSTWRIGHT_STATE_DIR", ("XDG_STATE_HOME",)),
    ("HOSTWRIGHT_RUNTIME_DIR", ("XDG_RUNTIME_DIR", "XDG_STATE_HOME")),
)


class Wanted(BaseModel, frozen=True):
    """What is asked for."""

    client: str
    scope: Scope = "user"
    servers: tuple[str, ...] = Field(default=(), description="Empty: all of them in one entry.")
    http: bool = False
    remove: bool = False
    dry_run: bool = False
    token_name: str
    replace_token: bool = False


class Installed(BaseModel, frozen=True):
    """What was done, or would be."""

    client: str
    scope: Scope
    path: Path
    dry_run: bool
    changed: bool = Field(description="Whether the file was, or would be, changed.")
    changes: tuple[Change, ...]
    kept: tuple[str, ...] = Field(description="Other servers in the file, untouched.")
    diff: str = Field(description="Unified, with secrets taken out.")
    warnings: tuple[str, ...]
    backup: Path | None = None
    token: str | None = Field(default=None, description="Name of the token in the entries.")
    token_action: Literal["made", "replaced", "kept"] | None = None
    revoked_tokens: tuple[str, ...] = ()

    @property
    def conflicts(self) -> tuple[Change, ...]:
        """What was left alone because it belongs to somebody else."""
        return tuple(change for change in self.changes if change.action == "conflict")


def install(
    wanted: Wanted,
    paths: Paths,
    *,
    gateway: str,
    home: Path,
    cwd: Path,
    environ: Mapping[str, str],
) -> Installed:
    """Plan the change and, unless it is a dry run, make it. `gateway` is the URL of `/mcp`."""
    if not wanted.remove:
        _check_servers(wanted.servers, paths)
    job = _Job(wanted, gateway, {"home": home, "cwd": cwd, "environ": environ, "gateway": gateway})
    if not wanted.http or wanted.remove:
        return job.finish(job.plan(None), paths)
    # With a placeholder first: whatever is impossible shows before a token exists.
    first = job.plan(_PLACEHOLDER)
    if len(first.conflicts) == len(first.changes):
        return job.finish(first, paths)
    return job.with_token(first, paths)


def stdio_entry(name: str, servers: Sequence[str] = ()) -> Entry:
    """The entry `name` that starts `hostwright connect`, for all servers or for one."""
    return _entry(
        name=name,
        command=str(program()),
        args=("connect", *servers),
        env=entry_environment(os.environ, uid=os.getuid()),
    )


def expected_entry(name: str) -> Entry | None:
    """The stdio entry that `install` writes under this name; None for a name of somebody else's."""
    if name == NAME:
        return stdio_entry(name)
    server = name.removeprefix(f"{NAME}-")
    return stdio_entry(name, (server,)) if server != name else None


def program() -> Path:
    """This installation's `hostwright`, from /: clients start programs with a bare PATH."""
    beside = Path(sys.executable).absolute().with_name("hostwright")
    if os.access(beside, os.X_OK):
        return beside
    if found := shutil.which("hostwright"):
        return Path(found).absolute()
    raise HostError(
        f"There is no program `hostwright` beside {sys.executable}.",
        fix="Install Hostwright into this Python (pip install hostwright).",
        code="program_missing",
    )


def entry_environment(environ: Mapping[str, str], *, uid: int) -> dict[str, str]:
    """What an entry must say so that it finds the daemon without this environment.

    Codex and OpenClaw pass almost no variables on. What decides the folders here is therefore
    written down: our own variables, and for ordinary users the XDG ones (a login sets
    XDG_RUNTIME_DIR).
    """
    paths = resolve_paths(environ, uid=uid)
    folders = (paths.config_dir, paths.state_dir, paths.runtime_dir)
    found: dict[str, str] = {}
    for (variable, indirect), folder in zip(_FOLDERS, folders, strict=True):
        if environ.get(variable) or (uid != 0 and any(environ.get(one) for one in indirect)):
            found[variable] = str(folder)
    if named := environ.get("HOSTWRIGHT_CONFIG"):
        found["HOSTWRIGHT_CONFIG"] = str(Path(named).absolute())
    return found


def reachable(url: str) -> str:
    """The gateway's URL for a client on this machine: a wildcard address is none to connect to."""
    parts = urlsplit(url)
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(parts.hostname or "")  # noqa: S104 - compared
    return urlunsplit(parts._replace(netloc=f"{local}:{parts.port}")) if local else url


class _Job:
    """One installation on its way."""

    def __init__(self, wanted: Wanted, gateway: str, places: Mapping[str, Any]) -> None:
        self._wanted = wanted
        self._gateway = gateway
        self._places = dict(places)

    def plan(self, secret: str | None) -> Plan:
        wanted = self._wanted
        servers: list[tuple[str, ...]] = [(server,) for server in wanted.servers]
        if not servers and not wanted.remove:
            servers = [()]
        return plan(
            wanted.client,
            [self._entry(server, secret) for server in servers],
            remove=wanted.remove,
            scope=wanted.scope,
            **self._places,
        )

    def with_token(self, first: Plan, paths: Paths) -> Installed:
        """The rest of an installation over HTTP."""
        wanted, file = self._wanted, paths.state_dir / TOKENS_FILE
        if wanted.dry_run and not file.exists():
            return self.finish(first, paths, "made")
        with closing(Tokens(file)) as tokens:
            exists = any(one.name == wanted.token_name for one in tokens.list())
            held = _tokens_in(first.before, tokens)
            if wanted.token_name in held and not wanted.replace_token:
                return self.finish(self.plan(held[wanted.token_name]), paths, "kept")
            if exists and not wanted.replace_token:
                raise HostError(
                    f"A token named {wanted.token_name!r} exists already, and {first.path} does "
                    "not hold it. It cannot be shown again.",
                    fix="Replace it with --replace-token (the old one stops working), or make one "
                    "of another name with --token-name.",
                    code="exists",
                )
            action = "replaced" if exists else "made"
            if wanted.dry_run:
                return self.finish(first, paths, action)
            secret = tokens.create(wanted.token_name, replace=wanted.replace_token)
            try:
                return self.finish(self.plan(secret), paths, action)
            except BaseException:
                # Nobody holds it.
                tokens.revoke(wanted.token_name)
                raise

    def finish(
        self,
        planned: Plan,
        paths: Paths,
        action: Literal["made", "replaced", "kept"] | None = None,
    ) -> Installed:
        """Make the planned change, and end what it leaves without a holder."""
        wanted = self._wanted
        applied: Applied | None = None
        revoked: tuple[str, ...] = ()
        if not wanted.dry_run:
            applied = apply(planned)
            revoked = _revoke_dropped(planned, paths.state_dir / TOKENS_FILE)
        return Installed(
            client=wanted.client,
            scope=wanted.scope,
            path=planned.path,
            dry_run=wanted.dry_run,
            changed=planned.changed,
            changes=planned.changes,
            kept=planned.kept,
            diff=planned.diff,
            warnings=planned.warnings,
            backup=applied.backup if applied else None,
            token=wanted.token_name if action else None,
            token_action=action,
            revoked_tokens=revoked,
        )

    def _entry(self, servers: tuple[str, ...], secret: str | None) -> Entry:
        name = "-".join((NAME, *servers))
        if not self._wanted.http:
            return stdio_entry(name, servers)
        url = "/".join((self._gateway, *servers))
        return _entry(name=name, url=url, bearer_token=SecretStr(secret) if secret else None)


def _entry(**values: Any) -> Entry:
    try:
        return Entry(**values)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise HostError(
            f"The entry {values['name']!r} cannot be made: {detail['msg']}.",
            fix="Give the server a shorter or plainer name in its manifest.",
            code="bad_name",
        ) from error


def _check_servers(servers: Sequence[str], paths: Paths) -> None:
    known = [SUPERVISOR, *(manifest.name for manifest in read_manifests(paths)[0])]
    unknown = [server for server in servers if server not in known]
    if unknown:
        raise HostError(
            f"There is no server {', '.join(map(repr, unknown))}.",
            fix=f"Known here: {', '.join(known)}. A new one needs a manifest.",
            code="not_found",
        )


def _tokens_in(text: str | None, tokens: Tokens) -> dict[str, str]:
    """The tokens of ours that stand in a client's file and are still good, by name."""
    found: dict[str, str] = {}
    for secret in set(_TOKEN.findall(text or "")):
        if (name := tokens.verify(secret)) is not None:
            found[name] = secret
    return found


def _revoke_dropped(planned: Plan, file: Path) -> tuple[str, ...]:
    """End the tokens that were in the entries which the change took out."""
    if not planned.changes_text or not file.exists():
        return ()
    with closing(Tokens(file)) as tokens:
        before, after = _tokens_in(planned.before, tokens), _tokens_in(planned.after, tokens)
        dropped = sorted(before.keys() - after.keys())
        for name in dropped:
            tokens.revoke(name)
    return tuple(dropped)
