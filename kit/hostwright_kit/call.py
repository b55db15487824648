"""One call, identified and validated: what policy judges, an approval binds, the ledger records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from hostwright_kit.approvals import Request
from hostwright_kit.caller import Caller
from hostwright_kit.canonical import digest
from hostwright_kit.overwriting import overwritten
from hostwright_kit.policy import Effect, Subject
from hostwright_kit.redact import redact, secret_values

ASKED_TEXT_CHARS = 100_000


def working_folder() -> str:
    """Where this process works: what relative paths in a call are relative to."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "(deleted)"


class Call(BaseModel, frozen=True):
    """One call, identified and validated."""

    caller: Caller
    server: str
    tool: str
    arguments: Mapping[str, Any]
    effect: Effect
    open_world: bool = False
    secret_names: frozenset[str] = frozenset()
    overwrites: tuple[str, ...] = ()
    in_panic: bool = False
    folder: str = Field(default_factory=working_folder)

    @property
    def digest(self) -> str:
        """Who, what, with exactly which arguments, from where."""
        return digest(
            {
                "caller": self.caller.bound,
                "server": self.server,
                "tool": self.tool,
                "arguments": self.arguments,
                "folder": self.folder,
            }
        )

    def request(self, reason: str, *, why: str = "") -> Request:
        """The question to the owner. Reads the files that would be overwritten: blocking."""
        found = overwritten(self.arguments, self.overwrites, self.folder)
        return Request(
            digest=digest({"call": self.digest, "overwrites": found}) if found else self.digest,
            caller=self.caller.name,
            server=self.server,
            tool=self.tool,
            arguments=self.asked_arguments,
            reason=reason,
            bound=self.caller.bound,
            folder=self.folder,
            call=self.digest,
            overwrites=found,
            why=why,
        )

    @property
    def subject(self) -> Subject:
        """The call as policy looks at it."""
        return Subject(
            caller_names=self.caller.names,
            server=self.server,
            tool=self.tool,
            effect=self.effect,
            open_world=self.open_world,
            safer=self.in_panic,
            arguments=self.arguments,
            folder=self.folder,
            digest_of=lambda: self.digest,
        )

    @property
    def shown_arguments(self) -> dict[str, Any]:
        """The arguments as the ledger keeps them."""
        return redact(self.arguments, secret_names=self.secret_names)

    @property
    def secret_values(self) -> frozenset[str]:
        """The secrets among the arguments, which no error and no log may repeat."""
        return secret_values(self.arguments, secret_names=self.secret_names)

    @property
    def asked_arguments(self) -> dict[str, Any]:
        """The arguments as the owner sees them who is to approve: as good as whole."""
        return redact(
            self.arguments,
            secret_names=self.secret_names,
            max_chars=ASKED_TEXT_CHARS,
            whole=True,
        )
