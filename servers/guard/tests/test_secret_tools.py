"""Secrets as tools: the owner types a value; no argument, result, ledger or log ever has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastmcp.client.elicitation import ElicitResult

from .guard_world import ERAS, Era, World, call, failed

VALUE = "correct-horse-battery"


class Owner:
    """Who sits before the client."""

    def __init__(self, action: Any = "accept") -> None:
        self.action = action
        self.asked: list[str] = []

    async def answer(self, message: str, *_: Any) -> Any:
        self.asked.append(message)
        if self.action == "accept":
            return ElicitResult(action="accept", content={"value": VALUE})
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
    for file in world.state.rglob("*"):
        if file.is_file():
            assert VALUE.encode() not in file.read_bytes(), file
    kinds = {event.type for event in world.events(type="secret.*")}
    assert "secret.set" in kinds


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
    world, owner = World(tmp_path), Owner()
    world.configure("[approval]\nvia_client = false\n")
    async with world.client(elicit=owner.answer) as guard:
        refused = await failed(guard, "secret_set", name="deploy-key")
    assert (refused["code"], owner.asked) == ("terminal_needed", [])
