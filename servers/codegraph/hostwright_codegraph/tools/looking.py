"""Tools that find definitions and show them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hostwright_codegraph.queries import calling, describing, listing, searching
from hostwright_codegraph.queries.budget import Budget, page, query_name, unpack
from hostwright_codegraph.queries.finding import find
from hostwright_codegraph.queries.models import Calls, FilesPage, Node, SearchPage
from hostwright_codegraph.queries.reader import Index
from hostwright_codegraph.service import Service
from hostwright_codegraph.tools.answers import lean
from hostwright_codegraph.tools.parameters import (
    Cursor,
    Depth,
    MaxTokens,
    Overrides,
    Project,
    Symbol,
    Tests,
)
from hostwright_kit.server import HostServer

Language = Annotated[str | None, Field(max_length=30, description="Only of this language.")]


def register(app: HostServer, service: Service) -> None:
    """Add the tools."""

    @app.read_tool(title="Search the code")
    def codegraph_search(
        query: Annotated[
            str,
            Field(
                min_length=1, max_length=500, description="A name, words, or a regular expression."
            ),
        ],
        how: Annotated[
            Literal["auto", "exact", "words", "regex"],
            Field(description="auto: exactly that name, then names that begin so, then words."),
        ] = "auto",
        kind: Annotated[
            Literal["module", "class", "function", "method", "variable"] | None,
            Field(description="Only of this kind."),
        ] = None,
        path: Annotated[
            str | None,
            Field(max_length=1_000, description="Path prefix, or a glob such as */api/*."),
        ] = None,
        language: Language = None,
        tests: Tests = True,
        max_tokens: MaxTokens = 1_500,
        cursor: Cursor = None,
        project: Project = None,
    ) -> SearchPage:
        """Find definitions by name, part of a name, words or RE2 pattern; exact names first.

        Results are one line each, with path:line. When nothing matches, similar names are given.
        """
        with service.open(project) as (index, fresh):
            results, guesses = searching.search(
                index, query, how, kind, path, language, tests=tests
            )
            asked = query_name("search", query, how, kind, path, language, tests, _stamp(index))
            shown, after = page(results, Budget(max_tokens), unpack(asked, cursor), asked)
            return lean(
                SearchPage(
                    project=index.root.name,
                    index=fresh,
                    results=shown,
                    total=len(results),
                    did_you_mean=guesses,
                    next_cursor=after,
                )
            )

    @app.read_tool(title="One definition")
    def codegraph_node(
        symbol: Symbol,
        source: Annotated[bool, Field(description="With the source text.")] = True,
        max_tokens: MaxTokens = 3_000,
        project: Project = None,
    ) -> Node:
        """One definition: signature, documentation, source, members, bases, overrides, counts.

        The symbol must be exact; an ambiguous or unknown one is refused with what there is.
        """
        with service.open(project) as (index, fresh):
            found = find(index, symbol)
            fields = describing.describe(index, found, Budget(max_tokens), source=source)
            return lean(Node(project=index.root.name, index=fresh, **fields))

    @app.read_tool(title="Who calls it")
    def codegraph_callers(
        symbol: Symbol,
        depth: Depth = 1,
        overrides: Overrides = True,
        tests: Tests = True,
        references: Annotated[
            bool, Field(description="Also where it is passed on or used as a decorator.")
        ] = False,
        max_tokens: MaxTokens = 2_000,
        cursor: Cursor = None,
        project: Project = None,
    ) -> Calls:
        """Everything that calls a symbol, nearest first, with the lines of the calls.

        Only calls whose target is known are listed; calls of that name that could not be resolved
        are counted in unresolved. Calling a class counts as calling its constructor.
        """
        with service.open(project) as (index, fresh):
            found = find(index, symbol)
            calls = calling.callers(
                index, found, depth, overrides=overrides, tests=tests, references=references
            )
            asked = query_name(
                "callers", symbol, depth, overrides, tests, references, _stamp(index)
            )
            unresolved, places = calling.unresolved_named(index, found)
            budget = Budget(max_tokens)
            answer = searching.definition(found.symbol)
            budget.take(answer)
            shown_places = [one for one in places if budget.take(one)]
            shown, after = page(calls, budget, unpack(asked, cursor), asked)
            return lean(
                Calls(
                    project=index.root.name,
                    index=fresh,
                    symbol=answer,
                    calls=shown,
                    total=len(calls),
                    unresolved=unresolved,
                    unresolved_at=shown_places,
                    next_cursor=after,
                )
            )

    @app.read_tool(title="What it calls")
    def codegraph_callees(
        symbol: Symbol,
        depth: Depth = 1,
        overrides: Annotated[
            bool, Field(description="Also what overrides a method that is called.")
        ] = False,
        tests: Tests = True,
        references: Annotated[bool, Field(description="Also what it passes on.")] = False,
        max_tokens: MaxTokens = 2_000,
        cursor: Cursor = None,
        project: Project = None,
    ) -> Calls:
        """Everything that a symbol calls inside the project, nearest first.

        Calls in it that could not be resolved are counted and the first of them shown; calls that
        are known to leave the project are no part of the graph.
        """
        with service.open(project) as (index, fresh):
            found = find(index, symbol)
            calls = calling.callees(
                index, found, depth, overrides=overrides, tests=tests, references=references
            )
            asked = query_name(
                "callees", symbol, depth, overrides, tests, references, _stamp(index)
            )
            unresolved, places = calling.unresolved_in(index, found)
            budget = Budget(max_tokens)
            answer = searching.definition(found.symbol)
            budget.take(answer)
            shown_places = [one for one in places if budget.take(one)]
            shown, after = page(calls, budget, unpack(asked, cursor), asked)
            return lean(
                Calls(
                    project=index.root.name,
                    index=fresh,
                    symbol=answer,
                    calls=shown,
                    total=len(calls),
                    unresolved=unresolved,
                    unresolved_at=shown_places,
                    next_cursor=after,
                )
            )

    @app.read_tool(title="Files")
    def codegraph_files(
        path: Annotated[
            str | None, Field(max_length=4_096, description="A folder of the project.")
        ] = None,
        depth: Annotated[
            int, Field(ge=1, le=20, description="Levels; deeper ones are summed.")
        ] = 2,
        language: Language = None,
        max_tokens: MaxTokens = 2_000,
        cursor: Cursor = None,
        project: Project = None,
    ) -> FilesPage:
        """The project's tree: files and folders with lines, definitions and what is odd about them.

        Files that could not be read are in it with the reason.
        """
        with service.open(project) as (index, fresh):
            entries = listing.tree(index, path, depth, language)
            asked = query_name("files", path, depth, language, _stamp(index))
            shown, after = page(entries, Budget(max_tokens), unpack(asked, cursor), asked)
            return lean(
                FilesPage(
                    project=index.root.name,
                    index=fresh,
                    entries=shown,
                    total=len(entries),
                    next_cursor=after,
                )
            )


def _stamp(index: Index) -> str | None:
    """Changes with the index: a cursor of before would skip or repeat."""
    return index.meta("changed")
