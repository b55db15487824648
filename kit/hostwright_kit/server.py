"""Declaring tools, and the middleware that takes each call through the guard.

    app = HostServer("system", version=…, instructions=…, runtime=runtime)

    @app.read_tool()
    def system_health() -> Health: ...

    @app.write_tool(destructive=True)
    async def shell_exec(…) -> CommandResult: ...

What a tool declares is both what the guard enforces and what its MCP annotations say, so the two
cannot drift apart. A tool that was registered past these decorators is treated as destructive and
open-world. Functions raise `HostError`; clients see an MCP error (`isError`) whose `_meta` carries
the code and the remedy.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import mcp_types as mcp
from fastmcp import FastMCP
from fastmcp.exceptions import FastMCPError, NotFoundError, ToolError
from fastmcp.server.context import Context
from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext
from fastmcp.tools.base import InputRequiredToolResult, ToolResult

from hostwright_kit.call import Call, working_folder
from hostwright_kit.caller import Caller
from hostwright_kit.check import Finding
from hostwright_kit.client_asking import ask_client, input_required
from hostwright_kit.errors import HostError
from hostwright_kit.guard import Asked, error_detail
from hostwright_kit.identity import identify
from hostwright_kit.policy import Effect
from hostwright_kit.quick_schema import Check, compiled
from hostwright_kit.redact import hiding, is_secret_name, redact_text, secret_values
from hostwright_kit.runtime import Runtime
from hostwright_kit.served import Served, ToolTraits, publish
from hostwright_kit.vouching import ERROR_META

logger = logging.getLogger(__name__)
Params = ParamSpec("Params")
Returned = TypeVar("Returned")

MAX_RESULT_BYTES = 4 * 1024 * 1024
MAX_REPORTED_FAULTS = 10


class HostFailureError(ToolError):
    """A `HostError` on its way through FastMCP; expected, so not logged as a crash."""

    def __init__(self, error: HostError) -> None:
        super().__init__(str(error), log_level=logging.DEBUG)
        self.error = error


class HostServer(FastMCP[Any]):
    """A FastMCP server every call of which goes through the guard."""

    def __init__(self, name: str, *, version: str, instructions: str, runtime: Runtime) -> None:
        super().__init__(
            name,
            instructions,
            version=version,
            mask_error_details=True,
            lifespan=_with_background,
        )
        self.runtime = runtime
        self.traits: dict[str, ToolTraits] = {}
        self.checks: list[Callable[[], Awaitable[list[Finding]]]] = []
        """What `--check` asks beyond configuration and folders."""
        self.background: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """What runs beside the calls for as long as the server serves; cancelled at its end."""
        self.add_middleware(GuardMiddleware(self))

    def read_tool(
        self, *, open_world: bool = False, in_panic: bool = False, title: str | None = None
    ) -> Callable[[Callable[Params, Returned]], Callable[Params, Returned]]:
        """Register a tool that changes nothing. `in_panic`: see `ToolTraits`."""
        traits = ToolTraits(effect=Effect.READ, open_world=open_world, in_panic=in_panic)
        return self._register(traits, title=title, idempotent=True)

    def write_tool(
        self,
        *,
        destructive: bool,
        open_world: bool = False,
        idempotent: bool = False,
        secret_names: tuple[str, ...] = (),
        read_when: str | None = None,
        overwrites: tuple[str, ...] = (),
        grave_with: tuple[str, ...] = (),
        contained_with: str | None = None,
        in_panic: bool = False,
        title: str | None = None,
    ) -> Callable[[Callable[Params, Returned]], Callable[Params, Returned]]:
        """Register a tool that changes something.

        `destructive`: it changes or ends what was there before (see `Effect`). `open_world`: it
        reaches beyond this machine or runs what may. `secret_names`: parameters never written
        down. `read_when`: the boolean parameter that makes a call a dry run. `overwrites`:
        parameters that hold paths; an approval binds what stands there. `grave_with`,
        `contained_with`, `in_panic`: see `ToolTraits`.
        """
        traits = ToolTraits(
            effect=Effect.DESTRUCTIVE if destructive else Effect.CONTAINED,
            open_world=open_world,
            secret_names=frozenset(secret_names),
            read_when=read_when,
            overwrites=overwrites,
            grave_with=grave_with,
            contained_with=contained_with,
            in_panic=in_panic,
        )
        return self._register(traits, title=title, idempotent=idempotent)

    def publish(self) -> None:
        """Tell the other processes of this installation what is served here, and where."""
        publish(
            self.runtime.paths.state_dir,
            Served(server=self.runtime.server, folder=working_folder(), tools=self.traits),
        )

    def _register(
        self, traits: ToolTraits, *, title: str | None, idempotent: bool
    ) -> Callable[[Callable[Params, Returned]], Callable[Params, Returned]]:
        def register(function: Callable[Params, Returned]) -> Callable[Params, Returned]:
            name = function.__name__
            self.traits[name] = traits
            self.tool(
                _raising_tool_errors(function),
                name=name,
                title=title,
                annotations=mcp.ToolAnnotations(
                    read_only_hint=traits.effect is Effect.READ,
                    destructive_hint=traits.effect is Effect.DESTRUCTIVE,
                    idempotent_hint=idempotent,
                    open_world_hint=traits.open_world,
                ),
            )
            return function

        return register


@asynccontextmanager
async def _with_background(app: FastMCP[Any]) -> AsyncGenerator[dict[str, Any]]:
    tasks = [asyncio.create_task(work()) for work in cast("HostServer", app).background]
    try:
        yield {}
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Schema(NamedTuple):
    """A tool's input schema."""

    quick: Check | None
    whole: Mapping[str, Any]

    def faults(self, arguments: Mapping[str, Any]) -> list[Any]:
        """All that is wrong, in the order of the arguments."""
        # What fits is let through by the quick check; few programs ever need this one.
        from jsonschema import Draft202012Validator  # noqa: PLC0415

        found = Draft202012Validator(self.whole).iter_errors(arguments)
        return sorted(found, key=lambda fault: fault.json_path)


class GuardMiddleware(Middleware):
    """Every `tools/call` on its way through `Guard.run`."""

    def __init__(self, app: HostServer) -> None:
        self._app = app
        self._schemas: dict[str, _Schema] = {}

    async def __call__(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        """As the base class, without its detour over hooks that are not used here."""
        if context.method == "tools/call" and isinstance(
            context.message, mcp.CallToolRequestParams
        ):
            return await self.on_call_tool(context, call_next)
        return await super().__call__(context, call_next)

    async def on_call_tool(
        self,
        context: MiddlewareContext[mcp.CallToolRequestParams],
        call_next: CallNext[mcp.CallToolRequestParams, ToolResult],
    ) -> ToolResult:
        ctx = context.fastmcp_context
        if ctx is None:
            raise ToolError("A call without a request context cannot be identified.")
        arguments = dict(context.message.arguments or {})
        traits = self._app.traits.get(context.message.name, ToolTraits())
        secrets = secret_values(arguments, secret_names=traits.secret_names)
        with hiding(secrets):
            return await self._guarded(context, call_next, ctx, arguments, traits, secrets)

    async def _guarded(
        self,
        context: MiddlewareContext[mcp.CallToolRequestParams],
        call_next: CallNext[mcp.CallToolRequestParams, ToolResult],
        ctx: Context,
        arguments: dict[str, Any],
        traits: ToolTraits,
        secrets: frozenset[str],
    ) -> ToolResult:
        runtime = self._app.runtime
        try:
            caller = identify(ctx, runtime)
            await self._validate(context.message.name, arguments, traits)
            call = self._call(caller, context.message.name, arguments, traits)

            async def act() -> ToolResult:
                return _bounded(await call_next(context))

            return await runtime.guard.run(
                call, act, functools.partial(ask_client, ctx, call), _failure
            )
        except Asked as asked:
            return InputRequiredToolResult(input_required(asked.approval))
        except HostFailureError as failure:
            return _error_result(failure.error, secrets)
        except HostError as error:
            return _error_result(error, secrets)
        except FastMCPError as error:
            if isinstance(error, NotFoundError) or error.__cause__ is None:
                raise
            # FastMCP has logged what the tool raised.
            return _error_result(_unexpected(context.message.name, error.__cause__), secrets)
        except Exception as error:
            logger.exception("%s failed unexpectedly", context.message.name)
            return _error_result(_unexpected(context.message.name, error), secrets)

    def _call(
        self, caller: Caller, tool: str, arguments: Mapping[str, Any], traits: ToolTraits
    ) -> Call:
        return Call(
            caller=caller,
            server=self._app.runtime.server,
            tool=tool,
            arguments=arguments,
            effect=traits.effect_of(arguments),
            open_world=traits.reaches_out(arguments),
            secret_names=traits.secret_names,
            overwrites=traits.overwrites,
            in_panic=traits.in_panic,
        )

    async def _schema(self, name: str) -> _Schema:
        """Compiled once for each tool that was declared here; others may change at any time."""
        if (known := self._schemas.get(name)) is not None:
            return known
        tool = await self._app.get_tool(name)
        if tool is None:
            raise NotFoundError(f"Unknown tool: {name!r}")
        found = _Schema(compiled(tool.parameters), tool.parameters)
        if name in self._app.traits:
            self._schemas[name] = found
        return found

    async def _validate(self, name: str, arguments: Mapping[str, Any], traits: ToolTraits) -> None:
        """Refuse bad arguments before the owner is asked and before anything is recorded."""
        schema = await self._schema(name)
        if schema.quick is not None and schema.quick(arguments):
            return
        if faults := schema.faults(arguments):
            lines = [
                _describe_fault(fault, traits.secret_names)
                for fault in faults[:MAX_REPORTED_FAULTS]
            ]
            raise HostError(
                f"The arguments of {name} are not valid: " + "; ".join(lines) + ".",
                fix="Correct them as the tool's input schema says.",
                code="bad_arguments",
            )


def _unexpected(tool: str, error: BaseException) -> HostError:
    """What the exception says is for the log: it was not written to be shown."""
    return HostError(
        f"{tool} failed unexpectedly ({type(error).__name__}).",
        fix="Do not repeat the same call; the owner finds the cause in this server's log.",
        code="internal",
    )


def _describe_fault(fault: Any, secret_names: frozenset[str]) -> str:
    # Of "one of these", where all but one allow nothing but null, that one is what was meant.
    while fault.validator == "anyOf":
        meant = [one for one in fault.context if one.schema.get("type") != "null"]
        if len(meant) != 1:
            break
        fault = meant[0]
    names = [str(part) for part in fault.absolute_path]
    path = ".".join(names)
    if any(name in secret_names or is_secret_name(name) for name in names):
        return f"{path}: is not valid"
    message = redact_text(str(fault.message)[:2000])
    if len(message) > 300:
        message = f"{message[:300]}…"
    return f"{path}: {message}" if path else message


def _raising_tool_errors(function: Callable[Params, Returned]) -> Callable[Params, Returned]:
    """The function, with `HostError` turned into an error that FastMCP lets through unmasked."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapped(*args: Params.args, **kwargs: Params.kwargs) -> Any:
            try:
                return await function(*args, **kwargs)
            except HostError as error:
                raise HostFailureError(error) from error

        return cast("Callable[Params, Returned]", wrapped)

    @functools.wraps(function)
    def wrapped_sync(*args: Params.args, **kwargs: Params.kwargs) -> Returned:
        try:
            return function(*args, **kwargs)
        except HostError as error:
            raise HostFailureError(error) from error

    return wrapped_sync


def _bounded(result: ToolResult) -> ToolResult:
    """A last bound behind the tools' own: no client survives a result without end."""
    size = sum(
        len(getattr(block, "text", None) or getattr(block, "data", None) or "")
        for block in result.content
    )
    if size > MAX_RESULT_BYTES:
        raise HostError(
            f"The result has {size} bytes, the bound is {MAX_RESULT_BYTES}.",
            fix="Ask for less at a time (limit, offset, cursor).",
            code="result_too_large",
        )
    return result


def _failure(result: ToolResult) -> str | None:
    """Why a result is a failure, if it is one."""
    if not result.is_error:
        return None
    return " ".join(getattr(block, "text", "") for block in result.content)[:2000] or "failed"


def _error_result(error: HostError, secrets: frozenset[str]) -> ToolResult:
    detail = error_detail(error, secrets)
    message, fix = detail["message"], detail["fix"]
    return ToolResult(
        content=[mcp.TextContent(type="text", text=f"{message} Fix: {fix}" if fix else message)],
        is_error=True,
        meta={ERROR_META: detail},
    )
