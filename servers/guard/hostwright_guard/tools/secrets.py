"""Tools about secrets. Names leave, values never do; a value is typed by the owner, in no call."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import mcp_types as mcp
from fastmcp.server.context import Context
from pydantic import BaseModel, Field, SecretStr

from hostwright_guard.asking_secret import Agreed, ask_to_open, can_open, value_kept
from hostwright_guard.secret_page import Page, Pages
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

    def use_here(self, work: Callable[[Vault], Found]) -> Found:
        """What `work` finds."""
        vault = open_vault(self._runtime.paths.state_dir, self._runtime.ledger)
        try:
            return work(vault)
        finally:
            vault.close()

    async def use(self, work: Callable[[Vault], Found]) -> Found:
        """The same, in a thread."""
        return await asyncio.to_thread(self.use_here, work)


def register(app: HostServer, runtime: Runtime) -> None:
    """Add the tools."""
    opener = Opener(runtime)
    _register_reading(app, opener)
    pages = Pages()

    async def close() -> None:
        pages.close()

    runtime.on_close(close)
    _register_writing(app, opener, pages, via_client=runtime.config.approval.via_client)


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


def _register_writing(app: HostServer, opener: Opener, pages: Pages, *, via_client: bool) -> None:
    @app.write_tool(destructive=False, title="Keep a new secret")
    async def secret_set(
        name: Name, ctx: Context, servers: Servers = ()
    ) -> SecretInfo | mcp.InputRequiredResult:
        """Have the owner type a new secret: on a page of this machine that the client has its user
        open; no argument holds it, and no client sees it.

        secret_pending: the page stays open for 5 minutes; the same call again waits on. Where the
        client cannot open an address, the error names the command for the owner's terminal. An
        entry that exists is changed there only.
        """
        command = f"hostwright secret set {name}"
        command += "".join(f" --server {server}" for server in servers)
        page = pages.get(name, servers)
        if page is None or not page.kept.done():
            await _refuse_old(opener, name, command)
            if not via_client or not can_open(ctx):
                raise HostError(
                    f"The value of {name} cannot be asked for over this client.",
                    fix=f"Ask the owner to run `{command}` in a terminal.",
                    code="terminal_needed",
                )
            if page is None or not page.open:

                def keep(value: SecretStr) -> SecretInfo:
                    return opener.use_here(
                        lambda vault: vault.set(name, value, servers=servers, must_be_new=True)
                    )

                page = pages.open(name, servers, keep)
            answer: Agreed | mcp.InputRequiredResult = "accept"
            if not page.agreed:
                state = digest({"secret": name, "servers": servers, "page": page.path})
                answer = await ask_to_open(ctx, page, state)
            if isinstance(answer, mcp.InputRequiredResult):
                return answer
            if answer == "decline":
                pages.forget(page)
                raise HostError(
                    f"The owner gave no value for {name}; nothing was kept.",
                    fix=f"Ask the owner to run `{command}` in a terminal, if it is needed.",
                    code="secret_not_given",
                )
            if answer == "unasked":
                raise _pending(page, command)
            page.agreed = True
        kept = await value_kept(ctx, page)
        if kept is None:
            raise _pending(page, command)
        pages.forget(page)
        return kept

    @app.write_tool(destructive=True, title="Delete a secret")
    async def secret_delete(name: Name) -> Deleted:
        """Forget a secret for good. Servers that have it keep it until they are restarted."""
        await opener.use(lambda vault: vault.delete(name))
        return Deleted(deleted=name)


async def _refuse_old(opener: Opener, name: str, command: str) -> None:
    if any(one.name == name for one in await opener.use(lambda vault: vault.list())):
        raise HostError(
            f"There is a secret {name} already; it was left as it is.",
            fix=f"Let the owner run `{command}` to replace it, or use another name.",
            code="secret_exists",
        )


def _pending(page: Page, command: str) -> HostError:
    left = max(0, math.ceil(page.until - time.monotonic()))
    return HostError(
        f"No value for {page.name} yet; the page where the owner types it is open for {left} s.",
        fix=f"Make the same call again to go on waiting, or ask the owner to run `{command}`.",
        code="secret_pending",
    )
