"""`tools` and `call`: the suite's tools from the command line, over the same gateway as agents."""

from __future__ import annotations

import asyncio
import json as json_module
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import httpx2
import mcp_types as mcp
from cyclopts import Parameter
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StreamableHttpTransport
from mcp.shared.exceptions import MCPError
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.prompt import Confirm

from hostwright import __version__
from hostwright.cli.control import Control
from hostwright.cli.output import (
    cell,
    err,
    make_table,
    out,
    print_json,
    print_plain,
    visible,
)
from hostwright.manifest import SUPERVISOR
from hostwright.toolsearch.cost import Costs, costs_of
from hostwright_kit.errors import HostError
from hostwright_kit.vouching import ERROR_META

Result = TypeVar("Result")
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]


def tools(
    name: str | None = None,
    *,
    cost: Annotated[
        bool, Parameter(negative="", help="What their listing costs a model, in tokens.")
    ] = False,
    json: Json = False,
) -> None:
    """List the tools of all servers, or of one."""
    if cost:
        _print_costs(_run(_costs(name)), as_json=json)
        return
    found = _run(_list(name))
    if json:
        print_json([tool.model_dump(by_alias=True, exclude_none=True) for tool in found])
        return
    table = make_table("tool", "effect", "arguments", "what it does")
    for tool in found:
        required = set(tool.input_schema.get("required", ()))
        names = tool.input_schema.get("properties", {})
        arguments = " ".join(one if one in required else f"[{one}]" for one in names)
        summary = " ".join((tool.description or "").strip().split("\n\n", 1)[0].split())
        table.add_row(cell(tool.name), _effect(tool), cell(arguments), cell(summary))
    out.print(table)


def call(
    server: str,
    tool: str,
    *arguments: Annotated[str, Parameter(help="key=value; the value is JSON or plain text.")],
    json: Json = False,
) -> None:
    """Call one tool of one server, with progress; asks before what needs approval."""
    given = dict(parse_argument(argument) for argument in arguments)
    result = _run(_call(server, tool, given, ask=not json and sys.stdin.isatty()))
    if result.is_error:
        raise _error(result)
    if json:
        blocks = [block.model_dump(by_alias=True, exclude_none=True) for block in result.content]
        print_json(result.structured_content or {"content": blocks})
        return
    if result.structured_content is not None:
        print_json(result.structured_content)
        return
    for block in result.content:
        print_plain(getattr(block, "text", f"[{block.type}]"))


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return asyncio.run(work)
    except (MCPError, RuntimeError) as error:
        # RuntimeError is how the client library says that it could not connect.
        raise HostError(
            f"The gateway did not take the request: {error}.",
            fix="Check the server's name (hostwright status) and its log (hostwright logs NAME).",
            code="gateway_refused",
        ) from error


async def _costs(name: str | None) -> Costs:
    """Of each server as its own endpoint lists it; names of the whole are a little longer."""
    servers = [name] if name else [one.name for one in Control().status().servers]
    listed: list[tuple[str, dict[str, Any]]] = []
    for server in servers:
        found = await _list(server)
        listed += [(server, one.model_dump(by_alias=True, exclude_none=True)) for one in found]
    return costs_of(listed)


def _print_costs(costs: Costs, *, as_json: bool) -> None:
    if as_json:
        print_json(costs)
        return
    table = make_table("server", "tool", "tokens")
    for server in costs.servers:
        count = f"{server.tools} tools"
        table.add_row(cell(server.server, style="bold"), count, str(server.tokens))
        for tool in costs.tools:
            if tool.server == server.server:
                table.add_row("", cell(tool.tool), str(tool.tokens))
    out.print(table)
    out.print(f"In full: {costs.full_tokens} tokens. With search: {costs.search_tokens}.")
    out.print(f"Approximate: {costs.method}.")


async def _list(name: str | None) -> list[mcp.Tool]:
    async with _connect(name) as client:
        return await client.list_tools()


async def _call(server: str, tool: str, arguments: dict[str, Any], *, ask: bool) -> Any:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(f"{server}.{tool}", total=None)

        async def show(progress: float, total: float | None, message: str | None) -> None:
            bar.update(task, completed=progress, total=total)
            if message:
                said = visible(f"{server}.{tool}: {message}")
                bar.update(task, description=escape(said))

        async def approve(message: str, *_: Any) -> ElicitResult[Any]:
            bar.stop()
            err.print(visible(message, lines=True), markup=False)
            yes = await asyncio.to_thread(Confirm.ask, "Approve this one call?", console=err)
            return ElicitResult(action="accept", content={"approve": yes})

        async with _connect(server, approve if ask else None) as client:
            return await client.call_tool(
                tool, arguments, progress_handler=show, raise_on_error=False
            )


def _connect(name: str | None, approve: Any = None) -> Client[Any]:
    """A client of the gateway's unix socket; `approve` answers what needs approval."""
    socket = str(Control().socket)
    known = [SUPERVISOR, *(one.name for one in Control().status().servers)]
    if name is not None and name not in known:
        raise HostError(
            f"There is no server {name!r}.",
            fix=f"Known here: {', '.join(known)}. A new one needs a manifest.",
            code="not_found",
        )

    def over_socket(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
        **_: Any,
    ) -> httpx2.AsyncClient:
        way = httpx2.AsyncHTTPTransport(uds=socket)
        return httpx2.AsyncClient(transport=way, headers=headers, timeout=timeout, auth=auth)

    path = f"/mcp/{name}" if name else "/mcp"
    transport = StreamableHttpTransport(
        f"http://hostwright{path}", httpx_client_factory=over_socket
    )
    info = mcp.Implementation(name="hostwright-cli", version=__version__)
    return Client(transport, client_info=info, elicitation_handler=approve)


def parse_argument(argument: str) -> tuple[str, Any]:
    """`key=value` as it is given on the command line."""
    key, separator, text = argument.partition("=")
    if not separator or not key:
        raise HostError(
            f"{argument!r} is not key=value.",
            fix="For example limit=5, or filter='{\"port\": 80}'.",
            code="bad_argument",
        )
    try:
        return key, json_module.loads(text)
    except ValueError:
        return key, text


def _error(result: Any) -> HostError:
    detail = (result.meta or {}).get(ERROR_META)
    if isinstance(detail, dict):
        return HostError(detail["message"], fix=detail["fix"], code=detail["code"])
    text = " ".join(getattr(block, "text", "") for block in result.content)
    return HostError(text or "The tool failed without a word.", code="tool_failed")


def _effect(tool: mcp.Tool) -> str:
    hints = tool.annotations
    if hints is None:
        return "unknown"
    if hints.read_only_hint:
        return "reads"
    return "[red]destructive[/]" if hints.destructive_hint else "[yellow]changes[/]"
