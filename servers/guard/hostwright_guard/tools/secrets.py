"""Tools about secrets. Names leave, values never do; a value is typed by the owner, in no call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, TypeVar

import mcp_types as mcp
from fastmcp.server.context import Context
from pydantic import BaseModel, Field

from hostwright_guard.asking_secret import ask_value, can_ask
from hostwright_kit.canonical import digest
from hostwright_kit.errors import HostError
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer
from hostwright_kit.vault import SecretInfo, SecretTest, Vault, open_vault

Found = TypeVar("Found")

Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Letters, digits, dot, dash, underscore.",
    ),
]


Servers = Annotated[
    tuple[Annotated[str, Field(max_length=63, pattern=r"^[a-z][a-z0-9-]*$")], ...],
    Field(max_length=50, description="Who may open it; none: nobody yet."),
]


class SecretList(BaseModel, frozen=True):
    """The entries of the vault, without their values."""

    layer: str | None = Field(description="Where the vault's key is kept; none while it is empty.")
    entries: list[SecretInfo]


class SecretTests(BaseModel, frozen=True):
    """Whether each entry opens."""

    ok: bool
    entries: list[SecretTest]


class Deleted(BaseModel, frozen=True):
    """An entry that is gone."""

    deleted: str


class Opener:
    """The vault, opened for each use: a key is held no longer than it is needed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def use(self, work: Callable[[Vault], Found]) -> Found:
        """What `work` finds; in a thread."""

        def run() -> Found:
            vault = open_vault(self._runtime.paths.state_dir, self._runtime.ledger)
            try:
                return work(vault)
            finally:
                vault.close()

        return await asyncio.to_thread(run)


def register(app: HostServer, runtime: Runtime) -> None:
    """Add the tools."""
    opener = Opener(runtime)
    _register_reading(app, opener)
    _register_writing(app, opener, via_client=runtime.config.approval.via_client)


def _register_reading(app: HostServer, opener: Opener) -> None:
    @app.read_tool(title="Secrets by name")
    async def secret_list() -> SecretList:
        """The names of the secrets in the vault and which servers may open each; no values."""
        return await opener.use(
            lambda vault: SecretList(layer=vault.status().layer, entries=vault.list())
        )

    @app.read_tool(title="Whether secrets open")
    async def secret_test(
        name: Annotated[
            str | None, Field(max_length=63, description="Only this one; default: all.")
        ] = None,
    ) -> SecretTests:
        """Open the vault's entries and say which do not open, and why; shows no value."""
        found = await opener.use(lambda vault: vault.test())
        if name is not None:
            found = [one for one in found if one.name == name]
            if not found:
                raise HostError(
                    f"There is no secret {name!r}.",
                    fix="secret_list shows the names.",
                    code="not_found",
                )
        return SecretTests(ok=all(one.ok for one in found), entries=found)


def _register_writing(app: HostServer, opener: Opener, *, via_client: bool) -> None:
    @app.write_tool(destructive=False, title="Keep a new secret")
    async def secret_set(
        name: Name, ctx: Context, servers: Servers = ()
    ) -> SecretInfo | mcp.InputRequiredResult:
        """Have the owner type a new secret: the client asks its user, and no argument holds it.

        Where the client cannot ask, the error names the command for the owner's terminal. An entry
        that exists is changed there only.
        """
        command = f"hostwright secret set {name}"
        command += "".join(f" --server {server}" for server in servers)
        if any(one.name == name for one in await opener.use(lambda vault: vault.list())):
            raise HostError(
                f"There is a secret {name} already; it was left as it is.",
                fix=f"Let the owner run `{command}` to replace it, or use another name.",
                code="secret_exists",
            )
        if not via_client or not can_ask(ctx):
            raise HostError(
                f"The value of {name} cannot be asked for over this client.",
                fix=f"Ask the owner to run `{command}` in a terminal.",
                code="terminal_needed",
            )
        state = digest({"secret": name, "servers": servers})
        answer = await ask_value(ctx, name, ", ".join(servers) or "no server yet", state)
        if isinstance(answer, mcp.InputRequiredResult):
            return answer
        if answer is None:
            raise HostError(
                f"The owner gave no value for {name}; nothing was kept.",
                fix=f"Ask the owner to run `{command}` in a terminal, if it is needed.",
                code="secret_not_given",
            )
        return await opener.use(
            lambda vault: vault.set(name, answer, servers=servers, must_be_new=True)
        )

    @app.write_tool(destructive=True, title="Delete a secret")
    async def secret_delete(name: Name) -> Deleted:
        """Forget a secret for good. Servers that have it keep it until they are restarted."""
        await opener.use(lambda vault: vault.delete(name))
        return Deleted(deleted=name)
