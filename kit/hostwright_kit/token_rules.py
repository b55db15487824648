"""What the holder of one token may see and call: kept with the token, applied by the gateway.

Globs are compared with the name that clients see and with SERVER__TOOL; an exclusion wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Mode = Literal["full", "search"]
Globs = Annotated[tuple[str, ...], Field(max_length=200)]

# What every client of today takes for a tool's name.
NEW_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
SEPARATOR = "__"


class TokenRules(BaseModel):
    """All of it is optional; without rules a token sees everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    servers: Globs = ("*",)
    not_servers: Globs = ()
    tools: Globs = ("*",)
    not_tools: Globs = ()
    rename: Mapping[str, str] = Field(
        default_factory=dict, max_length=500, description="Name as clients see it → new name."
    )
    mode: Mode = Field(default="full", description="search: three tools to find all others with.")

    @field_validator("rename")
    @classmethod
    def _unambiguous(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        check_renames(value)
        return value

    @property
    def hides_nothing(self) -> bool:
        """Whether every tool of every server is shown, under whatever name."""
        hidden = self.not_servers or self.not_tools
        return not hidden and "*" in self.servers and "*" in self.tools

    def sees_server(self, server: str) -> bool:
        """Whether anything of this server is shown."""
        return _any(self.servers, server) and not _any(self.not_servers, server)

    def sees_tool(self, server: str, *names: str) -> bool:
        """Whether a tool is shown that goes by these names."""
        return (
            self.sees_server(server)
            and any(_any(self.tools, name) for name in names)
            and not any(_any(self.not_tools, name) for name in names)
        )


ALL = TokenRules()


def check_renames(renames: Mapping[str, str]) -> None:
    """Raise `ValueError` where a new name is no name, or is given twice."""
    taken: dict[str, str] = {}
    for old, new in renames.items():
        if not NEW_NAME.fullmatch(new) or SEPARATOR in new:
            raise ValueError(
                f"{new!r} is no name for a tool: 1 to 64 of A-Z, a-z, 0-9, _ and -, without "
                f"{SEPARATOR!r}, which follows a server's name"
            )
        if new in taken:
            raise ValueError(f"{taken[new]} and {old} cannot both be called {new}")
        taken[new] = old


def _any(globs: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
