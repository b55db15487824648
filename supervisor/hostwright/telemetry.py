"""Traces of calls through the gateway, by OpenTelemetry; off unless configured.

On with `[telemetry] otlp_endpoint` or the standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`), which also say the rest: headers, sampling, limits. Needs the
extra `hostwright[otel]`; off, none of it is imported and the gateway holds no tracer at all.

One span of kind SERVER per call: its method and tool, how long, how it ended. Neither arguments nor
results nor who called. A caller's trace (W3C Trace Context in `_meta`, or else in HTTP's headers)
is continued, and the span is passed on to the server in `_meta`.

Attributes are those of https://github.com/open-telemetry/semantic-conventions-genai (MCP).
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from hostwright import __version__
from hostwright_kit.config import Section

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

logger = logging.getLogger(__name__)

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_SECONDS = 3.0
MAX_STATE_CHARS = 512
# https://www.w3.org/TR/trace-context/#traceparent-header; ff is the one forbidden version.
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = re.compile(r"[\x20-\x7e]{1,512}")


class TelemetrySettings(Section):
    """`[telemetry]`: where traces go."""

    otlp_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="A collector's OTLP/HTTP address, http://127.0.0.1:4318; traces go to "
        "/v1/traces below it. Secrets belong into OTEL_EXPORTER_OTLP_HEADERS.",
    )


def trace_context(*carriers: Mapping[str, object] | None) -> dict[str, str]:
    """`traceparent` and `tracestate` of the first carrier that has a valid parent.

    What is not valid is dropped: a stranger wrote it, and it would travel on to other servers.
    """
    for carrier in carriers:
        parent = carrier.get("traceparent") if carrier else None
        if carrier and isinstance(parent, str) and _PARENT.fullmatch(parent):
            state = carrier.get("tracestate")
            if isinstance(state, str) and _STATE.fullmatch(state):
                return {"traceparent": parent, "tracestate": state}
            return {"traceparent": parent}
    return {}


class Span:
    """One call on its way."""

    def __init__(self, span: OtelSpan, context: dict[str, str]) -> None:
        self._span = span
        self.context = context
        """What the server is told in `_meta`: this span as its parent."""

    def end(self, outcome: str, error_type: str | None = None) -> None:
        """The call has ended: `ok`, or what kind of failure."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - the extra is there by now

        if outcome != "ok":
            self._span.set_attribute("error.type", error_type or _ERRORS.get(outcome, outcome))
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


# The conventions' word for a result with `isError`.
_ERRORS = {"error": "tool_error"}


class Tracer:
    """Makes spans and sends them, in a thread of its own; made by `open_tracer`."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415

        self._provider = provider
        self._tracer = provider.get_tracer("hostwright.gateway", __version__)
        self._propagator = tracecontext.TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER

    def start(
        self,
        method: str,
        *,
        server: str,
        target: str,
        parent: Mapping[str, str],
        transport: str | None = None,
        protocol: str | None = None,
    ) -> Span:
        """Begin a span. `target` is the tool's name, `parent` what `trace_context` found."""
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        attributes = {"mcp.method.name": method, "hostwright.server": server}
        if method == "tools/call":
            attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": target}
        elif method == "prompts/get":
            attributes["gen_ai.prompt.name"] = target
        if protocol is not None:
            attributes["mcp.protocol.version"] = protocol
        if transport is not None:
            attributes["network.transport"] = _TRANSPORTS.get(transport, transport)
        context = self._propagator.extract(parent)
        name = f"{method} {target}" if method != "resources/read" else method
        span = self._tracer.start_span(name, context, self._kind, attributes)
        onward: dict[str, str] = {}
        self._propagator.inject(onward, set_span_in_context(span))
        return Span(span, onward)

    def close(self) -> None:
        """Send what is left, for a bounded time: a collector that is gone must not hold us up."""
        # A daemon thread: neither the interpreter's exit nor asyncio's waits for it.
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(FLUSH_SECONDS)
        if ending.is_alive():
            logger.warning("the last traces could not be sent within %g s", FLUSH_SECONDS)


_TRANSPORTS = {"stdio": "pipe", "http": "tcp", "socket": "unix"}


def open_tracer(
    settings: TelemetrySettings, environ: Mapping[str, str] | None = None
) -> tuple[Tracer | None, str | None]:
    """The tracer, if traces are wanted; and what is wrong, if they are wanted and cannot be had."""
    environ = os.environ if environ is None else environ
    by_variable = any(environ.get(name) for name in ENDPOINT_VARIABLES)
    off = (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER", "") == "none"
    )
    if off or (settings.otlp_endpoint is None and not by_variable):
        return None, None
    try:
        return Tracer(_provider(settings, environ)), None
    except ImportError:
        return None, (
            "Traces are configured, but OpenTelemetry is not installed. "
            "Fix: pip install 'hostwright[otel]', or take the setting away."
        )


def _provider(settings: TelemetrySettings, environ: Mapping[str, str]) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    described = {"service.version": __version__}
    if not environ.get("OTEL_SERVICE_NAME"):
        described["service.name"] = "hostwright"
    # Ends with the gateway, which knows better when than an exit handler.
    provider = TracerProvider(resource=Resource.create(described), shutdown_on_exit=False)
    base = settings.otlp_endpoint
    endpoint = f"{base.rstrip('/')}/v1/traces" if base else None
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider
