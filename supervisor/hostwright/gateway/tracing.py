"""Trace context of a call (W3C): from the client on to the server, and as a span where wanted.

A client tells it in `_meta` or, over HTTP, in a header; the server hears it in `_meta`, with our
span as its parent when traces are on. What is no valid context goes no further.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.asker import MODERN
from hostwright.gateway.codec import ABSENT, Fields
from hostwright.telemetry import Span, Tracer, trace_context

if TYPE_CHECKING:
    from hostwright.gateway.catalog import Owned
    from hostwright.gateway.request import Request


def begin(tracer: Tracer, request: Request, owned: Owned) -> Span:
    """The span of a call; its context is what the server is to be told."""
    session = request.session
    return tracer.start(
        request.method,
        server=owned.server,
        target=owned.name,
        parent=trace_context(_said(request.params), request.outlet.carrier),
        transport=request.asker.origin.transport,
        protocol=MODERN if session is None else session.version,
    )


def told(params: Fields, span: Span) -> Fields:
    """The params with the span's context, for `onward`."""
    return {**params, "_meta": Raw(codec.encode(span.context))}


def onward(params: Fields) -> bytes:
    """The members of `_meta` that a server is told of the trace; most calls have none."""
    if b"traceparent" not in bytes(params.get("_meta", ABSENT)):
        return b""
    context = trace_context(_said(params))
    return codec.encode(context)[1:-1] if context else b""


def _said(params: Fields) -> dict[str, object]:
    raw = params.get("_meta", ABSENT)
    if codec.first(raw) != b"{":
        return {}
    meta = codec.fields(raw)
    return {name: codec.text(meta[name]) for name in ("traceparent", "tracestate") if name in meta}
