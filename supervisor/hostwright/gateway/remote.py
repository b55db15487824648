"""A link to a server that runs elsewhere, over streamable HTTP.

The official client does transport, eras and sessions; the gateway's identity is what the other
side sees, because it has no reason to believe who we say is calling. It is imported when the first
such server is met: few suites have one, and it brings a whole MCP implementation along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx2
import mcp_types as mcp
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from mcp.client.subscriptions import SubscriptionLost, listen
from mcp.shared.exceptions import MCPError
from msgspec import Raw
from pydantic import BaseModel, ConfigDict, ValidationError

from hostwright.gateway import codec
from hostwright.gateway.asker import LEGACY, SUBSCRIPTION_META, Asker
from hostwright.gateway.asks import LinkLostError
from hostwright.gateway.base_link import BaseLink, Done, Notified, Party, Progress
from hostwright.gateway.codec import Fields, RpcError
from hostwright.gateway.logs import LOG_META, MESSAGE
from hostwright.gateway.questions import Question, Whom
from hostwright.gateway.upstream import ACKNOWLEDGED, LISTEN
from hostwright.keeper.server import Remote

NOTICES = (
    mcp.ToolListChangedNotification,
    mcp.PromptListChangedNotification,
    mcp.ResourceListChangedNotification,
    mcp.ResourceUpdatedNotification,
)


class _Raw(BaseModel):
    """A result of any shape, taken as it is."""

    model_config = ConfigDict(extra="allow")


Ask = Callable[[str, BaseModel | None], Awaitable[Any]]


class _Client(Client[Any]):
    """FastMCP's client, with what it would decide for a user left to the gateway.

    By itself it asks for log messages with each request, and makes Python types of what an
    elicitation wants to know.
    """

    def __init__(
        self, transport: StreamableHttpTransport, can: Mapping[str, object], ask: Ask, **more: Any
    ) -> None:
        super().__init__(transport, **more)
        self._session_kwargs["log_level"] = None

        async def elicit(context: object, params: mcp.ElicitRequestParams) -> Any:
            return await ask("elicitation/create", params)

        async def sample(context: object, params: mcp.CreateMessageRequestParams) -> Any:
            return await ask("sampling/createMessage", params)

        async def roots(context: object) -> Any:
            return await ask("roots/list", None)

        if "elicitation" in can:
            self._session_kwargs["elicitation_callback"] = elicit
        if "sampling" in can:
            self._session_kwargs["sampling_callback"] = sample
            self._session_kwargs["sampling_capabilities"] = mcp.SamplingCapability.model_validate(
                can["sampling"]
            )
        if "roots" in can:
            self._session_kwargs["list_roots_callback"] = roots


_ANSWERS: Mapping[str, Any] = {
    "elicitation/create": mcp.ElicitResult,
    "sampling/createMessage": mcp.CreateMessageResult,
    "roots/list": mcp.ListRootsResult,
}


class RemoteLink(BaseLink):
    """The same questions as `Link`, put over HTTP."""

    def __init__(
        self,
        remote: Remote,
        notified: Notified = lambda _method, _params: None,
        whom: Whom = "whoever calls",
    ) -> None:
        super().__init__(remote.name, whom)
        self.legacy = False
        """Whether it was initialized in the handshake era."""
        self._notified = notified
        self._client = _Client(
            StreamableHttpTransport(remote.url, headers=dict(remote.headers)),
            self.desk.declared,
            self._question,
            log_handler=self._take_log,
            message_handler=self._take_notice,
        )
        self._open = AsyncExitStack()
        self._asking: dict[int, asyncio.Task[None]] = {}

    @property
    def alive(self) -> bool:
        """Whether the connection is still thought to hold."""
        return self._client.is_connected()

    async def open(self) -> dict[str, Any]:
        """Connect and negotiate; returns what the server declared."""
        await self._open.enter_async_context(self._client)
        self.legacy = self._client.session.protocol_version in LEGACY
        declared = self._client.session.server_capabilities
        return declared.model_dump(by_alias=True, exclude_none=True) if declared else {}

    async def check(self) -> None:
        """One round trip that asks for nothing."""
        try:
            await self.request("ping", {})
        except RpcError as error:
            # The new era has no ping; that it says so is as good an answer.
            if error.code != codec.METHOD_NOT_FOUND:
                raise

    def send(
        self,
        method: str,
        params: Fields,
        asker: Asker,
        done: Done,
        progress: Progress | None = None,
        party: Party | None = None,
    ) -> int:
        """Ask; returns what `cancel` takes. Raises when the question cannot be put."""
        if not self.alive:
            raise LinkLostError(self.server)
        number = self._admit(done, progress, asker, party)
        plain = {key: codec.value(raw) for key, raw in params.items() if key != "_meta"}
        if not self.legacy and (level := self._level_for(number)) is not None:
            plain["_meta"] = {LOG_META: level}
        task = asyncio.create_task(self._ask(number, method, plain, progress))
        self._asking[number] = task
        self._began(party)
        task.add_done_callback(lambda _: self._asking.pop(number, None))
        return number

    def cancel(self, number: int) -> None:
        """Nobody waits for that answer any longer."""
        self._pending.pop(number, None)
        if (task := self._asking.get(number)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Hang up."""
        self.desk.close()
        for task in list(self._asking.values()):
            task.cancel()
        for number in list(self._pending):
            self._settle(number, None, LinkLostError(self.server))
        await self._open.aclose()

    async def roots_changed(self) -> None:
        """Tell the server that its client's folders changed."""
        await self._client.send_roots_list_changed()

    async def _question(self, method: str, params: BaseModel | None) -> Any:
        """A server of the handshake era asks something."""
        waiting: asyncio.Future[Raw | RpcError] = asyncio.get_running_loop().create_future()

        def reply(what: Raw | RpcError) -> None:
            if not waiting.done():
                waiting.set_result(what)

        said = params.model_dump(mode="json", by_alias=True, exclude_none=True) if params else {}
        question = Question(method, Raw(codec.encode(said)), reply)
        self.desk.take(question)
        try:
            found = await waiting
        finally:
            question.withdraw()
        if isinstance(found, RpcError):
            return mcp.ErrorData(code=found.code, message=found.message)
        try:
            return _ANSWERS[method].model_validate(codec.value(found))
        except ValidationError:
            text = f"The client answered {method} with what the protocol does not allow."
            return mcp.ErrorData(code=codec.INTERNAL_ERROR, message=text)

    async def _take_log(self, message: mcp.LoggingMessageNotificationParams) -> None:
        said = message.model_dump(mode="json", by_alias=True, exclude_none=True)
        params = Raw(codec.encode(said))
        if self.legacy:
            self._notified(MESSAGE, params)
        else:
            self._logged(params)

    async def _take_notice(self, message: object) -> None:
        """What it tells on its own, in either era; the client hands errors over here as well."""
        if isinstance(message, NOTICES):
            said = message.model_dump(mode="json", by_alias=True, exclude_none=True)
            self._notified(message.method, Raw(codec.encode(said.get("params") or {})))

    async def _listen(self, number: int, wanted: Mapping[str, Any]) -> None:
        """A `subscriptions/listen`: the client knows its id only, the gateway the number only."""
        asked = mcp.SubscriptionFilter.model_validate(wanted)
        try:
            async with listen(
                self._client.session,
                tools_list_changed=bool(asked.tools_list_changed),
                prompts_list_changed=bool(asked.prompts_list_changed),
                resources_list_changed=bool(asked.resources_list_changed),
                resource_subscriptions=asked.resource_subscriptions or (),
            ) as stream:
                begun = {"_meta": {SUBSCRIPTION_META: number}}
                self._notified(ACKNOWLEDGED, Raw(codec.encode(begun)))
                async for _ in stream:
                    """They come to `_take_notice` as well, which serves both eras."""
        except SubscriptionLost:
            self._settle(number, None, LinkLostError(self.server))
        else:
            self._settle(number, Raw(b"{}"), None)

    async def _ask(
        self, number: int, method: str, params: Mapping[str, Any], told: Progress | None
    ) -> None:
        async def report(progress: float, total: float | None, message: str | None) -> None:
            said = {"progress": progress, "total": total, "message": message}
            if told is not None:
                told({key: Raw(codec.encode(one)) for key, one in said.items()})

        # Parametrized: the bare class would keep only the params that it knows, that is none.
        request = mcp.Request[dict[str, Any], str](method=method, params=dict(params))
        try:
            if method == LISTEN:
                await self._listen(number, params["notifications"])
                return
            answer = await self._client.session.send_request(
                request, _Raw, progress_callback=report if told is not None else None
            )
        except MCPError as error:
            fault = error.error
            data = None if fault.data is None else codec.encode(fault.data)
            self._settle(number, None, RpcError(fault.code, fault.message, data))
        except (httpx2.HTTPError, RuntimeError, anyio.ClosedResourceError):
            self._settle(number, None, LinkLostError(self.server))
        except (ValidationError, ValueError):
            text = f"The server {self.server} answered with what the protocol does not allow."
            self._settle(number, None, RpcError(codec.INTERNAL_ERROR, text))
        else:
            self._settle(number, Raw(codec.encode(answer.model_dump())), None)
