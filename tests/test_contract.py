"""What every tool of every server promises, read off `tools/list` and then held to it.

The arguments are made from each tool's own input schema: the smallest that validate. A short table
says what a schema cannot: which file, process or job exists here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any, cast

import mcp_types as mcp
import pytest
from jsonschema import Draft202012Validator

from hostwright_kit.operator_pin import OperatorPin

from .daemon_harness import SUITE, Daemon, Installation, wait_for

ERROR_META = "dev.hostwright/error"
SERVERS = (*SUITE, "hostwright")
PIN = "4711-pin"


@pytest.fixture(scope="module")
def contract_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation in which the file tools reach nothing but one folder."""
    home = Installation(tmp_path_factory.mktemp("contract"))
    (home.work / "file.txt").write_text("some text\n")
    OperatorPin(home.state).set(PIN)
    try:
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def daemon(contract_home: Installation) -> Iterator[Daemon]:
    with contract_home.up() as running:
        yield running


async def listed(daemon: Daemon, server: str) -> list[mcp.Tool]:
    async with daemon.client(server=server) as client:
        return await client.list_tools()


@pytest.mark.parametrize("server", SERVERS)
async def test_every_tool_declares_itself_fully(daemon: Daemon, server: str) -> None:
    tools = await listed(daemon, server)
    assert len(tools) >= 4
    faults = [f"{tool.name}: {fault}" for tool in tools for fault in declaration_faults(tool)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("server", SERVERS)
async def test_every_tool_answers_its_minimal_arguments_as_its_schema_says(
    daemon: Daemon, server: str
) -> None:
    work = daemon.home.work
    victim = subprocess.Popen(["/bin/sleep", "300"])
    known: dict[str, dict[str, Any]] = {
        "process_signal": {"pid": victim.pid},
        "file_read": {"path": str(work / "file.txt")},
        "file_write": {"path": str(work / "new.txt"), "content": "x"},
        "file_edit": {
            "path": str(work / "file.txt"),
            "edits": [{"old_text": "some", "new_text": "any"}],
        },
        "file_move": {"source": str(work / "new.txt"), "destination": str(work / "moved.txt")},
        "file_delete": {"path": str(work / "moved.txt")},
        "directory_list": {"path": str(work)},
        "file_search": {"path": str(work)},
        "shell_exec": {"argv": ["true"]},
        "shell_start": {"argv": ["true"]},
    }
    # Our own server is not to be stopped under the other tests of this module.
    unknown_server: dict[str, dict[str, Any]] = {
        name: {"name": "nosuch"}
        for name in ("mcp_server_start", "mcp_server_stop", "mcp_server_restart")
    }
    faults: list[str] = []
    succeeded: set[str] = set()
    try:
        async with daemon.client(server=server) as client:
            for tool in in_order(await client.list_tools()):
                minimal = smallest(tool.input_schema)
                given = known.get(tool.name) or unknown_server.get(tool.name) or minimal
                assert set(tool.input_schema.get("required", ())) <= set(given), tool.name
                result = await client.call_tool(tool.name, given, raise_on_error=False)
                faults += [f"{tool.name}: {fault}" for fault in answer_faults(tool, result)]
                if not result.is_error:
                    succeeded.add(tool.name)
    finally:
        lift(daemon)
        victim.kill()
        victim.wait()
    assert not faults, "\n".join(faults)
    # What is there to be had must have been had: an error is no excuse everywhere.
    expected = (set(known) - {"process_signal"}) | {"system_health", "system_query", "event_log"}
    assert server != "system" or expected <= succeeded, expected - succeeded


@pytest.mark.parametrize("server", SERVERS)
async def test_every_parameter_at_its_bounds_is_taken_or_refused_with_a_remedy(
    daemon: Daemon, server: str
) -> None:
    """What a schema allows must not make a tool stumble, and what it forbids must say why."""
    work = daemon.home.work
    (work / "bounds.txt").write_text("some text\n")
    nobody = 1 << 22  # above every pid_max, so never a process
    base: dict[str, dict[str, Any]] = {
        "process_signal": {"pid": nobody},
        "file_read": {"path": str(work / "bounds.txt")},
        "file_write": {"path": str(work / "bounds.txt"), "content": "x"},
        "file_edit": {
            "path": str(work / "bounds.txt"),
            "edits": [{"old_text": "nowhere", "new_text": "any"}],
        },
        "file_move": {"source": str(work / "nosuch"), "destination": str(work / "moved.txt")},
        "file_delete": {"path": str(work / "nosuch")},
        "directory_list": {"path": str(work)},
        "file_search": {"path": str(work)},
        "shell_exec": {"argv": ["true"]},
        "shell_start": {"argv": ["true"]},
        "service_control": {"unit": "hostwright-nosuch", "action": "start"},
        **{f"mcp_server_{what}": {"name": "nosuch"} for what in ("start", "stop", "restart")},
    }
    faults: list[str] = []
    async with daemon.client(server=server) as client:
        for tool in in_order(await client.list_tools()):
            given = base.get(tool.name) or smallest(tool.input_schema)
            for name, schema in tool.input_schema.get("properties", {}).items():
                if (tool.name, name) == ("process_signal", "pid"):
                    continue  # its lower bound is somebody
                for value, allowed in at_bounds(schema):
                    result = await client.call_tool(
                        tool.name, {**given, name: value}, raise_on_error=False
                    )
                    where = f"{tool.name} {name}={str(value)[:40]}"
                    code = (result.meta or {}).get(ERROR_META, {}).get("code")
                    faults += [f"{where}: {fault}" for fault in answer_faults(tool, result)]
                    if code == "internal":
                        faults.append(f"{where}: failed unexpectedly")
                    elif allowed and code == "bad_arguments":
                        faults.append(f"{where}: is refused though its schema allows it")
                    elif not allowed and code != "bad_arguments":
                        faults.append(f"{where}: is not refused ({code})")
    lift(daemon)
    assert not faults, "\n".join(faults)


def lift(daemon: Daemon) -> None:
    """Let it go on, as the owner would, if a tool has stopped everything."""
    if daemon.status()["panic"] is None:
        return
    assert daemon._control.post("/control/lift", json={"pin": PIN}).status_code == 200
    wait_for(lambda: all(row["state"] == "ready" for row in daemon.status()["servers"]))


def at_bounds(schema: dict[str, Any]) -> Iterator[tuple[Any, bool]]:
    """Values at the edges of a schema, and just beyond; each with whether it is allowed."""
    if "anyOf" in schema:
        inside = [one for one in schema["anyOf"] if one.get("type") != "null"]
        yield None, len(inside) < len(schema["anyOf"])
        if len(inside) == 1:
            yield from at_bounds(inside[0])
    elif "enum" in schema:
        yield from ((value, True) for value in schema["enum"])
        yield "none of these", False
    elif schema.get("type") in ("integer", "number"):
        yield "1", False
        for key, beyond in (("minimum", -1), ("maximum", 1)):
            if key in schema:
                yield schema[key], True
                yield schema[key] + beyond, False
        if "exclusiveMinimum" in schema:
            yield schema["exclusiveMinimum"], False
    elif schema.get("type") == "string":
        yield 1, False
        if "pattern" not in schema:
            yield "x" * min(schema["maxLength"], 200_000), True
            yield "\0", schema.get("minLength", 0) <= 1
            yield "", "minLength" not in schema
    elif schema.get("type") == "boolean":
        yield from ((True, True), (False, True), ("true", False))
    elif schema.get("type") == "array":
        yield "text", False


def in_order(tools: list[mcp.Tool]) -> list[mcp.Tool]:
    """Write before move before delete: each leaves what the next one needs. Last what stops all."""
    last = {"file_move": 1, "file_delete": 2, "safety_panic": 3}
    return sorted(tools, key=lambda tool: last.get(tool.name, 0))


def declaration_faults(tool: mcp.Tool) -> list[str]:
    """What the tool does not say about itself."""
    faults: list[str] = []
    hints = tool.annotations
    if hints is None or None in (
        hints.read_only_hint,
        hints.destructive_hint,
        hints.idempotent_hint,
        hints.open_world_hint,
    ):
        faults.append("annotations are not complete")
    elif hints.read_only_hint and hints.destructive_hint:
        faults.append("reads only, and yet destroys")
    if len((tool.description or "").split()) < 8:
        faults.append("its description is too short to act on")
    if (tool.output_schema or {}).get("type") != "object":
        faults.append("no structured output")
    if tool.input_schema.get("additionalProperties") is not False:
        faults.append("takes arguments that it does not know")
    for name, schema in tool.input_schema.get("properties", {}).items():
        faults += [f"{name}: {fault}" for fault in unbounded(schema)]
        if not any("description" in one for one in (schema, *schema.get("anyOf", ()))):
            faults.append(f"{name}: is not described")
    return faults


def unbounded(schema: dict[str, Any]) -> list[str]:
    """Where a value could be without end."""
    if "anyOf" in schema:
        return [fault for one in schema["anyOf"] for fault in unbounded(one)]
    if "enum" in schema or "const" in schema:
        return []
    kind = schema.get("type")
    if kind == "string" and not ({"maxLength", "pattern"} & set(schema)):
        return ["a text without maxLength"]
    if kind in ("integer", "number"):
        low = {"minimum", "exclusiveMinimum"} & set(schema)
        high = {"maximum", "exclusiveMaximum"} & set(schema)
        return [] if low and high else ["a number without both bounds"]
    if kind == "array":
        return ([] if "maxItems" in schema else ["a list without maxItems"]) + [
            f"items: {fault}" for fault in unbounded(schema.get("items", {}))
        ]
    return unbounded_object(schema) if kind == "object" else []


def unbounded_object(schema: dict[str, Any]) -> list[str]:
    """An object has known members, or members without number and size."""
    if "maxBytes" in schema:
        return []  # the arguments of another call, which only that call's schema knows
    rest = schema.get("additionalProperties", True)
    faults = [
        f"{name}: {fault}"
        for name, one in schema.get("properties", {}).items()
        for fault in unbounded(one)
    ]
    if rest is True:
        faults.append("takes members that it does not know")
    elif isinstance(rest, dict):
        if "maxProperties" not in schema:
            faults.append("an object without maxProperties")
        faults += [f"members: {fault}" for fault in unbounded(cast("dict[str, Any]", rest))]
    return faults


def answer_faults(tool: mcp.Tool, result: Any) -> list[str]:
    """How an answer differs from what was declared."""
    if result.is_error:
        detail = (result.meta or {}).get(ERROR_META, {})
        missing = [key for key in ("code", "message", "fix") if not detail.get(key)]
        return [f"its error has no {key}: {result.content}" for key in missing]
    if result.structured_content is None:
        return ["answers without structured content"]
    validator = Draft202012Validator(tool.output_schema or {})
    return [fault.message[:200] for fault in validator.iter_errors(result.structured_content)]


def smallest(schema: dict[str, Any]) -> Any:
    """The smallest value that a schema allows: only what is required."""
    if "anyOf" in schema:
        return smallest(schema["anyOf"][0])
    if "enum" in schema:
        return next(iter(schema["enum"]))
    kind = schema.get("type")
    if kind == "object":
        required = schema.get("required", ())
        return {name: smallest(schema["properties"][name]) for name in required}
    if kind == "array":
        return [smallest(schema["items"])] * schema.get("minItems", 0)
    if kind in ("integer", "number"):
        return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return False if kind == "boolean" else "x" * max(schema.get("minLength", 0), 1)
