"""The graph against what really happens when a package's own tests run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .graph_world import Indexed, write
from .oracle import tracer_folder
from .oracle.comparing import compare

PACKAGE = {
    "ledger/__init__.py": "from .book import Book, Entry\nfrom .money import Money as Amount\n",
    "ledger/money.py": """
        from __future__ import annotations
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class Money:
            cents: int

            @classmethod
            def parse(cls, text: str) -> Money:
                return cls(_cents(text))

            def plus(self, other: Money) -> Money:
                return Money(self.cents + other.cents)

            def get(self, key): return key

        def _cents(text):
            return int(text) * 100
    """,
    "ledger/rules.py": """
        import functools

        def checked(f):
            @functools.wraps(f)
            def wrapper(*args):
                return f(*args)
            return wrapper

        class Rule:
            def holds(self, entry): return self.test(entry)
            def test(self, entry): return True

        class Positive(Rule):
            def test(self, entry): return super().test(entry) and entry.amount().cents > 0
    """,
    "ledger/book.py": """
        from contextlib import contextmanager
        from . import rules
        from .money import Money
        from .rules import Positive, checked

        class Entry:
            def __init__(self, text: str) -> None:
                self._amount = Money.parse(text)
            def amount(self):
                return self._amount

        class Book:
            def __init__(self):
                self.entries: list[Entry] = []
                self.rules = {"positive": Positive()}

            @property
            def latest(self): return self.entries[-1]

            @checked
            def add(self, entry: Entry) -> "Book":
                for rule in self.rules.values():
                    rule.holds(entry)
                self.entries.append(entry)
                return self

            def total(self):
                sum_ = Money(0)
                for entry in self.entries:
                    sum_ = sum_.plus(entry.amount())
                return sum_

            @contextmanager
            def opened(self):
                yield self

            def apply(self, name):
                return getattr(self, name)()
    """,
    "tests/conftest.py": """
        import pytest
        from ledger import Book, Entry

        @pytest.fixture
        def book():
            made = Book()
            made.add(Entry("3")).add(Entry("4"))
            yield made
    """,
    "tests/test_book.py": """
        from ledger import Amount, Entry
        import ledger.rules as r

        def test_total(book):
            assert book.total().cents == 700
            assert book.latest.amount().cents == 400

        def test_dynamic(book):
            assert book.apply("total") == Amount.parse("7")

        def test_opened(book):
            with book.opened() as same:
                same.add(Entry("1"))
            assert {}.get("x") is None
            assert [e.amount() for e in book.entries]

        def test_rule():
            assert r.Rule().holds(None)
    """,
}


def test_every_edge_happens_and_nearly_every_call_has_one(tmp_path: Path) -> None:
    root = tmp_path / "p"
    write(root, PACKAGE)
    traced = tmp_path / "traced.json"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tracer", "-p", "no:cacheprovider", "tests"],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(root), tracer_folder())),
            "ORACLE_ROOT": str(root),
            "ORACLE_OUT": str(traced),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    graph = Indexed(root, tmp_path / "state")
    found = compare(graph.places.database(root), traced)
    assert not found.wrong
    assert found.right >= 20
    # A name that is only known when it runs, and a function that is handed on.
    assert {one.partition(" ")[2] for one in found.missed} <= {
        "Book.apply -> ledger/book.py::Book.total",
        "checked.wrapper -> ledger/book.py::Book.add",
    }
