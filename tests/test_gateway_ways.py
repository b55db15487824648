"""The same servers over every way in and in both protocol eras: one union, or one at a time."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import pytest
from mcp.shared.exceptions import MCPError

from .daemon_harness import (
    ERAS,
    LINUX,
    MODERN,
    WAYS,
    Daemon,
    Era,
    Installation,
    Way,
    failure,
    processes_running,
    text,
    wait_for,
)

every_way = pytest.mark.parametrize("way", WAYS)
both_eras = pytest.mark.parametrize("era", ERAS)


@every_way
@both_eras
async def test_the_union_offers_every_server_and_one_endpoint_one(
    gateway: Daemon, token: str, way: Way, era: Era
) -> None:
    async with gateway.client(way, era, token=token) as client:
        names = [tool.name for tool in await client.list_tools()]
        assert len(names) == len(set(names))
        assert {"system_health", "mcp_servers", "alpha__echo", "beta__many_0449"} <= set(names)
        said = text(await client.call_tool("alpha__echo", {"x": "é\u2028\x00"}))
        assert json.loads(said.removeprefix("alpha.echo ")) == {"x": "é\u2028\x00"}
        health = await client.call_tool("system_health", {})
        assert health.structured_content and "memory" in health.structured_content
    async with gateway.client(way, era, token=token, server="beta") as client:
        names = [tool.name for tool in await client.list_tools()]
        assert "system_health" not in names
        assert "echo" in names
        assert text(await client.call_tool("echo", {})).startswith("beta.echo")


@both_eras
async def test_a_strangers_tool_is_shown_with_its_server_and_ours_keep_their_names(
    gateway: Daemon, era: Era
) -> None:
    async with gateway.client("socket", era) as client:
        names = [tool.name for tool in await client.list_tools()]
        # alpha comes before system in every alphabet, and yet may not stand in for it.
        assert {"shell_exec", "alpha__shell_exec", "beta__echo", "gamma__echo"} <= set(names)
        assert "echo" not in names
        ours = await client.call_tool("shell_exec", {"argv": ["printf", "really run"]})
        assert ours.structured_content
        assert "really run" in json.dumps(ours.structured_content)
        theirs = await client.call_tool("alpha__shell_exec", {"argv": ["printf", "x"]})
        assert text(theirs).startswith("alpha.shell_exec")
        assert text(await client.call_tool("gamma__echo", {})).startswith("gamma.echo")


async def test_entries_that_are_no_tools_are_left_out_and_take_nothing_with_them(
    gateway: Daemon,
) -> None:
    async with gateway.client(server="gamma") as client:
        names = [tool.name for tool in await client.list_tools()]
    assert "echo" in names
    assert "no_schema" not in names
    assert gateway.server("gamma")["tools"] == len(names)


@both_eras
async def test_lists_are_paged_and_foreign_cursors_refused(gateway: Daemon, era: Era) -> None:
    async with gateway.client("socket", era, server="beta") as client:
        first = await client.list_tools_mcp()
        assert len(first.tools) == 200
        assert first.next_cursor
        second = await client.list_tools_mcp(cursor=first.next_cursor)
        assert {tool.name for tool in first.tools}.isdisjoint(tool.name for tool in second.tools)
        assert len(await client.list_tools()) == gateway.server("beta")["tools"]
        for cursor in ("-1", "x", "9" * 5_000, "٣", "1000000"):
            with pytest.raises(MCPError) as refused:
                await client.list_tools_mcp(cursor=cursor)
            assert refused.value.error.code == -32602


@both_eras
async def test_resources_and_templates_reach_the_server_that_has_them(
    gateway: Daemon, era: Era
) -> None:
    async with gateway.client("socket", era) as client:
        uris = {resource.uri for resource in await client.list_resources()}
        assert {"system://health", "system://os", "alpha+note://one", "beta+note://one"} <= uris
        health = await client.read_resource("system://health")
        assert "memory" in json.loads(health[0].text)  # type: ignore[union-attr]
        for uri, who in (("alpha+note://one", "alpha"), ("beta+note://one", "beta")):
            found = await client.read_resource(uri)
            assert found[0].text == f"{who} reads note://one"  # type: ignore[union-attr]
        # Not listed: found through the templates, by the name that the server itself knows.
        templates = {one.uri_template for one in await client.list_resource_templates()}
        assert {"alpha+note://{name}", "beta+note://{name}"} <= templates
        for uri, who in (("alpha+note://two", "alpha"), ("beta+note://two", "beta")):
            found = await client.read_resource(uri)
            assert found[0].text == f"{who} reads note://two"  # type: ignore[union-attr]
        for missing in ("alpha+note://nine", "note://one", "nothing://here", "beta+nothing://here"):
            with pytest.raises(MCPError, match="Resource not found"):
                await client.read_resource(missing)


@both_eras
async def test_prompts(gateway: Daemon, era: Era) -> None:
    async with gateway.client("socket", era) as client:
        names = {prompt.name for prompt in await client.list_prompts()}
        assert {"diagnose", "alpha__hello", "beta__hello"} <= names
        filled = await client.get_prompt("diagnose", {"symptom": "slow since noon"})
        assert "slow since noon" in filled.messages[0].content.text  # type: ignore[union-attr]
        theirs = await client.get_prompt("beta__hello")
        assert theirs.messages[0].content.text == "hello from beta"  # type: ignore[union-attr]
        with pytest.raises(MCPError, match="Unknown prompt"):
            await client.get_prompt("nothing")


@both_eras
async def test_an_unknown_tool_is_an_error_that_says_what_to_do(gateway: Daemon, era: Era) -> None:
    async with gateway.client("socket", era) as client:
        for name in ("nothing", "", "system__system_health", "x" * 10_000):
            result = await client.call_tool(name, {}, raise_on_error=False)
            assert failure(result)["code"] == "unknown_tool"
            assert "tools/list" in failure(result)["fix"]


@every_way
@both_eras
async def test_progress_comes_through_in_order_and_before_the_answer(
    gateway: Daemon, token: str, way: Way, era: Era
) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with gateway.client(way, era, token=token) as client:
        # Both kinds of server; the last report of each is malformed and must harm nothing.
        for name in ("alpha__progress", "beta__progress"):
            seen.clear()
            result = await client.call_tool(name, {"steps": 3}, progress_handler=note)
            assert text(result) == "progressed"
            assert seen == [(1, 3, "s0"), (2, 3, "s1"), (3, 3, "s2")]
            assert text(await client.call_tool(name, {})) == "progressed"


@pytest.mark.skipif(not LINUX, reason="looks into /proc")
@every_way
@both_eras
async def test_cancelling_a_call_ends_what_it_started_and_is_on_record(
    gateway: Daemon, shared_home: Installation, token: str, way: Way, era: Era
) -> None:
    seconds = f"{300 + WAYS.index(way)}.{ERAS.index(era) + 1}"

    def sleeping() -> bool:
        # Not by the installation's mark: commands get an environment without it.
        return bool(processes_running(f"sleep\0{seconds}\0"))

    async with gateway.client(way, era, token=token, server="system") as client:
        argv = ["sleep", seconds]
        call = asyncio.create_task(client.call_tool("shell_exec", {"argv": argv}))
        await asyncio.to_thread(wait_for, sleeping)
        call.cancel()
        await asyncio.wait([call])
        await asyncio.to_thread(wait_for, lambda: not sleeping())
        assert await client.call_tool("system_health", {})

    def outcome() -> str | None:
        mine = [event for event in shared_home.events(type="call.*") if seconds in str(event)]
        intent = next(event.id for event in mine if event.type == "call.intent")
        ends = [one for one in shared_home.events(type="call.outcome") if one.intent_id == intent]
        return ends[0].outcome if ends else None

    assert await asyncio.to_thread(wait_for, outcome) == "cancelled"


@every_way
async def test_a_client_that_just_leaves_takes_its_call_with_it(
    gateway: Daemon, token: str, way: Way
) -> None:
    if way == "stdio":
        with gateway.wire("alpha") as wire:
            wire.begin("tools/call", name="hang", arguments={"from": way})
            await asyncio.to_thread(wait_for, lambda: way in _seen(gateway, "tools/call"))
    else:
        async with gateway.client(way, MODERN, token=token, server="alpha") as client:
            call = asyncio.create_task(client.call_tool("hang", {"from": way}))
            await asyncio.to_thread(wait_for, lambda: way in _seen(gateway, "tools/call"))
            call.cancel()
            await asyncio.wait([call])
    before = _seen(gateway, "notifications/cancelled").count("requestId")
    assert before or await asyncio.to_thread(
        wait_for, lambda: "requestId" in _seen(gateway, "notifications/cancelled")
    )


def _seen(gateway: Daemon, method: str) -> str:
    """What the server alpha has received of one method."""
    with gateway.wire("alpha") as wire:
        said = wire.ask("tools/call", name="seen", arguments={})["result"]["content"][0]["text"]
    return json.dumps([one["params"] for one in json.loads(said) if one["method"] == method])


@every_way
@both_eras
async def test_a_megabyte_comes_through_whole(
    gateway: Daemon, token: str, way: Way, era: Era
) -> None:
    async with gateway.client(way, era, token=token) as client:
        for name in ("alpha__big", "beta__big"):
            assert len(text(await client.call_tool(name, {"bytes": 1_000_000}))) == 1_000_000
        words = "é" * 100_000
        echoed = text(await client.call_tool("alpha__echo", {"words": words}))
        assert json.loads(echoed.removeprefix("alpha.echo "))["words"] == words


async def test_a_large_file_goes_in_and_comes_back(
    gateway: Daemon, shared_home: Installation, token: str
) -> None:
    content = base64.b64encode(bytes(range(256)) * 24_000).decode()
    path = shared_home.work / "large.bin"
    async with gateway.client("http", MODERN, token=token) as client:
        await client.call_tool(
            "file_write", {"path": str(path), "content": content, "encoding": "base64"}
        )
    assert path.read_bytes() == bytes(range(256)) * 24_000


async def test_two_hundred_calls_of_twenty_clients_do_not_mix(gateway: Daemon, token: str) -> None:
    async def one_client(number: int) -> None:
        way, era = WAYS[number % 3], ERAS[number % 2]
        async with gateway.client(way, era, token=token, name=f"client-{number}") as client:

            async def one_call(turn: int) -> None:
                marker = f"{number}-{turn}-{'x' * (turn * 300)}"
                name = ("alpha__echo", "beta__echo", "shell_exec")[(number + turn) % 3]
                if name == "shell_exec":
                    done = await client.call_tool(name, {"argv": ["printf", "%s", marker]})
                    assert done.structured_content
                    assert done.structured_content["stdout"]["head"] == marker
                else:
                    wait = (turn % 3) / 50
                    said = await client.call_tool(name, {"marker": marker, "seconds": wait})
                    assert json.loads(text(said).partition(" ")[2])["marker"] == marker

            await asyncio.gather(*(one_call(turn) for turn in range(10)))

    await asyncio.gather(*(one_client(number) for number in range(20)))


async def test_a_client_that_reads_nothing_holds_up_nobody(gateway: Daemon) -> None:
    with gateway.wire("alpha") as stuck:
        for _ in range(3):
            stuck.begin("tools/call", name="big", arguments={"bytes": 4_000_000})
        meta = {"progressToken": "p"}
        stuck.begin("tools/call", meta, name="progress", arguments={"steps": 30_000})
        time.sleep(0.5)
        async with gateway.client(server="alpha") as client:
            for turn in range(20):
                result = await asyncio.wait_for(client.call_tool("echo", {"turn": turn}), 20)
                assert text(result).endswith(f'{{"turn": {turn}}}')
        # And the server is as well as before.
        assert gateway.server("alpha")["restarts"] == 0


def test_a_killed_client_leaves_the_gateway_as_it_was(gateway: Daemon) -> None:
    """`hostwright connect` dying in the middle of a call leaves the gateway as it was."""
    with gateway.wire() as wire:
        wire.begin("tools/call", name="alpha__echo", arguments={"seconds": 2})
        wire.process.kill()
        wire.process.wait()
    with gateway.wire() as wire:
        assert wire.ask("tools/call", name="alpha__echo", arguments={})["result"]["content"]
