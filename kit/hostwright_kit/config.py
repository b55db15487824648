"""Configuration in layers, every error at once.

defaults → /etc/hostwright/config.toml → <config_dir>/config.toml → the file named by
`HOSTWRIGHT_CONFIG` or `--config` → environment (`HOSTWRIGHT_<TABLE>__<KEY>`) → command line.

There is deliberately no layer that is picked up from the working folder: that folder holds what
the agent works on, and what an agent can write must never become policy.

One file serves all programs: a table per concern (`[policy]`, `[approval]`, `[ledger]`) and one
per server or room (`[system]`, `[gateway]`). Each program checks the tables it knows;
`hostwright check` checks all of them and names those that nobody knows.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths
from hostwright_kit.policy import PolicyConfig

ENV_PREFIX = "HOSTWRIGHT_"
CHECKPOINT_ENTRIES = 1_000
CHECKPOINT_SECONDS = 60.0
SYSTEM_FILE = Path("/etc/hostwright/config.toml")


class Section(BaseModel):
    """Base of every table: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ApprovalConfig(Section):
    """`[approval]`: how the owner is asked."""

    via_client: bool = Field(
        default=True,
        description="Whether a prompt shown by the client (MCP elicitation) may grant a call.",
    )
    expires_minutes: int = Field(
        default=15, ge=1, le=24 * 60, description="How long a request waits and a grant lasts."
    )


class LedgerConfig(Section):
    """`[ledger]`: what is written down beyond the acts, which always are."""

    reads: Literal["log", "ledger", "both", "none"] = Field(
        default="log",
        description="Where read-only calls are recorded, not waited for: the access log (cheap, "
        "rotated, no proof), the ledger, both or nowhere.",
    )
    access_log_mb: int = Field(
        default=16, ge=1, le=10_000, description="When a file of the access log is full,"
    )
    access_logs_kept: int = Field(
        default=8, ge=1, le=10_000, description="and how many of them are kept."
    )
    checkpoint_entries: int = Field(
        default=CHECKPOINT_ENTRIES,
        ge=1,
        le=1_000_000,
        description="A checkpoint is signed this often,",
    )
    checkpoint_seconds: float = Field(
        default=CHECKPOINT_SECONDS, ge=1, le=86_400, description="and so long after an entry."
    )
    checkpoint_file: Path | None = Field(
        default=None,
        description="Copies are appended to this file; best on another disk or machine.",
    )
    checkpoint_journal: bool = Field(
        default=True, description="Copies go to the systemd journal, where there is one."
    )

    keep_entries: int = Field(
        default=1_000_000,
        ge=0,
        le=100_000_000,
        description="Older entries are moved into archive files beside the ledger; 0 for never.",
    )

    @field_validator("checkpoint_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not value.expanduser().is_absolute():
            raise ValueError("is not absolute; write it from / or ~")
        return value.expanduser() if value else None


class NotifyConfig(Section):
    """`[notify]`: how the owner hears of what waits."""

    desktop: bool = Field(default=False, description="By notify-send, on the owner's desktop.")
    webhook: str | None = Field(
        default=None, max_length=2_000, description="POST of a JSON object to this http(s) URL."
    )
    command: tuple[str, ...] = Field(
        default=(), description="A program and its arguments; the JSON object is on its stdin."
    )
    timeout_seconds: float = Field(default=5.0, ge=0.5, le=30, description="For each try.")

    @field_validator("webhook")
    @classmethod
    def _reachable(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "https://host")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is no http(s) URL")
        return value


class KitConfig(Section):
    """The tables that every server knows."""

    policy: PolicyConfig = PolicyConfig()
    approval: ApprovalConfig = ApprovalConfig()
    ledger: LedgerConfig = LedgerConfig()
    notify: NotifyConfig = NotifyConfig()


class Problem(BaseModel, frozen=True):
    """One thing wrong with the configuration, with its place and its remedy."""

    source: str = Field(description="File, or environment variable.")
    line: int | None = None
    key: str = Field(description="Dotted path of the key, empty when the file cannot be read.")
    message: str
    fix: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        key = f" {self.key}:" if self.key else ""
        return f"{place}:{key} {self.message} Fix: {self.fix}"


class ConfigError(HostError):
    """Everything that is wrong, in one error."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(
            f"{len(problems)} configuration error(s):\n" + "\n".join(f"- {p}" for p in problems),
            fix="correct the lines named above; nothing was started or changed.",
            code="config_invalid",
        )
        self.problems = tuple(problems)


class Layer(BaseModel, frozen=True):
    """Values from one source, before they are checked."""

    source: str
    values: dict[str, Any]
    kind: Literal["file", "environment", "argument"]
    text: str = ""


class Settings:
    """The merged layers; tables are checked as they are asked for."""

    def __init__(self, layers: Sequence[Layer], problems: Sequence[Problem] = ()) -> None:
        self.layers = tuple(layers)
        self.problems: list[Problem] = list(problems)
        self.values: dict[str, Any] = {}
        for layer in self.layers:
            self.values = _merge(self.values, layer.values)

    def load(self, tables: Mapping[str, type[BaseModel]]) -> dict[str, BaseModel]:
        """Check the named tables; what is wrong is added to `problems`."""
        loaded: dict[str, BaseModel] = {}
        for name, model in tables.items():
            try:
                loaded[name] = model.model_validate(self.values.get(name, {}))
            except ValidationError as error:
                self.problems.extend(self._explain(name, error))
        return loaded

    def check_unknown(self, known: Sequence[str]) -> None:
        """Report tables that no program knows."""
        told = {problem.key for problem in self.problems}
        for name in sorted(self.values.keys() - set(known) - told):
            layer = self._layer_of((name,))
            self.problems.append(
                Problem(
                    source=layer.source,
                    line=find_line(layer.text, (name,)),
                    key=name,
                    message="No server and no room knows this table.",
                    fix=f"Use one of {', '.join(sorted(known))}, or delete it.",
                )
            )

    def check_misspelt(self, names: Sequence[str]) -> None:
        """Report tables that are nearly one of `names`: `[polcy]` must not go unnoticed.

        A single server cannot tell other servers' tables from mistakes; what looks like a mistake
        in the tables that everybody shares is one.
        """
        for given in self.values.keys() - set(names):
            if meant := difflib.get_close_matches(given, names, n=1, cutoff=0.75):
                layer = self._layer_of((given,))
                self.problems.append(
                    Problem(
                        source=layer.source,
                        line=find_line(layer.text, (given,)),
                        key=given,
                        message=f"There is no table [{given}].",
                        fix=f"Did you mean [{meant[0]}]?",
                    )
                )

    def raise_problems(self) -> None:
        """Raise `ConfigError` when anything was wrong."""
        if self.problems:
            raise ConfigError(self.problems)

    def _explain(self, table: str, error: ValidationError) -> list[Problem]:
        problems: list[Problem] = []
        for item in error.errors(include_url=False, include_input=False):
            place = (table, *item["loc"])
            layer = self._layer_of(place)
            problems.append(
                Problem(
                    source=_env_name(place) if layer.kind == "environment" else layer.source,
                    line=find_line(layer.text, place),
                    key=".".join(map(str, place)),
                    message=item["msg"].removeprefix("Value error, ") + ".",
                    fix=remedy(item["type"], item.get("ctx", {})),
                )
            )
        return problems

    def _layer_of(self, place: Sequence[int | str]) -> Layer:
        """The last layer that sets this key, or the nearest table above it."""
        for depth in range(len(place), 0, -1):
            for layer in reversed(self.layers):
                if _has(layer.values, place[:depth]):
                    return layer
        return Layer(source="defaults", values={}, kind="argument")


def read_settings(
    paths: Paths,
    *,
    config_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
) -> Settings:
    """Read every layer. Files that cannot be read or parsed are problems, not exceptions."""
    env = os.environ if env is None else env
    named = config_file or (
        Path(env["HOSTWRIGHT_CONFIG"]) if env.get("HOSTWRIGHT_CONFIG") else None
    )
    layers: list[Layer] = []
    problems: list[Problem] = []
    user_file = paths.config_dir / "config.toml"
    seen: set[Path] = set()
    for file, required in ((SYSTEM_FILE, False), (user_file, False), (named, True)):
        if file is None or file in seen:
            continue
        seen.add(file)
        if required or _is_there(file):
            _read_file(file, layers, problems)
    if from_env := _from_env(env):
        layers.append(Layer(source="environment", values=from_env, kind="environment"))
    if overrides:
        layers.append(Layer(source="command line", values=dict(overrides), kind="argument"))
    return Settings(layers, problems)


def load_kit_config(settings: Settings) -> KitConfig:
    """The tables of `KitConfig`; problems stay in `settings`."""
    tables: dict[str, type[BaseModel]] = {
        "policy": PolicyConfig,
        "approval": ApprovalConfig,
        "ledger": LedgerConfig,
        "notify": NotifyConfig,
    }
    settings.check_misspelt(tuple(tables))
    return KitConfig.model_validate(settings.load(tables))


def find_line(text: str, place: Sequence[int | str]) -> int | None:
    """The line (from 1) that sets `place` in a TOML text, or the nearest table header above it.

    `tomllib` keeps no positions, so this reads headers and `key =` lines; good enough to point.
    """
    best: int | None = None
    table: tuple[str, ...] = ()
    counts: dict[tuple[str, ...], int] = {}
    wanted = tuple(map(str, place))
    best_depth = 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line):
            table = tuple(part.strip().strip("\"'") for part in header[2].split("."))
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
            table = _indexed(table, counts)
            found = table
        elif key := re.match(r"\s*([\w.\"'-]+)\s*=", line):
            found = (*table, *(part.strip("\"'") for part in key[1].split(".")))
        else:
            continue
        if found == wanted[: len(found)] and len(found) > best_depth:
            best, best_depth = number, len(found)
    return best


def _indexed(table: tuple[str, ...], counts: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    """The table, with the place of each entry of a list of tables that it is in."""
    found: tuple[str, ...] = ()
    for depth, part in enumerate(table, 1):
        found = (*found, part)
        if (count := counts.get(table[:depth])) is not None:
            found = (*found, str(count))
    return found


def _is_there(file: Path) -> bool:
    """Whether there is such a file for this user.

    When root runs an installation of its own, `/etc/hostwright` is root's private folder, and to
    everybody else there is no system-wide file.
    """
    try:
        return file.exists()
    except PermissionError:
        return False


def _read_file(file: Path, layers: list[Layer], problems: list[Problem]) -> None:
    try:
        text = file.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        message, fix = f"Cannot be read: {error.strerror}.", "Check the path and its permissions."
    except UnicodeDecodeError as error:
        message, fix = f"Is not UTF-8: {error.reason}.", "Save the file as UTF-8."
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        problems.append(
            Problem(
                source=str(file),
                line=int(line[1]) if line else None,
                key="",
                message=f"Is not valid TOML: {error}.",
                fix="Correct the syntax at that place.",
            )
        )
        return
    else:
        layers.append(Layer(source=str(file), values=values, kind="file", text=text))
        return
    problems.append(Problem(source=str(file), key="", message=message, fix=fix))


def _from_env(env: Mapping[str, str]) -> dict[str, Any]:
    """`HOSTWRIGHT_POLICY__PROFILE=observe` → {"policy": {"profile": "observe"}}."""
    values: dict[str, Any] = {}
    for name in sorted(env):
        if not name.startswith(ENV_PREFIX) or "__" not in name:
            continue
        *tables, key = name[len(ENV_PREFIX) :].lower().split("__")
        branch: dict[str, Any] = {key: _parse(env[name])}
        for table in reversed(tables):
            branch = {table: branch}
        values = _merge(values, branch)
    return values


def _parse(text: str) -> Any:
    """JSON where it is JSON (numbers, true, lists), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(cast("Mapping[str, Any]", old), cast("Mapping[str, Any]", value))
        else:
            merged[key] = value
    return merged


def _has(values: Any, place: Sequence[int | str]) -> bool:
    for part in place:
        if isinstance(values, Mapping) and part in values:
            values = cast("Mapping[Any, Any]", values)[part]
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = cast("list[Any]", values)[part]
        else:
            return False
    return True


def _env_name(place: Sequence[int | str]) -> str:
    return ENV_PREFIX + "__".join(str(part).upper() for part in place if isinstance(part, str))


def remedy(kind: str, context: Mapping[str, Any]) -> str:
    """What to do about a value that a model refused."""
    if kind == "extra_forbidden":
        return "Delete this key or correct its name; it has no effect."
    if kind == "literal_error":
        return f"Use {context.get('expected', 'one of the documented values')}."
    bounds = [f"{name} {context[name]}" for name in ("ge", "gt", "le", "lt") if name in context]
    if bounds:
        return f"Give a value with {' and '.join(bounds)}."
    return "Give a value of the documented type."
