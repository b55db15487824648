"""The side that clients see: one MCP endpoint per set of servers, both protocol eras.

The SDK's low-level server does sessions, eras and the shape of every answer; the handlers here
pass requests on and answers back without looking into them. A question of a server to the user
(`InputRequiredResult`) goes through as it is to a client of the new era; to a client with a
handshake session it becomes an `elicitation/create` and a second request behind it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, cast

import mcp_types as mcp
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourcesListChanged,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from hostwright import __version__
from hostwright.gateway.catalog import Catalog, Kind, Owned
from hostwright.gateway.link import Asker, Asks, LinkLostError
from hostwright.gateway.metrics import CALLS
from hostwright.gateway.sessions import AnnouncingServer, Sessions
from hostwright.guarded.pipeline import Client, Forward, Reply, ThirdPartyCall
from hostwright.policing import Policing
from hostwright.toolsearch import tools as toolsearch
from hostwright.views import View, Views
from hostwright_kit.asking import ANSWER_TIMEOUT_SECONDS
from hostwright_kit.caller import Caller, Transport
from hostwright_kit.errors import HostError
from hostwright_kit.guard import OutcomeUnknownError, error_detail
from hostwright_kit.identity import TOKEN_SCOPE
from hostwright_kit.token_rules import TokenRules

logger = logging.getLogger(__name__)

Ctx = ServerRequestContext[Any, Any]
Raw = dict[str, Any]
MAX_QUESTIONS = 5
MAX_CURSOR_DIGITS = 9
# What a client asks right after the daemon's start is not answered with half of the truth. A list
# waits less long: one slow server must not keep the others from being seen.
LIST_SECONDS = 5.0
FIND_SECONDS = 20.0
RESOURCE_NOT_FOUND = (mcp.INVALID_PARAMS, -32002)
"""The new era's code, and the one of the handshake era."""
CACHEABLE: tuple[CacheableMethod, ...] = (
    "server/discover",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "prompts/list",
)
PAGE_SIZE = 200
SERVER_UNAVAILABLE = -32000
_ANSWERS = ("inputResponses", "requestState", "arguments")
ERROR_META = "dev.hostwright/error"


class Origin(BaseModel, frozen=True):
    """What a listener knows of whoever connected to it."""

    transport: Transport
    uid: int | None = None


ORIGIN_SCOPE = "hostwright.origin"
"""Key of the ASGI scope under which an HTTP listener puts its `Origin`."""

origin: ContextVar[Origin | None] = ContextVar("hostwright_origin", default=None)
"""Set for everything that comes in over a connection that is not HTTP."""


class Backends(Protocol):
    """The servers behind an edge."""

    catalog: Catalog

    def names(self) -> Sequence[str]:
        """The servers that are offered now."""
        ...

    async def link(self, server: str) -> Asks:
        """The open link of a server; waits, bounded, while the server starts."""
        ...

    async def met(self, servers: Sequence[str], timeout_seconds: float) -> None:
        """Wait, bounded, for servers that are starting and whose offer is not known yet."""
        ...


class Edge:
    """One endpoint over the servers that `select` names."""

    def __init__(
        self,
        name: str,
        backends: Backends,
        select: Callable[[], Sequence[str]],
        policing: Policing,
    ) -> None:
        self._name = name
        self._backends = backends
        self._select = select
        self._policing = policing
        self._views: Views[Owned] = Views()
        self.bus = InMemorySubscriptionBus()
        self._sessions = Sessions()
        self._telling: set[asyncio.Future[None]] = set()
        self.server: Server[Any] = AnnouncingServer(
            name,
            version=__version__,
            instructions="Tools of this machine, under its owner's control. A call that needs "
            "the owner's approval answers with an error that says how it is given.",
            # The new era wants them said; what changes is announced, so nothing is cached blindly.
            cache_hints=dict.fromkeys(CACHEABLE, CacheHint(ttl_ms=0, scope="private")),
            on_list_tools=self._list_tools,  # type: ignore[arg-type] - the runner takes mappings
            on_call_tool=self._call_tool,  # type: ignore[arg-type]
            on_list_resources=self._list_resources,  # type: ignore[arg-type]
            on_list_resource_templates=self._list_templates,  # type: ignore[arg-type]
            on_read_resource=self._read_resource,  # type: ignore[arg-type]
            on_list_prompts=self._list_prompts,  # type: ignore[arg-type]
            on_get_prompt=self._get_prompt,  # type: ignore[arg-type]
            on_subscriptions_listen=ListenHandler(self.bus),
        )
        self.server.middleware.append(self._sessions.notice)
        # Handshake-era clients set a level first thing. Servers log to their own stderr here, so
        # there is nothing to set; refusing it would only frighten them.
        self.server.add_request_handler(
            "logging/setLevel", mcp.SetLevelRequestParams, self._set_level
        )

    def announce(self) -> None:
        """Tell clients of both eras that the offer changed."""
        task = asyncio.ensure_future(self._announce())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _announce(self) -> None:
        for event in (ToolsListChanged(), ResourcesListChanged(), PromptsListChanged()):
            await self.bus.publish(event)
        await self._sessions.tell_all()

    async def _set_level(self, ctx: Ctx, params: mcp.SetLevelRequestParams) -> mcp.EmptyResult:
        return mcp.EmptyResult()

    def _view(self, ctx: Ctx) -> View[Owned]:
        """The tools that this client sees."""
        catalog, servers = self._backends.catalog, tuple(self._select())
        asked = ctx.request.query_params.get("tools") if ctx.request is not None else None
        return self._views.view(
            catalog.listing("tools", servers),
            catalog.version,
            self._rules(ctx),
            endpoint=servers,
            mode="search" if asked == "search" else None,
            about=self._policing.about(),
        )

    def _rules(self, ctx: Ctx) -> TokenRules:
        return self._policing.token_rules(_asker(ctx).caller.token)

    async def _list_tools(self, ctx: Ctx, params: Any) -> Raw:
        await self._backends.met(self._select(), LIST_SECONDS)
        view = self._view(ctx)
        if view.mode == "search":
            return _page("tools", toolsearch.definitions(), params)
        return _page("tools", [view.entry(name) for name in view.names()], params)

    async def _list_resources(self, ctx: Ctx, params: Any) -> Raw:
        return await self._list(ctx, "resources", params)

    async def _list_templates(self, ctx: Ctx, params: Any) -> Raw:
        return await self._list(ctx, "resourceTemplates", params)

    async def _list_prompts(self, ctx: Ctx, params: Any) -> Raw:
        return await self._list(ctx, "prompts", params)

    async def _list(self, ctx: Ctx, kind: Kind, params: Any) -> Raw:
        await self._backends.met(self._select(), LIST_SECONDS)
        items = self._backends.catalog.listing(kind, self._select())
        rules = self._rules(ctx)
        return _page(kind, [item.entry for item in items if rules.sees_server(item.server)], params)

    async def _call_tool(self, ctx: Ctx, params: Any) -> Raw:
        raw = _raw(ctx)
        try:
            return await self._called(ctx, raw)
        except HostError as error:
            return _tool_error(error)

    async def _called(self, ctx: Ctx, raw: Raw) -> Raw:
        """One call by a name that this client sees, or in search mode by one of the three."""
        view, name = self._view(ctx), str(raw.get("name"))
        if view.mode == "search" and name in (toolsearch.SEARCH, toolsearch.DESCRIBE):
            await self._backends.met(self._select(), LIST_SECONDS)
            return toolsearch.answer(name, raw.get("arguments"), self._view(ctx))
        if view.mode == "search" and name == toolsearch.CALL:
            name, arguments = toolsearch.target(raw.get("arguments"), view)
            raw = {**raw, "name": name, "arguments": arguments}
        owned = view.lookup(name)
        if owned is None:
            await self._backends.met(self._select(), FIND_SECONDS)
            view = self._view(ctx)
            owned = view.lookup(name)
        if owned is None:
            if view.mode == "search":
                raise toolsearch.unknown(name, view)
            raise HostError(
                f"There is no tool {name!r} here.",
                fix="Ask tools/list for the names.",
                code="unknown_tool",
            )
        return await self._measured(ctx, owned, {**raw, "name": owned.name})

    async def _measured(self, ctx: Ctx, owned: Owned, raw: Raw) -> Raw:
        started = time.perf_counter()
        outcome = "failed"
        try:
            result = await self._guarded(ctx, owned, raw)
            outcome = "error" if result.get("isError") else "ok"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            CALLS.labels(owned.server, owned.name, outcome).observe(time.perf_counter() - started)
        return result

    async def _guarded(self, ctx: Ctx, owned: Owned, raw: Raw) -> Raw:
        """Through our guard, unless the server is ours and has its own."""
        rules = self._policing.guard_rules(owned.server)
        if rules is None:
            return await self._sent(ctx, owned, raw)
        asker = _asker(ctx)
        call = ThirdPartyCall(
            caller=asker.caller,
            server=owned.server,
            tool=owned.name,
            entry=owned.entry,
            rules=rules,
            arguments=raw.get("arguments"),
            input_responses=raw.get("inputResponses"),
            request_state=raw.get("requestState"),
        )

        async def send(forward: Forward) -> Reply:
            rest = {key: value for key, value in raw.items() if key not in _ANSWERS}
            given = {
                "inputResponses": forward.input_responses,
                "requestState": forward.request_state,
                "arguments": forward.arguments,
            }
            added = {key: value for key, value in given.items() if value is not None}
            return await self._sent(ctx, owned, {**rest, **added})

        reply = await self._policing.guard.around(call, _client(ctx, asker), send)
        return cast("Raw", reply)

    async def _sent(self, ctx: Ctx, owned: Owned, raw: Raw) -> Raw:
        try:
            result = await self._forward(ctx, owned.server, "tools/call", raw)
        except LinkLostError:
            raise _lost(owned) from None
        _check_answer(owned, result)
        return result

    async def _read_resource(self, ctx: Ctx, params: Any) -> Raw:
        raw = _raw(ctx)
        uri = str(raw.get("uri"))
        for server, asked in await self._readers(ctx, uri):
            try:
                return await self._forward_plain(
                    ctx, server, "resources/read", {**raw, "uri": asked}
                )
            except MCPError as error:
                # Not one of this server's templates; the next may know it.
                if error.error.code not in RESOURCE_NOT_FOUND:
                    raise
        raise MCPError(mcp.INVALID_PARAMS, f"Resource not found: {uri!r}", {"uri": uri})

    async def _readers(self, ctx: Ctx, uri: str) -> list[tuple[str, str]]:
        """The servers that may have a resource, each with the name that it knows it by."""
        rules = self._rules(ctx)
        if (owned := await self._owner("resources", uri)) is not None:
            return [(owned.server, owned.name)] if rules.sees_server(owned.server) else []
        found: dict[tuple[str, str], None] = {}
        for item in self._backends.catalog.listing("resourceTemplates", self._select()):
            if not rules.sees_server(item.server):
                continue
            # What stands before the first variable (RFC 6570) tells most servers apart; each judges
            # the rest itself.
            if uri.startswith(item.shown.partition("{")[0]):
                found[item.server, uri.removeprefix(item.shown.removesuffix(item.name))] = None
        return list(found)

    async def _get_prompt(self, ctx: Ctx, params: Any) -> Raw:
        raw = _raw(ctx)
        owned = await self._owner("prompts", str(raw.get("name")))
        if owned is None or not self._rules(ctx).sees_server(owned.server):
            raise MCPError(mcp.INVALID_PARAMS, f"Unknown prompt: {raw.get('name')!r}")
        return await self._forward_plain(
            ctx, owned.server, "prompts/get", {**raw, "name": owned.name}
        )

    async def _forward_plain(self, ctx: Ctx, server: str, method: str, params: Raw) -> Raw:
        """`_forward` for what has no `isError` in its result."""
        try:
            return await self._forward(ctx, server, method, params)
        except HostError as error:
            raise MCPError(SERVER_UNAVAILABLE, str(error), _detail(error)) from error

    async def _owner(self, kind: Kind, shown: str) -> Owned | None:
        catalog, servers = self._backends.catalog, self._select()
        if (owned := catalog.owner(kind, shown, servers)) is None:
            await self._backends.met(servers, FIND_SECONDS)
            owned = catalog.owner(kind, shown, servers)
        return owned

    async def _forward(self, ctx: Ctx, server: str, method: str, params: Raw) -> Raw:
        """Pass one request on, and a question of the server to the user back."""
        asker = _asker(ctx)
        modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        for _ in range(MAX_QUESTIONS):
            link = await self._backends.link(server)
            result = await link.request(
                method, params, asker=asker, progress=ctx.session.report_progress
            )
            if result.get("resultType") != "input_required" or modern:
                # A server of the handshake era does not say what the new era requires.
                return {"resultType": "complete", **result}
            params = await _ask_legacy(ctx, params, result)
        raise MCPError(
            SERVER_UNAVAILABLE, f"{server} asked more than {MAX_QUESTIONS} times in one call."
        )


async def _ask_legacy(ctx: Ctx, params: Raw, result: Mapping[str, Any]) -> Raw:
    """Put a server's questions over the client's session; the request to repeat with answers."""
    questions = cast("Mapping[str, Any]", result.get("inputRequests") or {})
    answers: Raw = {}
    for key, question in questions.items():
        if question.get("method") != "elicitation/create":
            raise MCPError(SERVER_UNAVAILABLE, f"The server asks for {question.get('method')!r}.")
        try:
            asked = mcp.ElicitRequestFormParams.model_validate(question.get("params"))
        except ValidationError as error:
            why = "The server asks a question that this client's protocol cannot carry."
            raise MCPError(SERVER_UNAVAILABLE, why) from error
        answers[key] = await _elicit(ctx, asked)
    repeated = {**params, "inputResponses": answers}
    if "requestState" in result:
        repeated["requestState"] = result["requestState"]
    return repeated


async def _elicit(ctx: Ctx, asked: mcp.ElicitRequestFormParams) -> Raw:
    """One question over the session. No answer in time counts as a closed prompt."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            answer = await ctx.session.elicit_form(
                message=asked.message,
                requested_schema=asked.requested_schema,
                related_request_id=ctx.request_id,
            )
    except (TimeoutError, MCPError, ValidationError) as error:
        logger.info("a question was not answered by the client: %s", error)
        return {"action": "cancel"}
    return answer.model_dump(by_alias=True, mode="json", exclude_none=True)


def _asker(ctx: Ctx) -> Asker:
    """Who is calling, from what the listener, the token and the session say."""
    scope = ctx.request.scope if ctx.request is not None else {}
    came = scope.get(ORIGIN_SCOPE) or origin.get() or Origin(transport="http")
    token = scope.get(TOKEN_SCOPE)
    params = ctx.session.client_params
    capabilities = ctx.session.client_capabilities
    caller = Caller(
        client=_plain(params.client_info.name, 200) if params else "unknown",
        version=_plain(params.client_info.version, 100) if params else "",
        uid=came.uid,
        transport=came.transport,
        token=token,
        via_gateway=True,
    )
    declared = (
        capabilities.model_dump(by_alias=True, mode="json", exclude_none=True)
        if capabilities
        else {}
    )
    return Asker(caller, declared)


def _plain(text: str, limit: int) -> str:
    """A stranger's word about itself, fit for the owner's prompt: no line breaks, no controls."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:limit])


def _client(ctx: Ctx, asker: Asker) -> Client:
    """How this client can be asked."""
    said = asker.capabilities.get("elicitation")
    form = isinstance(said, dict) and (not said or "form" in said)
    modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS

    async def elicit(params: Mapping[str, Any]) -> Raw:
        return await _elicit(ctx, mcp.ElicitRequestFormParams.model_validate(params))

    return Client(modern=modern, can_elicit=form, elicit=None if modern else elicit)


def _page(kind: Kind, entries: Sequence[Raw], params: Any) -> Raw:
    start = _position(getattr(params, "cursor", None), len(entries))
    page: Raw = {kind: list(entries[start : start + PAGE_SIZE]), "resultType": "complete"}
    more = start + PAGE_SIZE < len(entries)
    return {**page, "nextCursor": str(start + PAGE_SIZE)} if more else page


def _raw(ctx: Ctx) -> Raw:
    return dict(ctx.params or {})


def _position(cursor: str | None, size: int) -> int:
    if cursor is None:
        return 0
    ours = cursor.isascii() and cursor.isdigit() and len(cursor) <= MAX_CURSOR_DIGITS
    if not ours or int(cursor) > size:
        raise MCPError(mcp.INVALID_PARAMS, f"The cursor {cursor[:40]!r} is not one of ours.")
    return int(cursor)


def _lost(owned: Owned) -> OutcomeUnknownError:
    read_only = (owned.entry.get("annotations") or {}).get("readOnlyHint") is True
    if read_only:
        fix = "It only reads: call it again, the server is being restarted."
    else:
        fix = "It may have taken effect: look at receipt_list (or the ledger) before repeating it."
    return OutcomeUnknownError(
        f"The server {owned.server} ended while {owned.name} was running.",
        fix=fix,
        code="server_ended",
    )


def _check_answer(owned: Owned, result: Mapping[str, Any]) -> None:
    """The SDK lets an answer without content through to clients of the new era."""
    if result["resultType"] == "complete" and not isinstance(result.get("content"), list):
        raise HostError(
            f"The server {owned.server} answered {owned.name} with something invalid.",
            fix="It is a fault of that server; look at its documentation and version.",
            code="bad_answer",
        )


def _tool_error(error: HostError) -> Raw:
    """An error that agents read: a result with `isError`, like those of the servers."""
    return {
        "resultType": "complete",
        "content": [{"type": "text", "text": str(error)}],
        "isError": True,
        "_meta": {ERROR_META: _detail(error)},
    }


def _detail(error: HostError) -> Mapping[str, str]:
    return error_detail(error)
