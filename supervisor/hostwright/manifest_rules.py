"""Tables of a manifest that the keeper obeys: when a server runs, how much it may use, what is kept
of its words, and how else its health is judged.

Models only, as strict as the manifest itself; what they mean in practice is the keeper's
(`needs`, `groups`, `logs`, `checks`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, field_validator

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


def _listed(value: Any) -> Any:
    """One word may be written without brackets; TOML has lists, the model tuples."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value  # type: ignore[arg-type]


OneOrMore = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=4_096)], ...],
    BeforeValidator(_listed),
    Field(max_length=100),
]


class Conditions(BaseModel):
    """Where the server makes sense. All must hold; examined at each start and reload."""

    model_config = STRICT

    path_exists: OneOrMore = Field(default=(), description="Files or folders; ~ is the home.")
    env_set: OneOrMore = Field(
        default=(), description="Variables of the daemon's environment that are not empty."
    )
    command_exists: OneOrMore = Field(default=(), description="Programs on the PATH.")
    os: OneOrMore = Field(default=(), description="One of these: linux, macos.")

    @field_validator("os")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [one for one in value if one not in ("linux", "macos")]:
            raise ValueError(f"{unknown[0]!r} is no system that Hostwright runs on (linux, macos)")
        return value


class Limits(BaseModel):
    """What the server and all of its descendants may use together.

    Held by a control group where the machine lets the daemon make one, else by a limit of each
    process where the system has one; status says for each which it is, or why it is not enforced.
    """

    model_config = STRICT

    memory_mb: int | None = Field(
        default=None, ge=16, le=16_777_216, description="Megabytes (2^20 bytes); killed beyond."
    )
    cpu_percent: float | None = Field(
        default=None, ge=1, le=100_000, description="100 is one processor core; slowed beyond."
    )
    processes: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Processes and threads together."
    )
    open_files: int | None = Field(
        default=None, ge=16, le=1_048_576, description="Open files of each process."
    )

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return bool(self.model_dump(exclude_none=True))


class LogRules(BaseModel):
    """What is kept of the server's stderr, as JSON lines."""

    model_config = STRICT

    file_mb: float = Field(
        default=5, ge=0.01, le=1_024, description="Size at which the file is rotated (2^20 bytes)."
    )
    keep: int = Field(default=3, ge=1, le=100, description="Rotated files that are kept.")


class PointedAt(BaseModel):
    """One value inside the result."""

    model_config = STRICT

    pointer: str = Field(
        pattern=r"^(/[^/]*)*$",
        max_length=1_000,
        description="JSON pointer (RFC 6901) into the result, as /structuredContent/state.",
    )
    equals: JsonValue = Field(description="What must stand there.")


class Canary(BaseModel):
    """A real call as a further health check; only of a tool that is annotated as read-only."""

    model_config = STRICT

    tool: str = Field(min_length=1, max_length=256, description="The server's own name of it.")
    arguments: dict[str, JsonValue] = Field(default_factory=dict, description="Of the call.")
    expect: str | PointedAt | None = Field(
        default=None,
        description="Text that the result must contain, or { pointer, equals }; without it, any "
        "result that is no error.",
    )
    interval_seconds: float = Field(
        default=60, ge=0.1, le=86_400, description="At least so long between two calls."
    )
    timeout_seconds: float = Field(default=10, ge=0.1, le=600, description="For one call.")


class GuardRules(BaseModel):
    """`[guard]`: what the owner knows of a third-party server's tools. See docs/third-party.md."""

    model_config = STRICT

    trust_annotations: bool = Field(
        default=False, description="Believe what the server says of its own tools."
    )
    tools: dict[str, Literal["read", "contained", "destructive"]] = Field(
        default_factory=dict,
        description="Effect by the tool's own name or a glob; an exact name goes before globs, "
        "and of several globs the gravest effect counts.",
    )
