"""Traces at a real OTLP/HTTP receiver: nothing unless asked for, and then nothing secret."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, mcp_attributes

from hostwright.telemetry import TelemetrySettings, open_tracer, trace_context

from .daemon_harness import Installation, request, text, wait_for

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Collector:
    """Takes traces as a collector would."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                import gzip  # noqa: PLC0415

                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                collector.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Not onto the test's output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            self.resource = {one.key: one.value.string_value for one in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += scope.spans

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.close()


def attributes(span: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes}


async def test_calls_become_spans_of_the_callers_trace(
    bare_home: Installation, collector: Collector
) -> None:
    bare_home.configure("autonomous", f'[telemetry]\notlp_endpoint = "{collector.url}"')
    bare_home.third_party("gamma")
    with bare_home.up() as daemon:
        with daemon.wire() as wire:
            seen = wire.ask(
                "tools/call",
                {"traceparent": PARENT, "tracestate": "vendor=1"},
                name="gamma__meta",
                arguments={"password": "hunter2-argument"},
            )
            wire.ask("tools/call", name="gamma__wrong_error", arguments={})
        answer = daemon.post(
            request(1, "tools/call", name="echo", arguments={}),
            server="gamma",
            token=bare_home.token("tracing"),
            traceparent=PARENT,
            MCP_Protocol_Version="2026-07-28",
            Mcp_Method="tools/call",
            Mcp_Name="echo",
        )
        assert answer.status_code == 200, answer.text
        async with daemon.client(server="gamma") as client:
            assert "echo" in text(await client.call_tool("echo", {}))
    # Ending it has sent them all.
    continued, failed, over_http, plain = collector.spans
    assert (continued.name, continued.kind) == ("tools/call meta", 2)
    assert (continued.trace_id.hex(), continued.parent_span_id.hex()) == (TRACE, SPAN)
    assert attributes(continued) == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2026-07-28",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "meta",
        "hostwright.server": "gamma",
        "network.transport": "pipe",
    }
    onward = f"00-{TRACE}-{continued.span_id.hex()}-01"
    words = seen["result"]["content"][0]["text"]
    assert onward in words
    assert "vendor=1" in words
    assert failed.status.code == 2
    assert attributes(failed)["error.type"]
    assert (over_http.trace_id.hex(), over_http.parent_span_id.hex()) == (TRACE, SPAN)
    assert attributes(over_http)["network.transport"] == "tcp"
    assert plain.parent_span_id == b""
    assert attributes(plain)["network.transport"] == "unix"
    assert collector.resource["service.name"] == "hostwright"
    assert "hunter2" not in str(collector.spans)


async def test_without_a_tracer_the_callers_trace_goes_through(bare_home: Installation) -> None:
    bare_home.third_party("gamma")
    with bare_home.up() as daemon, daemon.wire() as wire:
        seen = wire.ask(
            "tools/call",
            {"traceparent": PARENT, "baggage": "user=me", "tracestate": "a=1\nb"},
            name="gamma__meta",
            arguments={},
        )
    words = seen["result"]["content"][0]["text"]
    assert PARENT in words
    assert "baggage" not in words
    assert "a=1" not in words


def test_off_means_that_nothing_is_imported() -> None:
    code = (
        "import sys, hostwright.daemon, hostwright.telemetry as t\n"
        "assert t.open_tracer(t.TelemetrySettings(), {}) == (None, None)\n"
        "found = [m for m in sys.modules if m.startswith('opentelemetry.sdk')"
        " or m.startswith('opentelemetry.exporter')]\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_asked_for_without_the_extra_says_what_to_do() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None\n"
        "import hostwright.telemetry as t\n"
        "settings = t.TelemetrySettings(otlp_endpoint='http://127.0.0.1:1')\n"
        "tracer, wrong = t.open_tracer(settings, {})\n"
        "assert tracer is None and \"pip install 'hostwright[otel]'\" in wrong, wrong\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
    ],
)
def test_off(environ: dict[str, str]) -> None:
    assert open_tracer(TelemetrySettings(), environ) == (None, None)


def test_a_collector_that_is_gone_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostwright.telemetry.FLUSH_SECONDS", 0.2)
    tracer, wrong = open_tracer(TelemetrySettings(otlp_endpoint="http://127.0.0.1:1"), {})
    assert wrong is None
    assert tracer
    tracer.start("tools/call", server="a", target="b", parent={}).end("ok")
    closing = threading.Thread(target=tracer.close)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()


def test_attributes_have_the_names_of_the_conventions(collector: Collector) -> None:
    tracer, _ = open_tracer(TelemetrySettings(otlp_endpoint=collector.url), {})
    assert tracer
    tracer.start(
        "prompts/get", server="a", target="p", parent={}, transport="http", protocol="2025-11-25"
    ).end("ok")
    tracer.start("tools/call", server="a", target="t", parent={}).end("error")
    tracer.close()
    wait_for(lambda: len(collector.spans) == 2)
    prompt, tool = map(attributes, collector.spans)
    assert prompt[gen_ai_attributes.GEN_AI_PROMPT_NAME] == "p"
    assert prompt[mcp_attributes.MCP_METHOD_NAME] == "prompts/get"
    assert prompt[mcp_attributes.MCP_PROTOCOL_VERSION] == "2025-11-25"
    assert tool[gen_ai_attributes.GEN_AI_TOOL_NAME] == "t"
    assert tool[gen_ai_attributes.GEN_AI_OPERATION_NAME] == "execute_tool"
    assert tool["error.type"] == "tool_error"


@given(
    st.dictionaries(
        st.sampled_from(["traceparent", "tracestate", "baggage"]),
        st.one_of(st.text(), st.integers(), st.none(), st.just(PARENT), st.just("ff" + PARENT[2:])),
    )
)
def test_only_a_valid_context_goes_on(carrier: dict[str, object]) -> None:
    found = trace_context(None, carrier)
    assert found == {} or found["traceparent"] == PARENT
    assert found.keys() <= {"traceparent", "tracestate"}
    assert found.get("tracestate", "x").isprintable()
    assert trace_context({"traceparent": PARENT}, carrier) == {"traceparent": PARENT}
