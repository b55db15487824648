"""Tools about what a change reaches, and how one symbol reaches another."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hostwright_codegraph.queries import reaching, searching
from hostwright_codegraph.queries.budget import Budget, page, query_name, unpack
from hostwright_codegraph.queries.finding import find
from hostwright_codegraph.queries.models import Affected, Impact, TestsFound, Way
from hostwright_codegraph.queries.reader import Index
from hostwright_codegraph.queries.reader import Symbol as Known
from hostwright_codegraph.service import Service
from hostwright_codegraph.store.kinds import EDGE_WORDS, Edge
from hostwright_codegraph.tools.answers import lean
from hostwright_codegraph.tools.parameters import Cursor, MaxTokens, Project, Symbol
from hostwright_kit.server import HostServer

Symbols = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=500)]],
    Field(max_length=20, description="Names as for codegraph_node."),
]
Files = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=4_096)]],
    Field(max_length=50, description="Paths from the project's top."),
]
Diff = Annotated[
    str | None,
    Field(
        pattern=r"^[A-Za-z0-9_@][A-Za-z0-9_./~^@{}-]{0,199}$",
        description="What differs from this commit or branch (HEAD: what is not committed).",
    ),
]
MOST_TESTS = 40
MOST_ON_PAGE = 3_000
TEST_DEPTH = 8


def register(app: HostServer, service: Service) -> None:
    """Add the tools."""

    @app.read_tool(title="What may break")
    def codegraph_impact(
        symbols: Symbols = [],  # noqa: B006 - never changed; schemas show it
        files: Files = [],  # noqa: B006
        diff: Diff = None,
        depth: Annotated[int, Field(ge=1, le=8, description="How many steps away.")] = 3,
        max_tokens: MaxTokens = 2_500,
        cursor: Cursor = None,
        project: Project = None,
    ) -> Impact:
        """What may break when symbols, files or a git diff change: callers, overrides, tests.

        Follows calls, references, inheritance and overrides backwards, nearest first, with the
        tests to run and the changed names that a package exports.
        """
        with service.open(project) as (index, fresh):
            changed = reaching.subjects(index, symbols, files, diff)
            reached = reaching.reached_by(index, changed, depth)
            asked = query_name("impact", symbols, files, diff, depth, index.meta("changed"))
            budget = Budget(max_tokens)
            start = unpack(asked, cursor)
            tests = [one.symbol for one in reached if reaching.is_test_case(one.symbol)]
            others = [one for one in reached if not reaching.is_test_case(one.symbol)]
            named = [_runnable(one) for one in tests[:MOST_TESTS]]
            first = [searching.definition(one, with_doc=False) for one in changed]
            shown_changed = [one for one in first if start == 0 and budget.take(one)]
            public = [one for one in _exported(index, changed) if start == 0 and budget.take(one)]
            half = Budget(budget.left // 2)
            shown_tests = [one for one in named if start == 0 and half.take(one)]
            budget.left -= budget.left // 2 - half.left
            # Of many thousands only what can be on this page is made into lines.
            some = [_affected(one) for one in others[start : start + MOST_ON_PAGE]]
            shown, after = page(some, budget, 0, asked, before=start, total=len(others))
            return lean(
                Impact(
                    project=index.root.name,
                    index=fresh,
                    changed=shown_changed,
                    affected=shown,
                    total=len(others),
                    files=len({one.symbol.path for one in reached}),
                    tests=shown_tests,
                    tests_total=len(tests),
                    public=public,
                    unresolved=_unresolved(index, changed),
                    next_cursor=after,
                )
            )

    @app.read_tool(title="Tests that reach it")
    def codegraph_tests(
        symbols: Symbols = [],  # noqa: B006
        files: Files = [],  # noqa: B006
        diff: Diff = None,
        max_tokens: MaxTokens = 1_500,
        cursor: Cursor = None,
        project: Project = None,
    ) -> TestsFound:
        """The tests that reach symbols, files or a git diff through calls, nearest first.

        A test that reaches them only through calls that could not be resolved is not among them.
        """
        with service.open(project) as (index, fresh):
            changed = reaching.subjects(index, symbols, files, diff)
            reached = reaching.reached_by(index, changed, TEST_DEPTH)
            tests = [
                _affected(one).model_copy(update={"name": _runnable(one.symbol)})
                for one in reached
                if reaching.is_test_case(one.symbol)
            ]
            asked = query_name("tests", symbols, files, diff, index.meta("changed"))
            budget = Budget(max_tokens)
            start = unpack(asked, cursor)
            first = [searching.definition(one, with_doc=False) for one in changed]
            shown_changed = [one for one in first[:20] if start == 0 and budget.take(one)]
            shown, after = page(tests, budget, start, asked)
            return lean(
                TestsFound(
                    project=index.root.name,
                    index=fresh,
                    changed=shown_changed,
                    tests=shown,
                    total=len(tests),
                    next_cursor=after,
                )
            )

    @app.read_tool(title="How A reaches B")
    def codegraph_path(
        source: Symbol,
        target: Symbol,
        max_depth: Annotated[int, Field(ge=1, le=20, description="Longest chain.")] = 8,
        project: Project = None,
    ) -> Way:
        """The shortest chain of calls from one symbol to another, with the line of each call.

        No chain means none through resolved calls; a method counts as calling its overrides.
        """
        with service.open(project) as (index, fresh):
            first, last = find(index, source), find(index, target)
            steps = reaching.way(index, first.symbol, set(last.ids), max_depth)
            note = None
            if steps is None:
                note = f"No chain of at most {max_depth} resolved calls."
            return lean(
                Way(
                    project=index.root.name,
                    index=fresh,
                    found=steps is not None,
                    steps=steps or [],
                    note=note,
                )
            )


def _affected(one: reaching.Reached) -> Affected:
    return Affected(
        name=one.symbol.shown, at=one.symbol.at, depth=one.depth, how=EDGE_WORDS[one.kind]
    )


def _runnable(symbol: Known) -> str:
    """As a test runner takes it."""
    return f"{symbol.path}::{symbol.qual.replace('.', '::')}"


def _exported(index: Index, changed: list[Known]) -> list[str]:
    """Names that a package's `__init__` imports."""
    rows = index.edges_in([one.id for one in changed], (Edge.IMPORTS,))
    known = index.by_id([row["src"] for row in rows] + [one.id for one in changed])
    return sorted(
        {
            f"{known[row['src']].module}.{known[row['dst']].name}"
            for row in rows
            if row["src"] in known and known[row["src"]].path.endswith("__init__.py")
        }
    )


def _unresolved(index: Index, changed: list[Known]) -> int:
    names = sorted({one.name for one in changed})[:200]
    marks = ",".join("?" * len(names))
    row = index.one(
        f"SELECT count(*) FROM unresolved WHERE name IN ({marks})",  # noqa: S608 - marks
        *names,
    )
    return row[0] if row else 0
