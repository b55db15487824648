"""What one run in a sandbox may have, and what a token may hand out.

`Limits` bound every run; `Wanted` is what one call declares; `Grant` is what a token allows. A run
gets what it declares and nothing else, and only if each grant of its token allows all of it.
Pure: paths are compared as they are given, so give them resolved (`places.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from hostwright_guard.sandbox.gate.names import parse_target
from hostwright_kit.errors import HostError

ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# They steer the loader, the interpreter or the sandbox itself.
RESERVED_NAMES = ("PATH", "HOME", "LD_")
# They say where a request ends or goes; a credential has no business in them.
RESERVED_HEADERS = frozenset(("host", "content-length", "transfer-encoding", "connection"))

Paths = tuple[Annotated[str, Field(min_length=1, max_length=4_096)], ...]
VaultName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", min_length=1, max_length=63)
]
VariableName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", min_length=1, max_length=128)
]
Domains = tuple[Annotated[str, Field(min_length=1, max_length=260)], ...]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Model):
    """How much of the machine a run may use."""

    memory_mb: int = Field(default=512, ge=16, le=1_048_576, description="All processes together.")
    cpu_percent: int = Field(default=100, ge=1, le=100_000, description="100 is one core.")
    cpu_seconds: int | None = Field(
        default=None, ge=1, le=604_800, description="Of each process; then it is ended."
    )
    processes: int = Field(default=64, ge=2, le=32_768, description="Processes and threads.")
    open_files: int = Field(default=256, ge=16, le=65_536, description="Of each process.")
    scratch_mb: int = Field(default=64, ge=1, le=65_536, description="Size of /tmp, in memory.")
    file_mb: int = Field(default=1_024, ge=1, le=1_048_576, description="Of any file it writes.")


class SecretUse(_Model):
    """A secret of the vault, and how the command gets it."""

    name: VaultName = Field(description="The vault's entry.")
    env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$",
        max_length=128,
        description="Name of an environment variable. Else: the file /run/secrets/NAME, which is "
        "harder to leak by accident.",
    )


class Injection(_Model):
    """A header that the egress gate adds, so that the sandbox never holds the secret."""

    domain: str = Field(
        min_length=1,
        max_length=260,
        description="One allowed name, or NAME:PORT where its TLS is not on 443. The command asks "
        "http://NAME/…, the gate goes on over TLS.",
    )
    entry: VaultName = Field(description="The vault's entry.")
    header: str = Field(
        default="Authorization",
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$",
        max_length=64,
        description="The header that holds it.",
    )
    prefix: str = Field(
        default="Bearer ",
        pattern=r"^[ -~]*$",
        max_length=64,
        description="Put before the value.",
    )


class Wanted(_Model):
    """What one run declares."""

    read: Paths = ()
    write: Paths = ()
    domains: Domains = ()
    vault: tuple[SecretUse, ...] = ()
    inject: tuple[Injection, ...] = ()
    limits: Limits = Limits()
    seconds: float = 30.0
    network_mb: int = 256
    requests: int = 1_000

    @property
    def bare(self) -> bool:
        """Nothing but processor time, within the limits that need no token."""
        return not (self.read or self.write or self.domains or self.vault or self.inject)


class Grant(_Model):
    """What a token allows. Everything that is not named is refused."""

    read: Paths = Field(default=(), max_length=64, description="Files and folders to read.")
    write: Paths = Field(default=(), max_length=64, description="To read and write.")
    domains: Domains = Field(
        default=(), max_length=64, description="NAME, *.NAME or NAME:PORT; TLS, and HTTP on 80."
    )
    vault: tuple[VaultName, ...] = Field(
        default=(), max_length=32, description="Vault entries that a command may be given."
    )
    inject: tuple[Injection, ...] = Field(
        default=(), max_length=16, description="Credentials that only the gate holds."
    )
    memory_mb: int = Field(default=1_024, ge=16, le=1_048_576, description="Of each run.")
    cpu_percent: int = Field(default=200, ge=1, le=100_000, description="100 is one core.")
    processes: int = Field(default=128, ge=2, le=32_768, description="Of each run.")
    seconds: float = Field(default=300.0, gt=0, le=604_800.0, description="Longest run.")
    network_mb: int = Field(
        default=256, ge=0, le=1_048_576, description="In both directions, of all runs together."
    )
    requests: int = Field(
        default=1_000, ge=0, le=10_000_000, description="Connections, of all runs together."
    )
    programs: Paths | None = Field(
        default=None, max_length=64, description="Full paths that may be run; none: any."
    )
    arguments: tuple[Annotated[str, Field(max_length=131_072)], ...] | None = Field(
        default=None, max_length=256, description="Exactly these arguments; none: any."
    )
    variables: tuple[VariableName, ...] | None = Field(
        default=None,
        max_length=64,
        description="Variables that a run may set. None: any; but where programs or arguments are "
        "fixed, none at all, because variables tell programs what else to run (BASH_ENV, …).",
    )

    @property
    def settable(self) -> tuple[str, ...] | None:
        """Variables that a run may set; None: any."""
        fixed = self.programs is not None or self.arguments is not None
        return () if self.variables is None and fixed else self.variables


def refusals(
    grant: Grant,
    wanted: Wanted,
    program: str,
    arguments: Sequence[str],
    variables: Iterable[str] = (),
) -> list[str]:
    """What of a run this grant does not allow; empty when all of it is allowed."""
    found: list[str] = []
    found += [
        f"reading {path}" for path in wanted.read if not within(path, grant.read, grant.write)
    ]
    found += [f"writing {path}" for path in wanted.write if not within(path, grant.write)]
    targets = [parse_target(one) for one in grant.domains]
    for domain in wanted.domains:
        if not any(target.covers(parse_target(domain)) for target in targets):
            found.append(f"the domain {domain}")
    found += [f"the secret {s.name}" for s in wanted.vault if s.name not in grant.vault]
    for injection in wanted.inject:
        if injection not in grant.inject:
            found.append(f"the credential {injection.entry} for {injection.domain}")
    for name, asked, most in (
        ("memory_mb", wanted.limits.memory_mb, grant.memory_mb),
        # It is memory, whether a control group counts it or not.
        ("scratch_mb", wanted.limits.scratch_mb, grant.memory_mb),
        ("cpu_percent", wanted.limits.cpu_percent, grant.cpu_percent),
        ("processes", wanted.limits.processes, grant.processes),
        ("seconds", wanted.seconds, grant.seconds),
    ):
        if asked > most:
            found.append(f"{name} {asked:g} (at most {most:g})")
    if grant.programs is not None and program not in grant.programs:
        found.append(f"the program {program}")
    if grant.arguments is not None and tuple(arguments) != grant.arguments:
        found.append("these arguments")
    if (settable := grant.settable) is not None:
        found += [f"the variable {name}" for name in variables if name not in settable]
    return found


def within(path: str, *trees: Sequence[str]) -> bool:
    """Whether a path is one of these, or beneath one."""
    place = PurePosixPath(path)
    return any(place.is_relative_to(tree) for several in trees for tree in several)


def check_injection(one: Injection) -> None:
    """Refuse what would not do what it says; raises `HostError`."""
    if parse_target(one.domain).pattern.startswith("*."):
        raise HostError(
            f"A credential is for one name, not for {one.domain}.",
            fix="Name the one server that is to have it.",
            code="bad_domain",
        )
    if one.header.lower() in RESERVED_HEADERS:
        raise HostError(
            f"{one.header} is not a header for a credential.",
            fix="Use Authorization, or the header that the service documents.",
            code="invalid_argument",
        )


def check_variable(name: str) -> None:
    """Refuse what is no name for a variable of the command; raises `HostError`."""
    if not ENVIRONMENT_NAME.fullmatch(name) or name.startswith(RESERVED_NAMES):
        raise HostError(
            f"{name[:80]!r} cannot be a variable of the command.",
            fix="Use letters, digits and underscores; PATH, HOME and LD_… are the sandbox's own.",
            code="invalid_argument",
        )
