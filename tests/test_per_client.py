"""Sessions of their own for clients, and what servers of the handshake era ask over them."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult

from .daemon_harness import ERAS, MODERN, Daemon, Era, Installation, Way, failure, text, wait_for

SERVER = Path(__file__).with_name("asking_server.py")
CAN_ASK = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
OTHER = {**CAN_ASK, "io.modelcontextprotocol/clientInfo": {"name": "another", "version": "1"}}
ANSWER = {"question": {"action": "accept", "content": {"name": "Ada"}}}
EAGER_CHECKS = """
[health]
interval_seconds = 0.2
timeout_seconds = 1.0
failures_before_restart = 2
"""
_numbers = itertools.count()

every_way = pytest.mark.parametrize("way", ["stdio", "http"])
every_era = pytest.mark.parametrize("era", ERAS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    home = Installation(tmp_path_factory.mktemp("per-client"))
    home.without_suite()
    command = f"command = {json.dumps([sys.executable, str(SERVER)])}"
    home.manifest("own", command, more='session = "per-client"')
    home.manifest("stopped", command, more='session = "per-client"')
    home.manifest("wedged", command, more='session = "per-client"\n' + EAGER_CHECKS)
    home.manifest("shared", command)
    try:
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def daemon(home: Installation) -> Iterator[Daemon]:
    with home.up() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def key(home: Installation) -> str:
    return home.token("per-client")


async def facts(client: Client[Any]) -> dict[str, Any]:
    return json.loads(text(await client.call_tool("facts", {})))


def runs(one: psutil.Process) -> bool:
    """Also where nobody has asked yet how it ended."""
    try:
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def ada(*_: Any) -> ElicitResult[Any]:
    return ElicitResult(action="accept", content={"name": "Ada"})


@every_way
@every_era
async def test_each_client_has_a_process_that_ends_with_it(
    daemon: Daemon, key: str, way: Way, era: Era
) -> None:
    def client(**more: Any) -> Any:
        name = f"client-{next(_numbers)}"
        return daemon.client(way, era, server="own", token=key, name=name, **more)

    async with client() as first, client(elicit=ada) as second:
        one, other = await facts(first), await facts(second)
        row = daemon.server("own")
        # By more than their numbers, which others get later.
        processes = [psutil.Process(found["pid"]) for found in (one, other)]
        assert len({one["pid"], other["pid"], row["pid"]}) == 3
        assert row["sessions"] >= 2
        assert daemon.server("shared")["sessions"] is None
        assert "elicitation" not in one["capabilities"]
        assert "elicitation" in other["capabilities"]
        assert (await facts(first))["calls"] == 2, "a session of its own goes on"
        assert (await facts(second))["calls"] == 2
    if way == "stdio":
        # Nothing tells that a client of HTTP is gone, unless it says so.
        wait_for(lambda: not any(map(runs, processes)))


async def test_a_session_that_is_ended_by_its_client_over_http_ends(
    daemon: Daemon, key: str
) -> None:
    async with daemon.client("http", "legacy", server="own", token=key) as client:
        process = psutil.Process((await facts(client))["pid"])
        await client.session.send_ping()
    wait_for(lambda: not runs(process))


@every_era
async def test_a_crash_fails_its_call_and_the_next_one_has_a_new_session(
    daemon: Daemon, key: str, era: Era
) -> None:
    async with (
        daemon.client("stdio", era, server="own", token=key) as client,
        daemon.client("stdio", era, server="own", token=key) as other,
    ):
        before, untouched = await facts(client), await facts(other)
        process = psutil.Process(before["pid"])
        result = await client.call_tool("die", {}, raise_on_error=False)
        assert failure(result)["code"] == "server_ended"
        after = await facts(client)
        assert after["pid"] != before["pid"]
        assert after["calls"] == 1
        assert (await facts(other))["pid"] == untouched["pid"]
    wait_for(lambda: not runs(process))


async def test_a_session_that_answers_no_more_is_given_up_and_the_next_call_has_another(
    daemon: Daemon,
) -> None:
    async with daemon.client("stdio", "legacy", server="wedged") as client:
        before = await facts(client)
        process = psutil.Process(before["pid"])
        process.suspend()
        result = await client.call_tool("facts", {}, raise_on_error=False)
        assert failure(result)["code"] == "server_ended"
        after = await facts(client)
        assert (after["pid"] != before["pid"], after["calls"]) == (True, 1)
    wait_for(lambda: not runs(process))
    assert "health checks in a row failed" in daemon.home.cli("logs", "wedged").stdout


async def test_who_stops_the_server_ends_its_sessions(daemon: Daemon) -> None:
    async with daemon.client("stdio", "legacy", server="stopped") as client:
        process = psutil.Process((await facts(client))["pid"])
        assert daemon.act("stopped", "stop").status_code == 200
        wait_for(lambda: not runs(process))
        result = await client.call_tool("facts", {}, raise_on_error=False)
        assert failure(result)["code"] == "server_unavailable"


@pytest.mark.parametrize("server", ["own", "shared"])
@every_way
@every_era
async def test_a_question_reaches_the_client_whose_call_runs(
    daemon: Daemon, key: str, server: str, way: Way, era: Era
) -> None:
    async with daemon.client(way, era, server=server, token=key, elicit=ada) as client:
        said = json.loads(text(await client.call_tool("ask", {})))
    assert said["result"]["content"] == {"name": "Ada"}


@pytest.mark.parametrize("server", ["own", "shared"])
@every_era
async def test_who_did_not_say_that_it_can_be_asked_is_not(
    daemon: Daemon, server: str, era: Era
) -> None:
    async with daemon.client("stdio", era, server=server) as client:
        said = json.loads(text(await client.call_tool("ask", {})))
    assert "did not declare" in said["error"]["message"]


async def test_a_question_that_may_be_for_either_of_two_clients_reaches_neither(
    daemon: Daemon, home: Installation
) -> None:
    here, until = home.work / "waits", home.work / "goes-on"
    async with (
        daemon.client("stdio", "legacy", server="shared", elicit=ada) as waiting,
        daemon.client("stdio", "legacy", server="shared", elicit=ada) as asking,
    ):
        paths = {"here": str(here), "until": str(until)}
        call = asyncio.create_task(waiting.call_tool("wait", paths))
        while not here.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.02)
        said = json.loads(text(await asking.call_tool("ask", {})))
        until.touch()
        await call
    assert "Calls of 2 clients are running" in said["error"]["message"]
    assert "per-client" in said["error"]["message"]


async def test_who_leaves_a_question_open_keeps_nobody_from_being_asked(daemon: Daemon) -> None:
    with daemon.wire("shared") as wire:
        asked = wire.ask("tools/call", CAN_ASK, name="ask", arguments={})["result"]
        assert asked["resultType"] == "input_required"
    # Until it is seen that it left, the question may be for either.
    said: dict[str, Any] = {"error": None}
    async with (
        daemon.client("stdio", "legacy", server="shared", elicit=ada) as client,
        asyncio.timeout(20),
    ):
        while "error" in said:
            said = json.loads(text(await client.call_tool("ask", {})))
    assert said["result"]["content"] == {"name": "Ada"}


@pytest.mark.parametrize("server", ["own", "shared"])
def test_a_call_is_gone_on_with_once_and_by_its_client_alone(daemon: Daemon, server: str) -> None:
    def ask(wire: Any, meta: Any = CAN_ASK, **more: Any) -> dict[str, Any]:
        return wire.ask("tools/call", meta, name="ask", arguments={}, **more)["result"]

    def refused(result: dict[str, Any]) -> bool:
        return result["_meta"]["dev.hostwright/error"]["code"] == "question_expired"

    with daemon.wire(server) as wire, daemon.wire(server) as stranger:
        asked = ask(wire)
        assert asked["resultType"] == "input_required"
        assert asked["inputRequests"]["question"]["method"] == "elicitation/create"
        back = {"requestState": asked["requestState"], "inputResponses": ANSWER}
        assert refused(ask(stranger, **back)), "another connection is another client"
        assert refused(ask(wire, OTHER, **back)), "who says it is another one, is"
        other = wire.ask("tools/call", CAN_ASK, name="facts", arguments={}, **back)["result"]
        assert refused(other), "it is for the call that was asked about"
        said = json.loads(ask(wire, **back)["content"][0]["text"])
        assert said["result"]["content"] == {"name": "Ada"}
        assert refused(ask(wire, **back)), "it works once"


def test_a_retry_without_the_answer_can_be_made_again(daemon: Daemon) -> None:
    with daemon.wire("own") as wire:
        asked = wire.ask("tools/call", CAN_ASK, name="ask", arguments={})["result"]
        state = {"requestState": asked["requestState"]}
        empty = wire.ask("tools/call", CAN_ASK, name="ask", arguments={}, **state)
        assert empty["error"]["code"] == -32602
        again = {**state, "inputResponses": ANSWER}
        done = wire.ask("tools/call", CAN_ASK, name="ask", arguments={}, **again)["result"]
        assert "Ada" in done["content"][0]["text"]


async def test_what_was_asked_and_continued_is_on_record(
    daemon: Daemon, home: Installation
) -> None:
    """The guard stands around each leg."""
    async with daemon.client("stdio", MODERN, server="own", elicit=ada, name="leg") as client:
        await client.call_tool("ask", {})
    legs = [one for one in home.events(server="own", tool="ask") if "leg" in str(one)]
    assert len(legs) >= 2
    home.assert_ledger_holds()


@every_way
async def test_the_session_of_a_client_hears_that_its_folders_changed(
    daemon: Daemon, key: str, way: Way
) -> None:
    more: dict[str, Any] = {"roots": ["file:///srv/a"]}
    async with (
        daemon.client(way, "legacy", server="own", token=key, **more) as client,
        daemon.client(way, "legacy", server="own", token=key, **more) as other,
    ):
        assert "roots" in (await facts(client))["capabilities"]
        await facts(other)
        await client.send_roots_list_changed()
        assert (await facts(client))["roots_changed"] == 1
        assert (await facts(other))["roots_changed"] == 0


@every_era
async def test_a_call_that_was_approved_once_is_gone_on_with_and_no_more(
    tmp_path: Path, era: Era
) -> None:
    """The owner's question and the server's own, in one call."""
    home = Installation(tmp_path, profile="standard")
    home.without_suite()
    command = f"command = {json.dumps([sys.executable, str(SERVER)])}"
    home.manifest("own", command, more='session = "per-client"')
    asked: list[str] = []

    async def answer(message: str, *_: Any) -> ElicitResult[Any]:
        asked.append(message)
        content = {"name": "Ada"} if message == "Who?" else {"approve": True}
        return ElicitResult(action="accept", content=content)

    try:
        with home.up() as daemon:
            async with daemon.client("stdio", era, server="own", elicit=answer) as client:
                said = json.loads(text(await client.call_tool("ask", {})))
                assert said["result"]["content"] == {"name": "Ada"}
                assert len(asked) == 2, "one approval, one question"
                await client.call_tool("ask", {})
                assert len(asked) == 4, "another call is another approval"
    finally:
        home.close()


async def test_a_killed_daemon_leaves_no_session_behind(tmp_path: Path) -> None:
    home = Installation(tmp_path)
    home.without_suite()
    command = f"command = {json.dumps([sys.executable, str(SERVER)])}"
    home.manifest("own", command, more='session = "per-client"')
    key = home.token("killed")
    try:
        with home.up() as daemon:
            processes: list[psutil.Process] = []
            for name in ("a", "b"):
                async with daemon.client("http", server="own", token=key, name=name) as client:
                    processes.append(psutil.Process((await facts(client))["pid"]))
            assert all(map(runs, processes)), "nothing told that these clients are gone"
            daemon.kill_daemon()
        with home.up():
            wait_for(lambda: not any(map(runs, processes)))
    finally:
        home.close()
