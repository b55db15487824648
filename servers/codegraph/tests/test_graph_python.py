# ruff: noqa: E501 - programs on one line are easier to compare than lines that are wrapped
"""Python: which calls are resolved, to what, and which must not be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from .graph_world import Indexed, write


def calls(tmp_path: Path, files: Mapping[str, str]) -> set[tuple[str, str, str]]:
    write(tmp_path / "project", files)
    graph = Indexed(tmp_path / "project", tmp_path / "state")
    return graph.edges("calls", "instantiates")


def test_imports_lead_through_packages_that_reexport(tmp_path: Path) -> None:
    found = calls(
        tmp_path,
        {
            "shop/__init__.py": "from .core import Basket as Cart\nfrom .tools import *\n",
            "shop/core.py": "class Basket:\n    def add(self): ...\n",
            "shop/tools.py": "def price(): ...\ndef _hidden(): ...\n",
            "main.py": """
                import shop
                import shop.tools as t
                from shop import Cart, price

                def run():
                    Cart().add()
                    shop.Cart().add()
                    price()
                    t.price()
                    shop.tools.price()
            """,
        },
    )
    assert found == {
        ("main.py::run", "instantiates", "shop/core.py::Basket"),
        ("main.py::run", "calls", "shop/core.py::Basket.add"),
        ("main.py::run", "calls", "shop/tools.py::price"),
    }


@pytest.mark.parametrize(
    "body",
    [
        "def run(it: Item): it.use()",
        "def run(it: 'Item | None'): it.use()",
        "def run(it: Optional[Item] = None): it.use()",
        "def run():\n    it = Item()\n    it.use()",
        "def make() -> Item: ...\ndef run(): make().use()",
        "def make(): return Item()\ndef run(): make().use()",
        "def run(them: list[Item]):\n    for it in them: it.use()",
        "def run(them: dict[str, Item]): them['x'].use()",
        "def run(them: dict[str, Item]):\n    for it in them.values(): it.use()",
        "def run():\n    with Item() as it: it.use()",
        "def run(): [it.use() for it in [Item()]]",
        "class Holder:\n    def __init__(self): self.it = Item()\n"
        "class Below(Holder):\n    pass\ndef run(): Below().it.use()",
        "class Holder:\n    it: Item\ndef run(h: Holder): h.it.use()",
        "class Holder:\n    @property\n    def it(self): return Item()\ndef run(h: Holder): h.it.use()",
        "@contextmanager\ndef opened():\n    yield Item()\ndef run():\n    with opened() as it: it.use()",
        "async def make(): return Item()\nasync def run(): (await make()).use()",
        "T = TypeVar('T', bound=Item)\ndef run(it: T): it.use()",
        "def run():\n    if (it := Item()): it.use()",
        "def run(): a, it = 1, Item(); it.use()",
        "def run(kind: type[Item]): kind().use()",
        "class Sub(Item):\n    def run(self): super().use()\nrun = Sub",
        "class Sub(Item):\n    def again(self) -> Self: return self\ndef run(): Sub().again().use()",
        "class Sub(Item):\n    @classmethod\n    def make(cls): return cls()\ndef run(): Sub.make().use()",
        "def run(x):\n    it = cast(Item, x)\n    it.use()",
        "def run(x):\n    it = x or Item()\n    it.use()",
        "def run(): partial(Item().use)()",
    ],
)
def test_the_type_of_a_receiver_is_followed(tmp_path: Path, body: str) -> None:
    head = (
        "from typing import *\nfrom contextlib import contextmanager\nfrom functools import partial\n"
        "class Item:\n    def __enter__(self): return self\n    def use(self): ...\n"
        "class Other:\n    def use(self): ...\n"
    )
    found = calls(tmp_path, {"m.py": f"{head}{body}\n"})
    assert {target for _, kind, target in found if kind == "calls" and "use" in target} == {
        "m.py::Item.use"
    }


@pytest.mark.parametrize(
    "body",
    [
        "def run(d: dict): d.get('x')",
        "def run(): {}.get('x')",
        "def run(x): x.get('x')",
        "def run(): open('f').read()",
        "import json\ndef run(): json.loads('x').get('y')",
        "def run(s: str): s.strip()",
        "from elsewhere import thing\ndef run(): thing.handle()\n",
        "import os\ndef run(): os.path.join('a')",
        "def run(): print(len([]))",
        "class Own(dict):\n    pass\ndef run(): Own().items()",
    ],
)
def test_what_leaves_the_project_makes_no_edge(tmp_path: Path, body: str) -> None:
    head = (
        "class Store:\n    def get(self, key): ...\n    def read(self): ...\n    def strip(self): ...\n"
        "    def handle(self): ...\n    def join(self): ...\n    def items(self): ...\n"
        "    def loads(self): ...\n"
    )
    found = calls(tmp_path, {"m.py": f"{head}{body}\n"})
    assert not {edge for edge in found if "Store" in edge[2]}


def test_a_call_that_is_not_known_is_kept_as_unresolved(tmp_path: Path) -> None:
    write(
        tmp_path / "p",
        {
            "m.py": """
                class A:
                    def render_all(self): ...
                class B:
                    def render_all(self): ...
                    def only_here(self): ...
                def run(x):
                    x.render_all()
                    x.only_here()
                    x.nowhere()
            """
        },
    )
    graph = Indexed(tmp_path / "p", tmp_path / "state")
    assert graph.unresolved() == {("m.py::run", "x.render_all"), ("m.py::run", "x.nowhere")}
    assert graph.edges("calls") == {("m.py::run", "calls", "m.py::B.only_here")}
    rule = graph.rows("SELECT rule FROM edge WHERE kind=1")
    assert rule == [(3,)], "what only the name tells is marked as such"


def test_inheritance_overrides_decorators_exceptions_and_types(tmp_path: Path) -> None:
    write(
        tmp_path / "p",
        {
            "base.py": """
                class Base:
                    def go(self): ...
                class Problem(Exception): ...
                def logged(f): return f
            """,
            "m.py": """
                from base import Base, Problem, logged
                class Mixin: ...
                class Below(Mixin, Base):
                    @logged
                    def go(self, other: Base) -> list[Mixin]:
                        raise Problem("no")
            """,
        },
    )
    found = Indexed(tmp_path / "p", tmp_path / "state").edges()
    assert {
        edge for edge in found if edge[1] in ("inherits", "overrides", "raises", "decorates")
    } == {
        ("m.py::Below", "inherits", "m.py::Mixin"),
        ("m.py::Below", "inherits", "base.py::Base"),
        ("m.py::Below.go", "overrides", "base.py::Base.go"),
        ("m.py::Below.go", "raises", "base.py::Problem"),
        ("m.py::Below.go", "decorates", "base.py::logged"),
    }
    assert {edge[2] for edge in found if edge[1] == "types"} == {"base.py::Base", "m.py::Mixin"}


def test_names_of_comprehensions_and_lambdas_are_their_own(tmp_path: Path) -> None:
    found = calls(
        tmp_path,
        {
            "m.py": """
                class A:
                    def use(self): ...
                class B:
                    def use(self): ...
                def one(a: list[A], b: list[B]):
                    return [x.use() for x in a]
                def two(a: list[A], b: list[B]):
                    [x for x in b]
                    return {x: x.use() for x in a}
                def three():
                    x = A()
                    return lambda x: x.use()
                def four(a: list[A]):
                    for x in a:
                        any(y.use() for y in [x])
            """
        },
    )
    assert {edge for edge in found if "use" in edge[2]} == {
        ("m.py::one", "calls", "m.py::A.use"),
        ("m.py::two", "calls", "m.py::A.use"),
        ("m.py::four", "calls", "m.py::A.use"),
    }


def test_a_decorator_named_as_what_it_decorates_is_the_one_from_outside(tmp_path: Path) -> None:
    found = calls(
        tmp_path,
        {
            "m.py": """
                def hook(f): return f
                class A:
                    @hook
                    def hook(self): ...
                    @hook
                    def later(self): ...
            """
        },
    )
    assert found == {("m.py::A", "calls", "m.py::hook"), ("m.py::A", "calls", "m.py::A.hook")}


def test_pytest_passes_fixtures(tmp_path: Path) -> None:
    found = calls(
        tmp_path,
        {
            "app.py": "class App:\n    def get(self): ...\n",
            "tests/conftest.py": """
                import pytest
                from app import App

                @pytest.fixture
                def app():
                    made = App()
                    yield made
            """,
            "tests/deep/test_app.py": "def test_it(app):\n    app.get()\n",
        },
    )
    assert ("tests/deep/test_app.py::test_it", "calls", "app.py::App.get") in found


def test_the_order_of_bases_is_pythons(tmp_path: Path) -> None:
    found = calls(
        tmp_path,
        {
            "m.py": """
                class Root:
                    def go(self): ...
                class Left(Root): ...
                class Right(Root):
                    def go(self): ...
                class Both(Left, Right): ...
                def run(): Both().go()
            """
        },
    )
    assert ("m.py::run", "calls", "m.py::Right.go") in found
    assert ("m.py::run", "calls", "m.py::Root.go") not in found


def test_cycles_of_imports_and_definitions_end(tmp_path: Path) -> None:
    found = calls(
        tmp_path,
        {
            "a.py": "from b import y as x\nclass A(B): ...\nfrom b import B\ndef f(): return g()\n"
            "from b import g\n",
            "b.py": "from a import x as y\nfrom a import A\nclass B(A): ...\nfrom a import f\n"
            "def g(): return f()\ndef run(): f().go(); y(); A().go()\n",
        },
    )
    assert ("a.py::f", "calls", "b.py::g") in found
    assert ("b.py::g", "calls", "a.py::f") in found


def test_applying_a_decorator_calls_it_or_what_it_made(tmp_path: Path) -> None:
    found = calls(
        tmp_path,
        {
            "m.py": """
                def other():
                    def wrap(f): return f
                    return wrap
                def either(f=None, **options):
                    def wrap(f): return f
                    if f is None:
                        return wrap
                    return other()
                @either(fast=True)
                def one(): ...
                @either
                def two(): ...
            """
        },
    )
    assert {edge for edge in found if edge[0] == "m.py::"} == {
        ("m.py::", "calls", "m.py::either"),
        ("m.py::", "calls", "m.py::either.wrap"),
    }
