"""Standing rules: what the owner says "always" to, written into policy.toml as text to be read.

The owner's file is kept byte for byte; the rule is put at its end, with who said so and when. What
would come out is checked before anything is written, and the change is on record before it holds.
A rule covers exactly what was asked: the caller by name, the tool, each argument, the folder. Where
arguments were masked (a secret among them) it names the digest of the call instead.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import pwd
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import tomlkit
from pydantic import BaseModel, Field

from hostwright.cli.output import visible
from hostwright_kit.approvals import Approval
from hostwright_kit.atomic import write_private
from hostwright_kit.caller import Caller
from hostwright_kit.canonical import digest
from hostwright_kit.config import ConfigError
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.paths import Paths
from hostwright_kit.policy_file import POLICY_FILE, parse_policy

LONGEST_SECONDS = 366 * 86_400
MAX_SPELT_CHARS = 4_000
MAX_NOTE_CHARS = 200

Effect = Literal["always", "deny"]


class Standing(BaseModel, frozen=True):
    """A rule that was written."""

    file: Path
    line: int
    effect: Effect
    until: datetime
    exact: bool = Field(description="Whether it names the arguments; else the call's digest.")


def write_standing_rule(
    paths: Paths, ledger: Ledger, approval: Approval, effect: Effect, seconds: int
) -> Standing:
    """Put the rule for this call at the end of policy.toml. Blocking."""
    if not 0 < seconds <= LONGEST_SECONDS:
        raise HostError(
            "A standing rule lasts at most a year.",
            fix="Give for example --always-for 7d.",
            code="bad_duration",
        )
    file = (paths.config_dir / POLICY_FILE).resolve()
    with _locked(paths.state_dir / "policy.lock"):
        before, mode = _read(file)
        now = datetime.now(UTC).replace(microsecond=0)
        until = now + timedelta(seconds=seconds)
        rule = _rule(approval, effect, until)
        text = _joined(before, _rendered(rule, approval, now, until))
        _check(before, text, file)
        line = text.count("\n", 0, text.rindex("[[rules]]")) + 1
        ledger.append(
            Entry(
                type="owner.policy",
                caller=approval.caller,
                server=approval.server,
                tool=approval.tool,
                outcome="ok",
                detail={
                    "approval": approval.id,
                    "effect": effect,
                    "until": until.isoformat(),
                    "file": f"{file}:{line}",
                    "by": f"uid {os.getuid()}",
                },
            )
        )
        try:
            write_private(file, text.encode(), mode=mode)
        except OSError as error:
            raise HostError(
                f"{file} cannot be written: {error.strerror}. The rules are as they were.",
                fix="Free disk space or mend the permissions of its folder.",
                code="policy_unwritable",
            ) from error
    return Standing(file=file, line=line, effect=effect, until=until, exact="call" not in rule)


def _rule(approval: Approval, effect: Effect, until: datetime) -> dict[str, Any]:
    bound = json.loads(approval.bound)
    if not bound or not approval.call:
        raise HostError(
            f"The approval {approval.id} was made by an older version and says too little.",
            fix="Let the agent make the call again, and decide the new request.",
            code="approval_too_old",
        )
    rule: dict[str, Any] = {
        "effect": effect,
        "caller": glob.escape(Caller(**bound).names[0]),
        "server": glob.escape(approval.server),
        "tool": glob.escape(approval.tool),
        "folder": approval.folder,
        "until": until,
    }
    arguments = json.loads(approval.arguments)
    conditions = _conditions(arguments)
    if conditions is None or not _is_whole(approval, bound, arguments):
        return {**rule, "call": approval.call}
    if effect == "always":
        rule["exact"] = True
    return {**rule, "arguments": conditions} if conditions else rule


def _is_whole(approval: Approval, bound: Mapping[str, Any], arguments: Any) -> bool:
    """Whether these are the arguments themselves, nothing masked and nothing cut."""
    made = {
        "caller": bound,
        "server": approval.server,
        "tool": approval.tool,
        "arguments": arguments,
        "folder": approval.folder,
    }
    return digest(made) == approval.call


def _conditions(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Each argument as a condition; None when TOML cannot say it, or nobody would read it."""
    if len(json.dumps(arguments)) > MAX_SPELT_CHARS:
        return None
    found: dict[str, Any] = {}
    for key, value in arguments.items():
        if '"' in key or not key.isprintable() or not _spellable(value):
            return None
        plain = key.replace("_", "").replace("-", "").isalnum()
        path = key if plain else f'["{key}"]'
        found[path] = {"given": False} if value is None else {"equals": value}
    return found


def _spellable(value: Any, *, inner: bool = False) -> bool:
    if isinstance(value, dict):
        return all(_spellable(one, inner=True) for one in value.values())
    if isinstance(value, list):
        return all(_spellable(one, inner=True) for one in value)
    return value is not None or not inner


def _rendered(rule: Mapping[str, Any], approval: Approval, now: datetime, until: datetime) -> str:
    said = "Always" if rule["effect"] == "always" else "Never"
    shown = visible(approval.arguments)
    if len(shown) > MAX_NOTE_CHARS:
        shown = f"{shown[:MAX_NOTE_CHARS]}…"
    try:
        who = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        who = f"uid {os.getuid()}"
    call = visible(f"{approval.server}.{approval.tool}")
    lines = [
        f"# {said}, until {until:%Y-%m-%d %H:%M} UTC: said with the PIN by {visible(who)} on "
        f"{now:%Y-%m-%d %H:%M} UTC,",
        f"# for request {approval.id} of {visible(approval.caller)}: {call} {shown}",
    ]
    conditions = rule.get("arguments", {})
    table = tomlkit.table()
    for key, value in rule.items():
        if key != "arguments":
            table.add(key, value)
    if conditions:
        inner = tomlkit.table()
        for path, condition in conditions.items():
            inline = tomlkit.inline_table()
            inline.update(condition)
            inner.add(path, inline)
        table.add("arguments", inner)
    tables = tomlkit.aot()
    tables.append(table)
    document = tomlkit.document()
    document.add("rules", tables)
    return "\n".join([*lines, tomlkit.dumps(document)])


def _joined(before: str, rule: str) -> str:
    if before and not before.endswith("\n"):
        before += "\n"
    return f"{before}\n{rule}" if before.strip() else rule


def _check(before: str, after: str, file: Path) -> None:
    """That the file was sound, and is with the new rule; raises otherwise, nothing is written."""
    was, becomes = parse_policy(before, file), parse_policy(after, file)
    if was.problems:
        raise ConfigError(was.problems)
    if becomes.problems or len(becomes.content.rules) != len(was.content.rules) + 1:
        raise HostError(
            f"{file} cannot take a further rule at its end"
            f"{': ' + str(becomes.problems[0].message) if becomes.problems else ''}.",
            fix="Write its rules as [[rules]] tables, not as rules = [...]. Nothing was changed.",
            code="policy_unwritable",
        )


def _read(file: Path) -> tuple[str, int]:
    try:
        return file.read_text(encoding="utf-8"), stat.S_IMODE(file.stat().st_mode)
    except FileNotFoundError:
        return "", 0o600
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(
            f"{file} cannot be read: {error}.",
            fix="Mend it or its permissions; nothing was changed.",
            code="policy_unreadable",
        ) from error


@contextmanager
def _locked(file: Path) -> Generator[None]:
    """One writer at a time."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
