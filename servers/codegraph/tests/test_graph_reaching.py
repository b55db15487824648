"""What a change reaches, what a task is about, and a project as a whole; through the front door."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client

from .graph_world import World, call, failed, write
from .test_graph_tools import added, names

SHOP = {
    "shop/__init__.py": "from .core import Basket, price\n",
    "shop/core.py": '''
        from __future__ import annotations
        from shop import web

        class Base:
            def total(self) -> int:
                return 0

        class Basket(Base):
            def __init__(self, owner: str) -> None:
                self.owner = owner

            def total(self) -> int:
                """Sum of the prices of everything in the basket."""
                return price(self.owner)

        def price(owner: str) -> int:
            """What one thing costs for an owner."""
            return len(owner)

        def forgotten() -> None: ...

        def mentioned() -> None: ...
    ''',
    "shop/web.py": """
        from shop.core import Base, Basket

        def checkout(owner):
            return bill(Basket(owner))

        def bill(basket: Base):
            return basket.total()

        def unclear(thing):
            return thing.mentioned()
    """,
    "tests/test_web.py": """
        from shop.web import checkout

        def test_checkout():
            assert checkout("me") == 2

        class TestMore:
            def test_nothing(self): ...
    """,
}


def git(root: Path, *arguments: str) -> None:
    identity = (
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "-c",
        "init.defaultBranch=main",
    )
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[tuple[World, Client[Any]]]:
    world = World(tmp_path)
    write(world.project, SHOP)
    git(world.project, "init")
    git(world.project, "add", "-A")
    git(world.project, "commit", "-m", "first")
    async with world.client() as client:
        await added(client, world)
        yield world, client


async def test_impact_follows_callers_overrides_and_exports(
    asked: tuple[World, Client[Any]],
) -> None:
    _, client = asked
    found = await call(client, "codegraph_impact", symbols=["shop.core.price"], depth=6)
    assert [(one["name"], one["depth"]) for one in found["affected"]] == [
        ("Basket.total", 1),
        ("Base.total", 2),
        ("bill", 3),
        ("checkout", 4),
    ]
    assert found["tests"] == ["tests/test_web.py::test_checkout"]
    assert found["public"] == ["shop.price"]
    near = await call(client, "codegraph_impact", symbols=["shop.core.price"], depth=1)
    assert names(near, "affected") == ["Basket.total"]
    assert (await failed(client, "codegraph_impact"))["code"] == "no_subject"
    assert (await failed(client, "codegraph_impact", files=["no.py"]))["code"] == "no_such_file"


async def test_a_diff_names_what_changed_and_the_tests_that_reach_it(
    asked: tuple[World, Client[Any]],
) -> None:
    world, client = asked
    core = world.project / "shop/core.py"
    core.write_text(core.read_text().replace("return len(owner)", "return len(owner) + 1"))
    await call(client, "codegraph_index", action="refresh", wait_seconds=45)
    found = await call(client, "codegraph_tests", diff="HEAD")
    assert names(found, "changed") == ["price"]
    assert names(found, "tests") == ["tests/test_web.py::test_checkout"]
    assert (await failed(client, "codegraph_tests", diff="nosuch"))["code"] == "no_diff"
    refused = await failed(client, "codegraph_tests", diff="--output=x")
    assert refused["code"] == "bad_arguments"


async def test_how_one_symbol_reaches_another(asked: tuple[World, Client[Any]]) -> None:
    _, client = asked
    found = await call(client, "codegraph_path", source="test_checkout", target="shop.core.price")
    assert found["found"]
    assert [step.rpartition(": ")[2].split()[0] for step in found["steps"][1:]] == [
        "checkout",
        "bill",
        "Base.total",
        "Basket.total",
        "price",
    ]
    none = await call(client, "codegraph_path", source="shop.core.price", target="checkout")
    assert (none["found"], none["steps"]) == (False, [])


async def test_context_and_explore_answer_within_their_tokens(
    asked: tuple[World, Client[Any]],
) -> None:
    _, client = asked
    found = await call(client, "codegraph_context", task="Sum of the basket prices is wrong")
    assert "Basket.total" in names(found, "symbols")[:3]
    assert "shop/core.py" in found["files"]
    assert found["tests"] == ["tests/test_web.py::test_checkout"]
    assert "Basket.total -> price" in found["calls"]
    spelled = await call(client, "codegraph_context", task="`forgotten` does nothing")
    assert spelled["symbols"][0]["name"] == "forgotten"
    nothing = await call(client, "codegraph_context", task="zebra")
    assert (nothing["symbols"], bool(nothing["note"])) == ([], True)

    wanted = ["Basket", "shop.core.price", "nosuch", "total"]
    explored = await call(client, "codegraph_explore", symbols=wanted)
    pieces = {one["name"]: one for one in explored["pieces"]}
    assert "self.owner = owner" in pieces["Basket"]["source"]
    assert pieces["price"]["signature"] == "def price(owner: str) -> int:"
    assert "no 'nosuch'" in pieces["nosuch"]["problem"]
    assert "2 definitions" in pieces["total"]["problem"]
    for tool, arguments in (
        ("codegraph_context", {"task": "basket price total owner checkout"}),
        ("codegraph_explore", {"symbols": wanted}),
        ("codegraph_impact", {"files": ["shop/core.py"], "depth": 8}),
    ):
        small = await call(client, tool, **arguments, max_tokens=250)
        assert len(json.dumps(small)) <= 250 * 4, tool


async def test_unused_code_cycles_and_hotspots(asked: tuple[World, Client[Any]]) -> None:
    world, client = asked
    dead = await call(client, "codegraph_dead")
    assert "forgotten" in names(dead, "results")
    assert "unclear" in names(dead, "results")
    for used in ("mentioned", "price", "Basket.total", "test_checkout"):
        assert used not in names(dead, "results")
    cycles = await call(client, "codegraph_cycles")
    assert cycles["cycles"] == [{"files": ["shop/core.py", "shop/web.py"], "size": 2}]
    (world.project / "shop/core.py").write_text((world.project / "shop/core.py").read_text() + "\n")
    git(world.project, "commit", "-am", "second")
    hot = await call(client, "codegraph_hotspots")
    assert hot["results"][0]["path"] == "shop/core.py"
    assert hot["results"][0]["commits"] == 2
