"""Manifests: how one server is run, as a strict model.

Ours by `entry_point`, a FastMCP server in a file of the owner's by `fastmcp`, third-party ones by
`command` (stdio) or `url` (streamable HTTP); unknown keys are refused. Also what a manifest means
for one start: its argv, its expanded variables, its program. Touches nothing; `manifest_files`
reads the TOML files.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hostwright.manifest_rules import Canary, Conditions, GuardRules, Limits, LogRules, OneOrMore
from hostwright_kit.errors import HostError
from hostwright_kit.redact import is_secret_name
from hostwright_kit.token_rules import check_renames
from hostwright_kit.vault_names import MIN_VALUE_CHARS
from hostwright_kit.vault_names import NAME as _ENTRY

ENTRY_POINT_GROUP = "hostwright.servers"

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,62}$"
SUPERVISOR = "hostwright"
"""The supervisor's own server in the gateway; no other may be called so."""
OURS_SLEEP_AFTER_SECONDS = 600.0
SUPERVISOR_SLEEPS_AFTER_SECONDS = 30.0
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
_KINDS = ("entry_point", "fastmcp", "command", "url")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")
# `$${VAR}` stands for a literal `${VAR}`; `${VAR:-text}` has a default, as in .mcp.json files.
# `${secret:NAME}` is an entry of the vault.
_REFERENCE = re.compile(
    r"(?P<escape>\$?)\$\{(?:secret:(?P<secret>[^}]*)|(?P<name>[^}:]*)(?::-(?P<default>[^}]*))?)\}"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# Shorter parts of a value would black out ordinary words.
_MASKED_CHARS = 6

# tomllib gives lists; strict mode would refuse them for a tuple.
Words = Annotated[tuple[str, ...], Field(strict=False, max_length=1_000)]


class HealthRules(BaseModel):
    """When a running server counts as alive."""

    model_config = _STRICT

    interval_seconds: float = Field(default=10, ge=0.1, le=3_600, description="Between two checks.")
    timeout_seconds: float = Field(default=5, ge=0.1, le=600, description="For one round trip.")
    failures_before_restart: int = Field(default=3, ge=1, le=100, description="Consecutive ones.")


class RestartRules(BaseModel):
    """What follows when a server ends by itself or stops answering."""

    model_config = _STRICT

    policy: Literal["always", "on-failure", "never"] = Field(
        default="always", description="on-failure leaves a server alone that exits with code 0."
    )
    first_delay_seconds: float = Field(
        default=0.2, ge=0.01, le=600, description="Before the first start that is not at once."
    )
    max_delay_seconds: float = Field(
        default=30, ge=0.01, le=3_600, description="Delays double up to this one."
    )
    jitter: float = Field(
        default=0.2, ge=0, le=0.9, description="Each delay is drawn from ± this part of it."
    )
    breaker_failures: int = Field(
        default=6, ge=1, le=1_000, description="So many failures within the window: broken."
    )
    breaker_window_seconds: float = Field(
        default=60,
        ge=1,
        le=86_400,
        description="Also how long a server must stay healthy for its failures to be forgotten.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> RestartRules:
        if self.max_delay_seconds < self.first_delay_seconds:
            raise ValueError(
                f"max_delay_seconds ({self.max_delay_seconds}) is shorter than "
                f"first_delay_seconds ({self.first_delay_seconds})"
            )
        return self


class ToolFilter(BaseModel):
    """Which of the server's tools the gateway offers; globs, exclude wins."""

    model_config = _STRICT

    include: Words = Field(default=("*",), description="Globs of names.")
    exclude: Words = Field(default=(), description="Likewise; these are not offered.")
    rename: dict[str, str] = Field(
        default_factory=dict,
        max_length=500,
        description="The server's own name of a tool → what clients are to call it.",
    )

    @field_validator("rename")
    @classmethod
    def _unambiguous(cls, value: dict[str, str]) -> dict[str, str]:
        check_renames(value)
        return value

    def offers(self, tool: str) -> bool:
        """Whether a tool of this name is offered."""
        return any(fnmatchcase(tool, glob) for glob in self.include) and not any(
            fnmatchcase(tool, glob) for glob in self.exclude
        )


class Manifest(BaseModel):
    """How one server is run. Variables in `env` and `headers` are kept unexpanded: see `expand`."""

    model_config = _STRICT

    name: str = Field(
        pattern=NAME_PATTERN, description="Up to 63 lower-case letters, digits and hyphens."
    )
    description: str = Field(default="", max_length=2_000, description="One line for people.")
    enabled: bool = Field(default=True, description="Whether `up` starts it.")
    entry_point: str | None = Field(
        default=None, min_length=1, description=f"A name in the group {ENTRY_POINT_GROUP}."
    )
    command: Words | None = Field(default=None, min_length=1, description="argv; stdio.")
    fastmcp: str | None = Field(
        default=None, max_length=4_000, description="FILE:OBJECT, a FastMCP server of the owner's."
    )
    url: str | None = Field(
        default=None, pattern=r"^https?://[^\s/]+", description="Streamable HTTP endpoint."
    )
    headers: dict[str, str] = Field(default_factory=dict, description="Only with url.")
    env: dict[str, str] = Field(
        default_factory=dict, description="Variables; `${NAME}` is taken from the daemon's."
    )
    secrets: dict[str, str] = Field(
        default_factory=dict,
        description="Variable → entry of the vault (hostwright secret set), opened at each start.",
    )
    guard: GuardRules = GuardRules()
    cwd: str | None = Field(default=None, description="Absolute, or from ~.")
    preload: Words = Field(
        default=(),
        description="Modules that are slow to import, to have loaded before it is started.",
    )
    era: Literal["auto", "modern", "legacy"] = Field(
        default="auto", description="Protocol revision: 2026-07-28, or the ones with initialize."
    )
    session: Literal["shared", "per-client"] = Field(
        default="shared",
        description="per-client: each client gets a session of its own, over stdio a process; for "
        "servers that keep something for their client or ask it. Not for entry_point.",
    )
    health: HealthRules = HealthRules()
    restart: RestartRules = RestartRules()
    start_timeout_seconds: float = Field(
        default=60, ge=0.1, le=3_600, description="From start to the first answered round trip."
    )
    stop_timeout_seconds: float = Field(
        default=10, ge=0.1, le=600, description="Before what is left is killed."
    )
    tools: ToolFilter = ToolFilter()
    idle_after_seconds: float | None = Field(
        default=None,
        ge=0,
        le=2_592_000,
        description="Without a call for so long, its process ends until the next call; 0: never. "
        f"Not given: {OURS_SLEEP_AFTER_SECONDS:.0f} for our own servers "
        f"({SUPERVISOR_SLEEPS_AFTER_SECONDS:.0f} for the one of the supervisor's own tools), "
        "never for others.",
    )
    background: bool = Field(
        default=False, description="It has duties between calls and is never put to sleep."
    )
    requires: OneOrMore = Field(
        default=(), description="Servers that must be ready before it starts, and go on running."
    )
    after: OneOrMore = Field(
        default=(), description="Servers that are started first; it starts even if they fail."
    )
    when: Conditions = Conditions()
    limits: Limits = Limits()
    log: LogRules = LogRules()
    canary: Canary | None = None
    wedge_after_seconds: float = Field(
        default=300,
        ge=0,
        le=86_400,
        description="A call without progress for so long is reported while the server still "
        "answers its checks; 0: never. Also how long a busy server that answers none is spared.",
    )

    @property
    def sleeps_after_seconds(self) -> float:
        """How long it must be idle to be put to sleep; 0: never."""
        if self.background or self.url is not None:
            return 0.0
        if self.idle_after_seconds is not None:
            return self.idle_after_seconds
        # What a session keeps for its client would be lost with it.
        kept = self.command is not None or self.session == "per-client"
        return 0.0 if kept else OURS_SLEEP_AFTER_SECONDS

    @property
    def folder(self) -> Path | None:
        """Where it is started; None: where the daemon was."""
        return Path(self.cwd).expanduser() if self.cwd else None

    @field_validator("secrets")
    @classmethod
    def _named_entries(cls, value: dict[str, str]) -> dict[str, str]:
        for variable, entry in value.items():
            if not _VARIABLE.match(variable):
                raise ValueError(f"{variable!r} is no name of a variable")
            if not _ENTRY.fullmatch(entry):
                raise ValueError(f"{entry!r} is no name of an entry of the vault")
        return value

    @field_validator("name")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        if value == SUPERVISOR:
            raise ValueError(f"{value!r} is the supervisor's own name")
        return value

    @field_validator("cwd")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not Path(value).expanduser().is_absolute():
            raise ValueError("is not absolute; write it from / or ~")
        return value

    @field_validator("fastmcp")
    @classmethod
    def _file_and_object(cls, value: str | None) -> str | None:
        if value is None:
            return None
        file, _, name = value.rpartition(":")
        if not file or not _MODULE.match(name) or "\0" in value:
            raise ValueError("needs FILE:OBJECT, such as ~/notes/server.py:mcp")
        if not Path(file).expanduser().is_absolute():
            raise ValueError("is not absolute; write it from / or ~")
        return value

    @field_validator("preload")
    @classmethod
    def _modules(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if bad := [name for name in value if not _MODULE.match(name)]:
            raise ValueError(f"{bad[0]!r} is no name of a module")
        return value

    @field_validator("command")
    @classmethod
    def _program(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value[0] or any("\0" in word for word in value)):
            raise ValueError("needs a program as its first word, and no NUL characters")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Manifest:
        given = [key for key in _KINDS if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"needs exactly one of {', '.join(_KINDS)}; it has {found}")
        if self.url is None and self.headers:
            raise ValueError("headers need a url")
        if self.preload and self.entry_point is None and self.fastmcp is None:
            raise ValueError("preload needs an entry_point or fastmcp; only these can be forked")
        if self.url is not None and (self.env or self.cwd or self.secrets):
            raise ValueError(
                "env, secrets and cwd have no meaning with a url; headers may hold ${secret:NAME}"
            )
        if self.entry_point is not None and self.guard != GuardRules():
            raise ValueError("guard is for third-party servers; our own declare what they do")
        if self.entry_point is not None and self.session != "shared":
            raise ValueError(
                'session = "per-client" is for third-party servers; our own keep nothing for a '
                "client, and serve all with one process"
            )
        if twice := self.env.keys() & self.secrets.keys():
            raise ValueError(f"{', '.join(sorted(twice))} stands in env and in secrets")
        return self

    @model_validator(mode="after")
    def _sensible(self) -> Manifest:
        if self.url is not None and (self.limits.any or self.idle_after_seconds):
            raise ValueError("limits and idle_after_seconds have no meaning with a url")
        if self.background and self.idle_after_seconds:
            raise ValueError("background = true and idle_after_seconds contradict each other")
        if self.name in (*self.requires, *self.after):
            raise ValueError("it cannot require, or come after, itself")
        return self

    @property
    def vault_entries(self) -> frozenset[str]:
        """The entries of the vault that a start of it needs."""
        texts = (*self.env.values(), *self.headers.values())
        found = (match for text in texts for match in _REFERENCE.finditer(text))
        named = {match["secret"] for match in found if match["secret"] and not match["escape"]}
        return frozenset(named) | frozenset(self.secrets.values())


class Fork(BaseModel, frozen=True):
    """What a program is, for whoever can start it by fork instead of executing it."""

    kind: Literal["entry_point", "file"]
    target: str = Field(description="The entry point's name, or FILE:OBJECT.")
    preload: tuple[str, ...] = Field(default=(), description="Modules to have loaded before.")


def own_manifest() -> Manifest:
    """How the supervisor's own tools are run: a server like any other, under the reserved name."""
    plain = Manifest(
        name="supervisor",
        description="The supervisor: which MCP servers run here, how they are, and their logs.",
        entry_point=SUPERVISOR,
        # It holds nothing; the daemon's end must not wait for it.
        stop_timeout_seconds=3,
        # Few calls come, and while it is awake so is what it was forked from.
        idle_after_seconds=SUPERVISOR_SLEEPS_AFTER_SECONDS,
    )
    return plain.model_copy(update={"name": SUPERVISOR})


class Expanded(BaseModel, frozen=True):
    """The values of one start. Not for logs or status: this is where the secrets are."""

    env: dict[str, str]
    headers: dict[str, str]
    secret_values: frozenset[str] = Field(description="To be masked in whatever it writes.")

    def __repr__(self) -> str:
        return f"Expanded(env={sorted(self.env)}, headers={sorted(self.headers)})"

    __str__ = __repr__


def argv_for(manifest: Manifest) -> tuple[str, ...]:
    """What is executed for a server that runs as a process."""
    if manifest.command is not None:
        return manifest.command
    if manifest.entry_point is not None:
        # -P: the folder it is started in is no place to import from.
        return (sys.executable, "-P", "-m", "hostwright_kit.run", manifest.entry_point)
    if manifest.fastmcp is not None:
        target = str(Path(manifest.fastmcp).expanduser())
        return (sys.executable, "-P", "-m", "hostwright_kit.run_file", target)
    raise HostError(
        f"The server {manifest.name} is remote ({manifest.url}); there is no process to start.",
        fix="Reach it through its url.",
        code="remote_server",
    )


def fork_for(manifest: Manifest) -> Fork | None:
    """The same for a start by fork; None for what is not Python of this very environment."""
    if manifest.entry_point is not None:
        return Fork(kind="entry_point", target=manifest.entry_point, preload=manifest.preload)
    if manifest.fastmcp is not None:
        target = str(Path(manifest.fastmcp).expanduser())
        return Fork(kind="file", target=target, preload=manifest.preload)
    return None


def expand(
    manifest: Manifest, environ: Mapping[str, str], vault: Mapping[str, str] | None = None
) -> Expanded:
    """`env`, `secrets` and `headers` with their references filled in; all that miss in one error.

    `vault` holds what was opened for this start; None is for a check that opens nothing.
    """
    missing: list[str] = []
    masked: set[str] = set()

    def opened(entry: str, key: str) -> str:
        if vault is None:
            return ""
        if entry not in vault:
            missing.append(f"${{secret:{entry}}} in {key}")
            return ""
        masked.update(_forms(vault[entry]))
        return vault[entry]

    def value_of(key: str, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if match["escape"]:
                return match[0][1:]
            if match["secret"] is not None:
                return opened(match["secret"], key)
            if not _VARIABLE.match(name) or (name not in environ and default is None):
                missing.append(f"${{{name}}} in {key}")
                return ""
            found = environ[name] if name in environ else str(default)
            if is_secret_name(name) and len(found) >= _MASKED_CHARS:
                masked.add(found)
            return found

        whole = _REFERENCE.sub(replace, text)
        if is_secret_name(key) and len(whole) >= _MASKED_CHARS:
            masked.add(whole)
        return whole

    env = {key: value_of(key, text) for key, text in manifest.env.items()}
    env |= {key: opened(entry, "secrets") for key, entry in manifest.secrets.items()}
    headers = {key: value_of(key, text) for key, text in manifest.headers.items()}
    if missing:
        raise HostError(
            f"The server {manifest.name} needs variables that are not set: {', '.join(missing)}.",
            fix="Set them in the environment of the daemon (export NAME=… before `hostwright up`), "
            "or give a default with ${NAME:-text}.",
            code="variable_missing",
        )
    return Expanded(env=env, headers=headers, secret_values=frozenset(masked))


def _forms(secret: str) -> set[str]:
    """How a secret may stand in a line of a log: whole, line by line, and as JSON writes it."""
    lines = {line for line in secret.splitlines() if len(line) >= _MASKED_CHARS}
    forms = {secret, json.dumps(secret)[1:-1], *lines}
    return {form for form in forms if len(form) >= MIN_VALUE_CHARS}


def executable_for(program: str, search: str, folder: Path | None) -> str:
    """The file that `program` names: on the `search` path, or relative to `folder`."""
    local = folder is not None and "/" in program
    found = shutil.which(str(folder / program) if folder and local else program, path=search)
    if found is None:
        raise HostError(
            f"The program {program!r} was not found, or is not executable.",
            fix="Install it, or write its full path in the manifest's command.",
            code="program_missing",
        )
    return str(Path(found).absolute())
