"""`policy.toml`: the owner's rules, read when a program starts and again whenever they change.

`/etc/hostwright/policy.toml` and `<config_dir>/policy.toml`; both count, and the rules of
config.toml's `[policy]` beside them: deny wins, so no file takes back what another forbids. The
profile is the last one that is given: config.toml, then these files, then the environment.

A change holds from the next call on, in every server, without a restart. One that is wrong changes
nothing: the rules that held go on holding, and the status says what is wrong.
"""

from __future__ import annotations

import logging
import re
import threading
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from hostwright_kit.config import SYSTEM_FILE, Problem, Settings, find_line, remedy
from hostwright_kit.paths import Paths
from hostwright_kit.policy import PolicyConfig, Profile, Rule

logger = logging.getLogger(__name__)

POLICY_FILE = "policy.toml"
MAX_BYTES = 4 * 1024 * 1024

Stamp = tuple[int, int, int] | None


class PolicyFile(BaseModel):
    """What may stand in policy.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Profile | None = None
    rules: tuple[Rule, ...] = ()


class Parsed(NamedTuple):
    """One file, read."""

    content: PolicyFile
    problems: tuple[Problem, ...]


class PolicySource:
    """The policy as it is now. Asking costs a look at two files' times; thread-safe."""

    def __init__(
        self, base: PolicyConfig, files: Sequence[Path] = (), *, profile_is_fixed: bool = False
    ) -> None:
        self._base = base
        self._files = tuple(files)
        self._fixed = profile_is_fixed
        self._lock = threading.Lock()
        self.problems: tuple[Problem, ...] = ()
        """What is wrong with the files as they are now."""
        self._stamps: tuple[Stamp, ...] = ()
        self._policy = base
        self.current()

    @classmethod
    def of(cls, base: PolicyConfig, settings: Settings, paths: Paths) -> PolicySource:
        """The files of this installation over `[policy]` of its settings."""
        fixed = any(
            layer.kind != "file" and "profile" in layer.values.get("policy", {})
            for layer in settings.layers
        )
        return cls(base, policy_files(paths), profile_is_fixed=fixed)

    def current(self) -> PolicyConfig:
        """The rules that hold."""
        stamps = tuple(_stamp(file) for file in self._files)
        if stamps == self._stamps:
            return self._policy
        with self._lock:
            if stamps != self._stamps:
                self._read(stamps)
            return self._policy

    def _read(self, stamps: tuple[Stamp, ...]) -> None:
        found = [read_policy(file) for file in self._files]
        self._stamps = stamps
        self.problems = tuple(problem for one in found for problem in one.problems)
        if self.problems:
            logger.error("policy.toml was changed and is wrong; the rules before it still hold")
            return
        profile = self._base.profile
        for one in found:
            if one.content.profile is not None and not self._fixed:
                profile = one.content.profile
        self._policy = PolicyConfig(
            profile=profile,
            rules=(*self._base.rules, *(rule for one in found for rule in one.content.rules)),
        )


def policy_files(paths: Paths) -> tuple[Path, ...]:
    """Where rules stand, the system's first; a file need not be there."""
    files = (SYSTEM_FILE.with_name(POLICY_FILE), paths.config_dir / POLICY_FILE)
    return tuple(dict.fromkeys(files))


def read_policy(file: Path) -> Parsed:
    """One file; when it is not there it says nothing."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except (FileNotFoundError, PermissionError) as error:
        # /etc/hostwright may be root's own; the owner's own file must be readable.
        if isinstance(error, FileNotFoundError) or file.parent == SYSTEM_FILE.parent:
            return Parsed(PolicyFile(), ())
        return _wrong(file, f"Cannot be read: {error.strerror}.", "Check its permissions.")
    except OSError as error:
        return _wrong(file, f"Cannot be read: {error.strerror}.", "Check the path.")
    if len(content) > MAX_BYTES:
        return _wrong(file, f"Has more than {MAX_BYTES} bytes.", "Take out rules that have ended.")
    try:
        return parse_policy(content.decode(), file)
    except UnicodeDecodeError as error:
        return _wrong(file, f"Is not UTF-8: {error.reason}.", "Save the file as UTF-8.")


def parse_policy(text: str, file: Path) -> Parsed:
    """The text of a policy file: its rules, each knowing where it stands, and all that is wrong."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        at = re.search(r"at line (\d+)", str(error))
        fix = "Correct the syntax at that place."
        return _wrong(file, f"Is not valid TOML: {error}.", fix, line=int(at[1]) if at else None)
    try:
        content = PolicyFile.model_validate(values)
    except ValidationError as error:
        problems = (
            Problem(
                source=str(file),
                line=find_line(text, item["loc"]),
                key=".".join(map(str, item["loc"])),
                message=item["msg"].removeprefix("Value error, ") + ".",
                fix=remedy(item["type"], item.get("ctx", {})),
            )
            for item in error.errors(include_url=False, include_input=False)
        )
        return Parsed(PolicyFile(), tuple(problems))
    rules = (
        rule.placed(f"{file.name}:{find_line(text, ('rules', number)) or '?'}")
        for number, rule in enumerate(content.rules)
    )
    return Parsed(content.model_copy(update={"rules": tuple(rules)}), ())


def _stamp(file: Path) -> Stamp:
    try:
        info = file.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino


def _wrong(file: Path, message: str, fix: str, *, line: int | None = None) -> Parsed:
    problem = Problem(source=str(file), line=line, key="", message=message, fix=fix)
    return Parsed(PolicyFile(), (problem,))
