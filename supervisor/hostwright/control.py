"""What the command line and the server of our own tools ask over the unix socket, and the probes.

The socket is 0600 in a 0700 folder: whoever reaches it is the owner. What changes something is on
record before it begins, unless whoever asks has put it there already (`recorded=true`: a server of
ours, whose guard has done so).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from hostwright.keeper.keeper import Keeper
from hostwright.keeper.machine import State
from hostwright.keeper.status import ActionResult
from hostwright.reloading import Reloader
from hostwright.status import DaemonStatus, Replacement
from hostwright.succession import GRACE_SECONDS, MAX_GRACE_SECONDS
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Entry, Ledger

MAX_LOG_LINES = 1_000
SETTLED = frozenset({State.READY, State.DISABLED, State.STOPPED, State.HIBERNATED})


class Controlled(Protocol):
    """The daemon, as far as it is controlled from outside."""

    keeper: Keeper
    reloader: Reloader

    async def status(self) -> DaemonStatus:
        """Everything at a glance."""
        ...

    def stop(self) -> None:
        """End."""
        ...

    def tokens_changed(self) -> None:
        """See what tokens may see now."""
        ...

    async def replace(self, grace_seconds: float) -> Replacement:
        """Make way for a new program in the same process."""
        ...


def probe_routes(
    keeper: Keeper, render: Callable[[], Coroutine[Any, Any, bytes]]
) -> Sequence[BaseRoute]:
    """Health, readiness and metrics."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        states = {one.name: one.state for one in keeper.status()}
        ready = all(state in SETTLED for state in states.values())
        shown = {name: state.value for name, state in states.items()}
        return JSONResponse({"ready": ready, "servers": shown}, 200 if ready else 503)

    async def show_metrics(_: Request) -> Response:
        text = "text/plain; version=0.0.4; charset=utf-8"
        return Response(await render(), media_type=text)

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", show_metrics),
    ]


def control_routes(daemon: Controlled, ledger: Ledger) -> Sequence[BaseRoute]:
    """Status, acts, logs, shutdown."""
    keeper = daemon.keeper
    actions: Mapping[str, Callable[[str], Coroutine[Any, Any, ActionResult]]] = {
        "start": keeper.start,
        "stop": keeper.stop,
        "restart": keeper.restart,
    }

    async def by_owner(what: str, server: str | None, work: Coroutine[Any, Any, Any]) -> Any:
        """An act of the owner at the command line, on record before it begins."""
        try:
            await ledger.append_async(Entry(type=f"owner.{what}", caller="owner", server=server))
        except HostError:
            work.close()
            raise
        return await work

    async def status(_: Request) -> Response:
        return JSONResponse((await daemon.status()).model_dump(mode="json"))

    async def act(request: Request) -> Response:
        name, action = request.path_params["name"], request.path_params["action"]
        if action not in actions:
            known = ", ".join(actions)
            raise HostError(f"There is no action {action!r}.", fix=f"Use one of: {known}.")
        work = actions[action](name)
        if request.query_params.get("recorded") == "true":
            result = await work
        else:
            result = await by_owner(f"server_{action}", name, work)
        return JSONResponse(result.model_dump(mode="json"))

    async def logs(request: Request) -> Response:
        name, wanted = request.path_params["name"], request.query_params.get("lines", "100")
        count = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 6 else 100
        lines = await keeper.tail(name, min(count, MAX_LOG_LINES))
        return JSONResponse({"server": name, "lines": lines})

    async def reload(_: Request) -> Response:
        result = await by_owner("reload", None, daemon.reloader.reload())
        return JSONResponse(result.model_dump(mode="json"))

    async def tokens(_: Request) -> Response:
        # Nothing is done here that was not done already; it is only seen sooner.
        daemon.tokens_changed()
        return JSONResponse({"seen": True})

    async def reexec(request: Request) -> Response:
        seconds = _seconds(request.query_params.get("grace_seconds", ""))
        result = await by_owner("reexec", None, daemon.replace(seconds))
        return JSONResponse(result.model_dump(mode="json"))

    async def shutdown(_: Request) -> Response:
        # Not waited for: with a full disk the owner must still be able to end everything.
        ledger.note(Entry(type="owner.shutdown", caller="owner"))
        daemon.stop()
        return JSONResponse({"stopping": True})

    return [
        Route("/control/status", answering(status)),
        Route("/control/servers/{name}/logs", answering(logs)),
        Route("/control/servers/{name}/{action}", answering(act), methods=["POST"]),
        Route("/control/reload", answering(reload), methods=["POST"]),
        Route("/control/tokens", answering(tokens), methods=["POST"]),
        Route("/control/reexec", answering(reexec), methods=["POST"]),
        Route("/control/shutdown", answering(shutdown), methods=["POST"]),
    ]


def _seconds(said: str) -> float:
    try:
        seconds = float(said or GRACE_SECONDS)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= MAX_GRACE_SECONDS:
        raise HostError(
            f"grace_seconds is from 0 to {MAX_GRACE_SECONDS:g}.", fix="Name such a number."
        )
    return seconds


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def answering(handler: Handler) -> Handler:
    """The handler, with `HostError` as an answer."""

    async def handled(request: Request) -> Response:
        try:
            return await handler(request)
        except HostError as error:
            body = {"error": {"code": error.code, "message": error.message, "fix": error.fix}}
            return JSONResponse(body, 404 if error.code == "not_found" else 409)

    return handled
