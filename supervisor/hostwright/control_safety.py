"""What the command line and the guard's server ask of the daemon to stop everything, or to go on.

Beside `control.py`, on the same socket. Each of these puts on record what it does by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, SecretStr, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from hostwright.control import answering
from hostwright.panicking import SAFETY_SERVER, Panicking
from hostwright_kit.errors import HostError
from hostwright_kit.operator_pin import OperatorPin
from hostwright_kit.panic import MAX_REASON_CHARS

Said = TypeVar("Said", bound=BaseModel)


class _PanicWanted(BaseModel, extra="forbid"):
    """Who stops everything, and why."""

    by: str = Field(min_length=1, max_length=200)
    via: Literal["tool", "terminal"]
    reason: str = Field(max_length=MAX_REASON_CHARS)
    server: str | None = None
    """Of the tool that asks: it has to answer yet."""


class _LiftWanted(BaseModel, extra="forbid"):
    """The owner's word."""

    pin: SecretStr


def safety_routes(panicking: Panicking, pin: OperatorPin) -> Sequence[BaseRoute]:
    """Panic and its end."""

    async def panic(request: Request) -> Response:
        said = await _body(request, _PanicWanted)
        result = await panicking.panic(
            by=said.by, via=said.via, reason=said.reason, answering=said.server == SAFETY_SERVER
        )
        return JSONResponse(result.model_dump(mode="json"))

    async def lift(request: Request) -> Response:
        said = await _body(request, _LiftWanted)
        result = await panicking.lift(said.pin.get_secret_value(), pin)
        return JSONResponse(result.model_dump(mode="json"))

    return [
        Route("/control/panic", answering(panic), methods=["POST"]),
        Route("/control/lift", answering(lift), methods=["POST"]),
    ]


async def _body(request: Request, model: type[Said]) -> Said:
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        what = ".".join(map(str, first["loc"]))
        raise HostError(
            f"The request is not valid: {what}: {first['msg']}.",
            fix="Use the command line or the tools.",
            code="bad_request",
        ) from None
