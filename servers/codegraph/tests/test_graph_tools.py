"""The tools through the front door: a real server process, the official client, both eras."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client

from .graph_world import ERAS, Era, World, call, failed, write

SHOP = {
    "shop/__init__.py": "from .core import Basket\n",
    "shop/core.py": '''
        """Baskets."""

        class Base:
            def total(self) -> int:
                """What it costs altogether."""
                return 0

        class Basket(Base):
            def __init__(self, owner: str) -> None:
                self.owner = owner

            def total(self) -> int:
                return price(self.owner) + mystery(self)

            def get(self, name): ...

        def price(owner: str) -> int:
            return len(owner)
    ''',
    "shop/web.py": """
        from shop import Basket

        def checkout(owner):
            basket = Basket(owner)
            return basket.total()

        def serve(request):
            return checkout(request.get("owner"))
    """,
    "tests/test_web.py": """
        from shop.web import checkout

        def test_checkout():
            assert checkout("me")
    """,
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    write(found.project, SHOP)
    return found


async def added(client: Client[Any], world: World) -> dict[str, Any]:
    done = await call(client, "codegraph_index", action="add", path=str(world.project))
    while done["state"] != "current":
        done = await call(client, "codegraph_index", action="refresh", wait_seconds=45)
    return done


def names(answer: dict[str, Any], key: str = "calls") -> list[str]:
    return [one["name"] for one in answer[key]]


@pytest.mark.parametrize("era", ERAS)
async def test_a_project_is_added_asked_about_and_removed(world: World, era: Era) -> None:
    async with world.client(era=era) as client:
        assert (await failed(client, "codegraph_search", query="x"))["code"] == "no_project"
        assert (await added(client, world))["files"] == 4

        found = await call(client, "codegraph_search", query="Basket")
        assert found["results"][0] == {"name": "Basket", "kind": "class", "at": "shop/core.py:8"}
        callers = await call(client, "codegraph_callers", symbol="Basket.total")
        assert names(callers) == ["checkout"]
        assert callers["calls"][0]["at"] == "shop/web.py:3"
        assert callers["calls"][0]["lines"] == [5]
        built = await call(client, "codegraph_callers", symbol="Basket.__init__")
        assert [(one["name"], one["how"]) for one in built["calls"]] == [
            ("checkout", "instantiates")
        ]
        deep = await call(client, "codegraph_callers", symbol="shop.core.price", depth=4)
        assert names(deep) == ["Basket.total", "checkout", "serve", "test_checkout"]
        assert names(
            await call(client, "codegraph_callers", symbol="price", depth=4, tests=False)
        ) == ["Basket.total", "checkout", "serve"]

        callees = await call(client, "codegraph_callees", symbol="shop/core.py::Basket.total")
        assert names(callees) == ["price"]
        assert callees["unresolved"] == 1
        assert callees["unresolved_at"] == ["shop/core.py:13 mystery"]

        node = await call(client, "codegraph_node", symbol="Basket")
        assert node["signature"] == "class Basket(Base):"
        assert names(node, "members") == ["Basket.__init__", "Basket.total", "Basket.get"]
        assert node["bases"] == ["Base shop/core.py:3"]
        assert "price(self.owner)" in node["source"]
        method = await call(client, "codegraph_node", symbol="shop/core.py:13", source=False)
        assert method["symbol"]["name"] == "Basket.total"
        assert method["overrides"] == ["Base.total shop/core.py:4"]

        tree = await call(client, "codegraph_files", depth=1)
        assert [(one["path"], one["files"]) for one in tree["entries"]] == [
            ("shop/", 3),
            ("tests/", 1),
        ]
        status = await call(client, "codegraph_status")
        (state,) = status["projects"]
        assert (state["state"], state["files"], state["languages"]) == ("current", 4, {"python": 4})
        assert state["calls_unresolved"] == 2  # mystery(), request.get()
        assert state["calls_resolved"] == 5

        done = await call(client, "codegraph_index", action="remove", project="shop")
        assert done["state"] == "missing"
        assert (await failed(client, "codegraph_search", query="x"))["code"] == "no_project"
    assert not list((world.state / "codegraph").glob("*.db-wal"))


async def test_code_that_is_not_read_is_counted(world: World) -> None:
    for name in ("web/a.ts", "web/b.tsx", "tool.go", "README.md", "node_modules/x/y.js"):
        file = world.project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x\n")
    async with world.client() as client:
        await added(client, world)
        (state,) = (await call(client, "codegraph_status"))["projects"]
        assert state["languages_not_read"] == {"typescript": 2, "go": 1}
        assert set(state["languages"]) == {"python"}


async def test_what_is_not_exact_is_refused_with_what_there_is(world: World) -> None:
    async with world.client() as client:
        await added(client, world)
        ambiguous = await failed(client, "codegraph_callers", symbol="total")
        assert ambiguous["code"] == "ambiguous"
        for one in ("shop/core.py::Base.total (line 4)", "shop/core.py::Basket.total (line 12)"):
            assert one in ambiguous["message"]
        unknown = await failed(client, "codegraph_node", symbol="Baskett")
        assert unknown["code"] == "no_such_symbol"
        assert "Did you mean Basket" in unknown["message"]
        nothing = await call(client, "codegraph_search", query="chekout")
        assert (nothing["results"], nothing["did_you_mean"][0]) == ([], "checkout")
        bad = await failed(client, "codegraph_search", query="(", how="regex")
        assert bad["code"] == "bad_pattern"
        outside = await failed(client, "codegraph_index", action="add", path="/usr")
        assert outside["code"] == "outside_roots"
        own = await failed(client, "codegraph_index", action="add", path=str(world.state))
        assert own["code"] in ("outside_roots", "denied")
        other = await failed(client, "codegraph_search", query="x", project="nosuch")
        assert other["code"] == "no_such_project"


async def test_answers_keep_within_their_tokens_and_go_on_from_a_cursor(world: World) -> None:
    many = "".join(f"def caller_{i}():\n    return price('x')\n" for i in range(300))
    write(world.project, {"shop/many.py": f"from shop.core import price\n{many}"})
    async with world.client() as client:
        await added(client, world)
        seen: list[str] = []
        cursor = None
        while True:
            answer = await call(
                client, "codegraph_callers", symbol="price", max_tokens=900, cursor=cursor
            )
            assert len(json.dumps(answer)) <= 900 * 4
            seen += names(answer)
            cursor = answer.get("next_cursor")
            if cursor is None:
                break
        assert len(seen) == len(set(seen)) == answer["total"] == 301
        first = await call(client, "codegraph_callers", symbol="price", max_tokens=300)
        refused = await failed(
            client, "codegraph_callees", symbol="price", cursor=first["next_cursor"]
        )
        assert refused["code"] == "bad_cursor"
        node = await call(client, "codegraph_node", symbol="shop/many.py", max_tokens=400)
        assert node["left_out"]
        assert len(json.dumps(node)) <= 400 * 4


async def until(
    ask: Callable[[], Awaitable[dict[str, Any]]], holds: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while not holds(answer := await ask()):
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.2)
    return answer


async def test_changes_are_followed_while_it_runs_and_seen_when_it_starts(world: World) -> None:
    async with world.client() as client:
        await added(client, world)

        async def callers() -> dict[str, Any]:
            return await call(client, "codegraph_callers", symbol="shop.core.price")

        async def status() -> dict[str, Any]:
            return (await call(client, "codegraph_status"))["projects"][0]

        await until(status, lambda answer: answer["watched"])
        write(world.project, {"late.py": "from shop.core import price\ndef late(): price('')\n"})
        await until(callers, lambda answer: "late" in names(answer))
        (world.project / "late.py").unlink()
        await until(callers, lambda answer: "late" not in names(answer))
    write(world.project, {"later.py": "from shop.core import price\ndef later(): price('')\n"})
    async with world.client() as client:

        async def found() -> dict[str, Any]:
            return await call(client, "codegraph_search", query="later")

        await until(found, lambda answer: "later.py:2" in [one["at"] for one in answer["results"]])


async def test_a_failed_run_says_what_to_do(world: World) -> None:
    async with world.client() as client:
        await added(client, world)
    (database,) = [
        one for one in (world.state / "codegraph").glob("*.db") if one.name != "facts.db"
    ]
    database.write_bytes(b"this is no database at all, and long enough to be looked at" * 100)
    async with world.client() as client:
        problem = await failed(client, "codegraph_search", query="x")
        assert problem["code"] == "store_corrupt"
        assert "mv " in problem["fix"]
