"""Third-party servers at the front door: judged, asked about, recorded; given what they need."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp.client.elicitation import ElicitResult
from mcp.shared.exceptions import MCPError

from .daemon_harness import (
    BIN,
    ERAS,
    WAYS,
    Daemon,
    Era,
    Installation,
    Way,
    failure,
    structured,
    text,
    wait_for,
)

SECRET = "s3cret-Xyzzy-0815"
# Set for the daemon, and nobody else's business.
EXPORTED = {
    "AWS_SECRET_ACCESS_KEY": "leak-1",
    "GITHUB_TOKEN": "leak-2",
    "HOSTWRIGHT_POLICY__PROFILE": "standard",
    "HOSTWRIGHT_VAULT_PASSPHRASE_FILE": "",
    "CREDENTIALS_DIRECTORY": "/nonexistent/leak-3",
    "PYTHONPATH": "/nonexistent/leak-4",
    "NODE_OPTIONS": "--no-warnings",
    "SOME_HARMLESS_THING": "leak-5",
}
ORDINARY = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "LANG", "LANGUAGE"}
GUARD = """
[guard.tools]
"pid" = "read"
"ech*" = "contained"
[secrets]
SHOP_KEY = "shop"
[env]
HEADER = "Bearer ${secret:shop}"
"""


def keep(home: Installation, name: str, value: str, *options: str) -> None:
    subprocess.run(
        [str(BIN / "hostwright"), "secret", "set", name, *options],
        env=home.env,
        input=f"{value}\n",
        text=True,
        capture_output=True,
        check=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    patch = pytest.MonkeyPatch()
    for name, value in EXPORTED.items():
        patch.setenv(name, value)
    patch.delenv("HOSTWRIGHT_VAULT_PASSPHRASE_FILE")
    made = Installation(tmp_path_factory.mktemp("third"), profile="standard")
    made.without_suite()
    made.third_party("shop", "--tool", "buy", more=GUARD)
    made.third_party("modern", "--era", "modern", "--tool", "buy")
    made.third_party("eager", "--idempotent")
    made.third_party("poor", more='[secrets]\nKEY = "nowhere"')
    keep(made, "shop", SECRET)
    try:
        yield made
    finally:
        made.close()
        patch.undo()


@pytest.fixture(scope="module")
def daemon(home: Installation) -> Iterator[Daemon]:
    with home.up() as running:
        yield running


@pytest.fixture(scope="module")
def key(home: Installation) -> str:
    return home.token("buyer")


class Owner:
    def __init__(self, *, yes: bool) -> None:
        self.yes = yes
        self.asked: list[str] = []

    async def __call__(self, message: str, *_: Any) -> ElicitResult[Any]:
        self.asked.append(message)
        return ElicitResult(action="accept", content={"approve": self.yes})


@pytest.mark.parametrize("server", ["shop", "modern"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("era", ERAS)
async def test_an_unknown_tool_is_asked_about_and_recorded(
    daemon: Daemon, home: Installation, key: str, way: Way, era: Era, server: str
) -> None:
    what = {"item": f"{way}-{era}-{server}"}
    owner = Owner(yes=True)
    async with daemon.client(way, era, token=key, elicit=owner) as client:
        result = await client.call_tool(f"{server}__buy", what)
        assert what["item"] in text(result)
        assert len(owner.asked) == 1
        assert f"{server}.buy" in owner.asked[0]
        owner.yes = False
        result = await client.call_tool(f"{server}__buy", what, raise_on_error=False)
    assert failure(result)["code"] == "approval_denied"
    found = [one for one in home.events(server=server) if what["item"] in str(one.detail)]
    assert [one.type for one in found] == ["call.intent", "call.denied"]
    assert found[0].detail["approved_via"] == "client"


async def test_who_cannot_be_asked_is_told_the_way(
    daemon: Daemon, home: Installation, key: str
) -> None:
    async with daemon.client("http", token=key) as client:
        result = await client.call_tool("modern__buy", {"n": 1}, raise_on_error=False)
    error = failure(result)
    assert error["code"] == "approval_needed"
    assert f"hostwright approve {error['approval_id']}" in error["fix"]
    assert "[guard.tools]" in error["fix"]


async def test_what_the_owner_calls_harmless_is_not_asked_about(daemon: Daemon) -> None:
    async with daemon.client("socket") as client:
        await client.call_tool("shop__pid", {})
        await client.call_tool("shop__echo", {"n": 1})


async def test_a_server_killed_in_a_call_leaves_an_unknown_outcome(
    daemon: Daemon, home: Installation
) -> None:
    async with daemon.client("socket", elicit=Owner(yes=True)) as client:
        result = await client.call_tool("shop__die", {}, raise_on_error=False)
    assert failure(result)["code"] == "server_ended"
    outcomes = home.events(type="call.outcome", tool="die")
    assert [one.outcome for one in outcomes] == ["unknown"]
    await asyncio.to_thread(daemon.wait_state, "shop", "ready")


async def test_one_approval_is_one_run_whatever_the_server_says_of_itself(
    daemon: Daemon, home: Installation
) -> None:
    before = daemon.server("eager")["restarts"]
    async with daemon.client("socket", elicit=Owner(yes=True)) as client:
        result = await client.call_tool("eager__die", {}, raise_on_error=False)
        assert failure(result)["code"] == "server_ended"
        # A number that is no 64-bit one arrives as it was approved.
        large = await client.call_tool("eager__echo", {"n": 2**70})
        assert str(2**70) in text(large)
    await asyncio.to_thread(daemon.wait_state, "eager", "ready")
    assert daemon.server("eager")["restarts"] == before + 1
    assert len(home.events(type="call.intent", server="eager", tool="die")) == 1


async def test_a_cancelled_call_is_recorded(daemon: Daemon, home: Installation) -> None:
    async with daemon.client("stdio", elicit=Owner(yes=True)) as client:
        task = asyncio.create_task(client.call_tool("shop__hang", {"n": "cancelled"}))
        await asyncio.to_thread(wait_for, lambda: home.events(type="call.intent", tool="hang"))
        task.cancel()
        with pytest.raises((asyncio.CancelledError, MCPError)):
            await task
    await asyncio.to_thread(wait_for, lambda: home.events(type="call.outcome", tool="hang"))
    assert [one.outcome for one in home.events(type="call.outcome", tool="hang")] == ["cancelled"]


async def test_it_gets_its_secrets_and_nothing_else_of_the_daemon(
    daemon: Daemon, home: Installation
) -> None:
    async with daemon.client("socket", elicit=Owner(yes=True)) as client:
        mine = json.loads(text(await client.call_tool("shop__env", {})))
        others = json.loads(text(await client.call_tool("modern__env", {})))
    assert (mine["SHOP_KEY"], mine["HEADER"]) == (SECRET, f"Bearer {SECRET}")
    assert SECRET not in str(others)
    for found in (mine, others):
        assert not [name for name in EXPORTED if name in found]
        assert "leak-" not in str(found)
        more = {
            name
            for name in found.keys() - ORDINARY - {"SHOP_KEY", "HEADER"}
            if not name.startswith(("LC_", "XDG_"))
        }
        proxies = {name for name in more if name.lower().endswith("_proxy")}
        certificates = {
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "NODE_EXTRA_CA_CERTS",
            "REQUESTS_CA_BUNDLE",
        }
        session = {"DISPLAY", "WAYLAND_DISPLAY", "DBUS_SESSION_BUS_ADDRESS"}
        # One of ours: by which its processes are known again.
        assert len(more - proxies - certificates - session) <= 1, more
    opened = [one for one in home.events(type="secret.opened") if one.server == "shop"]
    assert {one.detail["entry"] for one in opened} == {"shop"}


async def test_its_secrets_are_written_down_nowhere(daemon: Daemon, home: Installation) -> None:
    async with daemon.client("socket", elicit=Owner(yes=True)) as client:
        await client.call_tool("shop__complain", {})
    log = home.state / "logs" / "shop.jsonl"
    wait_for(lambda: "cannot log in" in log.read_text())
    assert "[redacted]" in log.read_text()
    for file in [*home.state.rglob("*"), home.log]:
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in json.dumps(daemon.status())


def test_a_missing_secret_is_told_with_its_fix(daemon: Daemon) -> None:
    row = daemon.server("poor")
    assert row["state"] != "ready"
    assert "'nowhere'" in row["last_error"]
    assert "hostwright secret set nowhere --server poor" in row["last_error"]


# -- what a token may see ------------------------------------------------------------------------


def token(home: Installation, name: str, *options: str) -> str:
    return str(json.loads(home.cli("token", name, *options, "--json").stdout)["token"])


@pytest.mark.parametrize("era", ERAS)
async def test_a_token_sees_and_calls_only_what_it_may(
    daemon: Daemon, home: Installation, era: Era
) -> None:
    options = ["--tools", "shop__*", "--not-tools", "*__die", "--rename", "shop__pid=who"]
    narrow = token(home, f"narrow-{era}", *options)
    async with daemon.client("http", era, token=narrow) as client:
        names = {tool.name for tool in await client.list_tools()}
        assert {"who", "shop__echo"} <= names
        assert not [name for name in names if not name.startswith(("shop__", "who"))]
        assert {"shop__die", "shop__pid"}.isdisjoint(names)
        assert text(await client.call_tool("who", {})).isdigit()
        for hidden in ("shop__die", "shop__pid", "modern__echo", "mcp_servers", "die"):
            result = await client.call_tool(hidden, {}, raise_on_error=False)
            assert failure(result)["code"] == "unknown_tool"
    # The same token at the server's own endpoint.
    async with daemon.client("http", era, token=narrow, server="shop") as client:
        assert "die" not in {tool.name for tool in await client.list_tools()}
        result = await client.call_tool("die", {}, raise_on_error=False)
        assert failure(result)["code"] == "unknown_tool"
    home.cli("token", f"narrow-{era}", "--change", "--search", "--servers", "shop")
    async with daemon.client("http", era, token=narrow) as client:
        names = {tool.name for tool in await client.list_tools()}
        assert names == {"tool_search", "tool_describe", "tool_call"}
        found = await client.call_tool("tool_search", {"query": "mcp servers status"})
        assert structured(found)["tools"] == []


@pytest.mark.parametrize("options", [["--rename", "a"], ["--rename", "a=x__y"]])
def test_a_rename_that_cannot_be_is_refused(home: Installation, options: list[str]) -> None:
    done = home.cli("token", "never", *options, "--json", ok=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["fix"]
    assert "never" not in home.cli("token", "--list", "--json").stdout


async def test_a_manifest_can_rename_and_hide(tmp_path: Path) -> None:
    home = Installation(tmp_path)
    home.without_suite()
    more = '[tools]\nexclude = ["die"]\nrename = { echo = "say", pid = "hang" }'
    home.third_party("shop", more=more)
    try:
        with home.up() as daemon:
            async with daemon.client("socket") as client:
                names = {tool.name for tool in await client.list_tools()}
                assert {"shop__say", "shop__pid", "shop__hang"} <= names
                assert {"shop__echo", "shop__die"}.isdisjoint(names)
                assert "shop.echo" in text(await client.call_tool("shop__say", {}))
            async with daemon.client("socket", server="shop") as client:
                assert "shop.echo" in text(await client.call_tool("say", {}))
        # Policy and ledger know a tool by the server's own name.
        assert {one.tool for one in home.events(type="call.intent")} == {"echo"}
    finally:
        home.close()
