"""What is exported, as plain data: the common ground between manifests and formats."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError


class Need(BaseModel, frozen=True):
    """An environment variable that must be given where the export runs; never its value."""

    name: str
    default: str | None = Field(default=None, description="Only when it is plainly no secret.")
    secret: bool = True
    why: str = Field(description="Which setting of which server wants it.")


class Setting(BaseModel, frozen=True):
    """One entry of a manifest's `env` or `headers`."""

    key: str
    template: str = Field(description="With ${NAME} for each need; otherwise plainly no secret.")
    needs: tuple[Need, ...] = ()


class Distribution(BaseModel, frozen=True):
    """The installed package that a server of ours comes from."""

    name: str
    version: str
    script: str = Field(description="The command that it installs.")
    target: str = Field(description="What that command calls, as MODULE:FUNCTION.")
    summary: str = ""
    license: str = ""


class Server(BaseModel, frozen=True):
    """One server. Exactly one of distribution, command and url is set."""

    name: str
    description: str
    distribution: Distribution | None = None
    command: tuple[str, ...] | None = None
    url: str | None = None
    env: tuple[Setting, ...] = ()
    headers: tuple[Setting, ...] = ()
    cwd: str | None = None
    manifest: str = Field(description="TOML, with references in place of what may be secret.")

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it wants to be given, once each."""
        return unique(need for one in (*self.env, *self.headers) for need in one.needs)


class LeftOut(BaseModel, frozen=True):
    """A server that the format cannot carry, or that must not be exported."""

    name: str
    why: str


class Suite(BaseModel, frozen=True):
    """Everything that can be exported from this installation."""

    servers: tuple[Server, ...]
    left_out: tuple[LeftOut, ...] = ()
    not_wanted: tuple[str, ...] = Field(
        default=(), description="Servers of the suite that were not named."
    )
    named: bool = Field(default=False, description="Whether the owner named the servers.")
    version: str
    program: Path = Field(description="This installation's `hostwright`.")
    folders: dict[str, str] = Field(
        default_factory=dict, description="Variables that move this installation's folders."
    )
    home: Path = Field(description="The owner's home.")
    in_a_home: bool = Field(
        default=False, description="Whether the program, or the Python it runs on, is in a home."
    )
    port: int

    @property
    def needs(self) -> tuple[Need, ...]:
        """What all of its servers want to be given, once each."""
        return unique(need for server in self.servers for need in server.needs)


class Options(BaseModel, frozen=True):
    """What can be chosen."""

    user: bool = Field(default=False, description="systemd: of the user's own manager.")
    strict: bool = Field(default=False, description="systemd: closed off from the machine.")
    http: str | None = Field(default=None, description="Single servers: HOST:PORT, not a socket.")
    namespace: str = Field(default="dev.hostwright", description="Registry: before the slash.")
    image: str | None = Field(default=None, description="Compose, Kubernetes: the image's name.")


class File(BaseModel, frozen=True):
    """One file of an export; its path is relative to the folder that it is written to."""

    path: str
    text: str


class Export(BaseModel, frozen=True):
    """What comes out."""

    format: str
    files: tuple[File, ...]
    left_out: tuple[LeftOut, ...] = ()
    needs: tuple[Need, ...] = ()
    next_steps: tuple[str, ...] = ()


def unique(needs: object) -> tuple[Need, ...]:
    """The needs by name; a required one wins over one that has a default."""
    found: dict[str, Need] = {}
    for need in needs:  # type: ignore[attr-defined]
        before = found.get(need.name)
        if before is None or (before.default is not None and need.default is None):
            found[need.name] = need
    return tuple(found.values())


def split(suite: Suite, why: dict[str, str]) -> tuple[list[Server], tuple[LeftOut, ...]]:
    """The servers that a format can carry, and the others with the reason for each.

    Raises when nothing is left, or when one that was asked for by name cannot be had.
    """
    carried = [server for server in suite.servers if server.name not in why]
    refused = tuple(LeftOut(name=name, why=reason) for name, reason in why.items())
    if refused and (suite.named or not carried):
        raise HostError(
            " ".join(f"{one.name}: {one.why}" for one in refused),
            fix="Name other servers, or export another format.",
            code="not_exportable",
        )
    if not carried:
        raise HostError(
            "There is no server to export.",
            fix="`hostwright check` shows what is wrong with the manifests.",
            code="not_exportable",
        )
    return carried, (*suite.left_out, *refused)
