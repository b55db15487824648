"""Secrets as tools: the owner types a value; no argument, result, ledger or log ever has it."""

from __future__ import annotations

import asyncio
import http.client
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from fastmcp.client.elicitation import ElicitResult

from .guard_world import ERAS, Era, World, call, failed

VALUE = "correct-horse\nbattery & staple"
FORM = "application/x-www-form-urlencoded"


def browse(url: str, value: str | None = None, **headers: str) -> tuple[int, str]:
    """As a browser asks for the page, or sends its form."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        if value is None:
            connection.request("GET", parts.path, headers=headers)
        else:
            typed = urlencode({"value": value.replace("\n", "\r\n")})
            own = {"Origin": f"http://{parts.netloc}", "Content-Type": FORM}
            connection.request("POST", parts.path, typed, {**own, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Owner:
    """Who sits before the client."""

    def __init__(self, action: Any = "accept", *, types: str | None = VALUE) -> None:
        self.action = action
        self.types = types
        self.asked: list[str] = []
        self.urls: list[str] = []

    async def answer(self, message: str, _type: Any, params: Any, *_: Any) -> Any:
        self.asked.append(message)
        self.urls.append(params.url)
        if self.action == "accept" and self.types is not None:
            status, page = await asyncio.to_thread(browse, params.url)
            assert (status, "deploy-key" in page) == (200, True)
            assert (await asyncio.to_thread(browse, params.url, self.types))[0] == 200
        return ElicitResult(action=self.action)


@pytest.mark.parametrize("era", ERAS)
async def test_a_value_goes_from_the_owner_to_the_vault_and_nowhere_else(
    tmp_path: Path, era: Era
) -> None:
    world, owner = World(tmp_path), Owner()
    async with world.client(era=era, elicit=owner.answer) as guard:
        kept = await call(guard, "secret_set", name="deploy-key", servers=["system"])
        assert (kept["name"], kept["servers"], kept["version"]) == ("deploy-key", ["system"], 1)
        assert len(owner.asked) == 1
        assert "deploy-key" in owner.asked[0]
        assert "system" in owner.asked[0]
        again = await failed(guard, "secret_set", name="deploy-key")
        assert again["code"] == "secret_exists"
        listed = await call(guard, "secret_list")
        tested = await call(guard, "secret_test", name="deploy-key")
        assert [one["name"] for one in listed["entries"]] == ["deploy-key"]
        assert tested["ok"]
        told = f"{kept} {again} {listed} {tested} {await guard.list_tools()}"
    assert VALUE not in told
    assert not any(part in told for url in owner.urls for part in urlsplit(url)[2:3])
    for file in world.state.rglob("*"):
        if file.is_file():
            assert VALUE.encode() not in file.read_bytes(), file
            assert urlsplit(owner.urls[0]).path.encode() not in file.read_bytes(), file
    kinds = {event.type for event in world.events(type="secret.*")}
    assert "secret.set" in kinds


async def test_a_value_may_come_after_the_call_has_ended(tmp_path: Path) -> None:
    world, owner = World(tmp_path), Owner("cancel")
    async with world.client(elicit=owner.answer) as guard:
        pending = await failed(guard, "secret_set", name="deploy-key")
        assert pending["code"] == "secret_pending"
        assert (await asyncio.to_thread(browse, owner.urls[0], VALUE))[0] == 200
        kept = await call(guard, "secret_set", name="deploy-key")
        assert (kept["name"], len(owner.asked)) == ("deploy-key", 1)
        assert (await call(guard, "secret_test", name="deploy-key"))["ok"]
        assert (await failed(guard, "secret_set", name="deploy-key"))["code"] == "secret_exists"


async def test_the_page_is_for_whoever_was_asked_only_and_takes_one_value(tmp_path: Path) -> None:
    world, owner = World(tmp_path), Owner("cancel")
    async with world.client(elicit=owner.answer) as guard:
        await failed(guard, "secret_set", name="deploy-key", servers=["web"])
        url = owner.urls[0]
        assert urlsplit(url).hostname == "127.0.0.1"

        def refused(status: int, where: str, value: str | None = None, **headers: str) -> None:
            found, page = browse(where, value, **headers)
            assert (found, "deploy-key" in page) == (status, False)

        def attempts() -> None:
            port = urlsplit(url).port
            refused(404, url[:-1])
            refused(404, url.replace(urlsplit(url).path, "/"))
            refused(404, url, Host=f"attacker.example:{port}")
            refused(404, url, Host=f"localhost:{port}")
            refused(404, url, VALUE, Origin="http://attacker.example")
            refused(404, url, VALUE, Origin="null")
            refused(404, url, VALUE, **{"Sec-Fetch-Site": "cross-site"})
            refused(400, url, VALUE, **{"Content-Type": "text/plain"})
            refused(400, url, VALUE, **{"Content-Length": str(1 << 30)})
            short, page = browse(url, "abc")
            assert (short, 'class="bad"' in page) == (422, True)
            assert "abc" not in page

        await asyncio.to_thread(attempts)
        assert (await call(guard, "secret_list"))["entries"] == []
        both = await asyncio.gather(
            *(asyncio.to_thread(browse, url, f"{VALUE}{n}") for n in range(2)),
            return_exceptions=True,
        )
        taken = [one for one in both if not isinstance(one, BaseException) and one[0] == 200]
        assert len(taken) == 1
        assert (await call(guard, "secret_list"))["entries"][0]["version"] == 1
    with pytest.raises(OSError):
        await asyncio.to_thread(browse, url)


async def test_without_a_prompt_the_owners_command_is_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.client() as guard:
        refused = await failed(guard, "secret_set", name="deploy-key", servers=["system", "web"])
        assert refused["code"] == "terminal_needed"
        command = "hostwright secret set deploy-key --server system --server web"
        assert f"`{command}`" in refused["fix"]
        for name, bad in (("two words", {}), ("x", {"servers": ["a; rm"]}), ("x", {"value": "y"})):
            wrong = await failed(guard, "secret_set", name=name, **bad)
            assert wrong["code"] == "bad_arguments"
        assert (await call(guard, "secret_list"))["entries"] == []
        assert (await failed(guard, "secret_test", name="nosuch"))["code"] == "not_found"


async def test_an_owner_who_declines_gives_nothing_and_deleting_asks(tmp_path: Path) -> None:
    world, owner = World(tmp_path), Owner("decline")
    async with world.client(era="legacy", elicit=owner.answer) as guard:
        refused = await failed(guard, "secret_set", name="deploy-key")
        assert refused["code"] == "secret_not_given"
        owner.action = "accept"
        await call(guard, "secret_set", name="deploy-key")
        owner.action = "cancel"
        waits = await failed(guard, "secret_delete", name="deploy-key")
        assert waits["code"] == "approval_needed"
        world.decide(waits["approval_id"])
        assert (await call(guard, "secret_delete", name="deploy-key"))["deleted"] == "deploy-key"
        assert (await call(guard, "secret_list"))["entries"] == []


async def test_where_the_client_may_not_grant_it_is_not_asked_either(tmp_path: Path) -> None:
    world, owner = World(tmp_path), Owner(types=None)
    world.configure("[approval]\nvia_client = false\n")
    async with world.client(elicit=owner.answer) as guard:
        refused = await failed(guard, "secret_set", name="deploy-key")
    assert (refused["code"], owner.asked) == ("terminal_needed", [])
