"""Tools that gather: what a task is about, several symbols at once, a whole project."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hostwright_codegraph.gitting import churn
from hostwright_codegraph.queries import describing, gathering, reaching, searching, whole
from hostwright_codegraph.queries.budget import Budget, page, query_name, unpack
from hostwright_codegraph.queries.calling import CALLING
from hostwright_codegraph.queries.finding import find
from hostwright_codegraph.queries.models import (
    ContextFound,
    CyclesPage,
    DeadPage,
    Explored,
    Hotspot,
    HotspotsPage,
    Piece,
    Ring,
)
from hostwright_codegraph.queries.reader import Index
from hostwright_codegraph.queries.reader import Symbol as Known
from hostwright_codegraph.service import Service
from hostwright_codegraph.store.kinds import Kind
from hostwright_codegraph.tools.answers import lean
from hostwright_codegraph.tools.parameters import Cursor, MaxTokens, Project
from hostwright_kit.errors import HostError
from hostwright_kit.server import HostServer

MOST_PIECES = 25
MOST_TESTS = 12
MOST_FILES = 12


def register(app: HostServer, service: Service) -> None:
    """Add the tools."""
    _register_gathering(app, service)
    _register_whole(app, service)


def _register_gathering(app: HostServer, service: Service) -> None:
    @app.read_tool(title="Context of a task")
    def codegraph_context(
        task: Annotated[
            str, Field(min_length=1, max_length=4_000, description="What is to be done, in words.")
        ],
        max_tokens: MaxTokens = 2_500,
        project: Project = None,
    ) -> ContextFound:
        """The definitions, files, tests and calls that a task is about: the first thing to ask.

        Names that the task spells as code weigh most, then its words in names, paths and
        documentation, then what calls or is called by those.
        """
        with service.open(project) as (index, fresh):
            found = [one for one, _ in gathering.gather(index, task)]
            budget = Budget(max_tokens)
            code = [one for one in found if one.kind != Kind.MODULE and not one.is_test]
            files = list(dict.fromkeys(one.path for one in found if not one.is_test))[:MOST_FILES]
            shown_files = [one for one in files if budget.take(one)]
            pieces: list[Piece] = []
            for one in code[:MOST_PIECES]:
                piece = _piece(index, one)
                if not budget.take(piece):
                    break
                pieces.append(piece)
            kept = code[: len(pieces)]
            calls = [one for one in _among(index, kept) if budget.take(one)]
            reached = reaching.reached_by(index, kept[:8], 4)
            cases = [one.symbol for one in reached if reaching.is_test_case(one.symbol)]
            tests = [f"{one.path}::{one.qual}" for one in cases[:MOST_TESTS]]
            return lean(
                ContextFound(
                    project=index.root.name,
                    index=fresh,
                    symbols=pieces,
                    files=shown_files,
                    tests=[one for one in tests if budget.take(one)],
                    calls=calls,
                    note=None if pieces else "Nothing in the code has words of this task.",
                )
            )

    @app.read_tool(title="Explore several symbols")
    def codegraph_explore(
        symbols: Annotated[
            list[Annotated[str, Field(min_length=1, max_length=500)]],
            Field(min_length=1, max_length=20, description="Names as for codegraph_node."),
        ],
        source: Annotated[bool, Field(description="With source text, as much as fits.")] = True,
        max_tokens: MaxTokens = 3_000,
        project: Project = None,
    ) -> Explored:
        """Several definitions at once: signatures first, then source as far as max_tokens goes.

        Symbols that are ambiguous or unknown are in the answer with the reason, the others shown.
        """
        with service.open(project) as (index, fresh):
            budget = Budget(max_tokens)
            pieces: list[Piece] = []
            known: list[Known | None] = []
            left_out: list[str] = []
            for asked in symbols:
                try:
                    symbol = find(index, asked).symbol
                    piece = _piece(index, symbol)
                except HostError as error:
                    symbol, piece = (
                        None,
                        Piece(name=asked, kind="unknown", at="", problem=error.message[:300]),
                    )
                if budget.take(piece):
                    pieces.append(piece)
                    known.append(symbol)
                else:
                    left_out.append(asked)
            calls = [
                one for one in _among(index, [one for one in known if one]) if budget.take(one)
            ]
            if source:
                pieces = _with_source(index, pieces, known, budget)
            return lean(
                Explored(
                    project=index.root.name,
                    index=fresh,
                    pieces=pieces,
                    calls=calls,
                    left_out=left_out,
                )
            )


def _register_whole(app: HostServer, service: Service) -> None:
    @app.read_tool(title="Unused code")
    def codegraph_dead(
        path: Annotated[
            str | None, Field(max_length=1_000, description="Below this folder.")
        ] = None,
        max_tokens: MaxTokens = 1_500,
        cursor: Cursor = None,
        project: Project = None,
    ) -> DeadPage:
        """Definitions outside tests that nothing in the project leads to.

        Left out is what may be reached unseen: what overrides, is decorated, or has the name of an
        unresolved call. A library's public functions are among them; look before removing.
        """
        with service.open(project) as (index, fresh):
            found = [searching.definition(one, with_doc=False) for one in whole.dead(index, path)]
            asked = query_name("dead", path, index.meta("changed"))
            shown, after = page(found, Budget(max_tokens), unpack(asked, cursor), asked)
            return lean(
                DeadPage(
                    project=index.root.name,
                    index=fresh,
                    results=shown,
                    total=len(found),
                    next_cursor=after,
                )
            )

    @app.read_tool(title="Import cycles")
    def codegraph_cycles(
        max_tokens: MaxTokens = 1_500, cursor: Cursor = None, project: Project = None
    ) -> CyclesPage:
        """Groups of files that import each other in a ring, the smallest first.

        Imports inside functions count too: they are often there because of such a ring.
        """
        with service.open(project) as (index, fresh):
            rings = [Ring(files=one[:50], size=len(one)) for one in whole.cycles(index)]
            asked = query_name("cycles", index.meta("changed"))
            shown, after = page(rings, Budget(max_tokens), unpack(asked, cursor), asked)
            return lean(
                CyclesPage(
                    project=index.root.name,
                    index=fresh,
                    cycles=shown,
                    total=len(rings),
                    next_cursor=after,
                )
            )

    @app.read_tool(title="Hotspots")
    def codegraph_hotspots(
        days: Annotated[int, Field(ge=1, le=3_650, description="Commits of so many days.")] = 180,
        max_tokens: MaxTokens = 1_500,
        cursor: Cursor = None,
        project: Project = None,
    ) -> HotspotsPage:
        """Files that change often and that many other files use: commits times fan-in, from git."""
        with service.open(project) as (index, fresh):
            changes = churn(index.root, days)
            if changes is None:
                raise HostError(
                    f"{index.root.name} is no git repository, or git is not installed.",
                    fix="Hotspots need the history of a repository.",
                    code="no_git",
                )
            found = [
                Hotspot(path=path, commits=commits, used_by_files=used, lines=lines)
                for path, commits, used, lines in whole.hotspots(index, changes)
            ]
            asked = query_name("hotspots", days, index.meta("changed"))
            shown, after = page(found, Budget(max_tokens), unpack(asked, cursor), asked)
            return lean(
                HotspotsPage(
                    project=index.root.name,
                    index=fresh,
                    results=shown,
                    total=len(found),
                    next_cursor=after,
                )
            )


def _piece(index: Index, symbol: Known) -> Piece:
    lines = [] if symbol.kind == Kind.MODULE else describing.source_lines(index.root, symbol)
    return Piece(
        name=symbol.shown,
        kind=symbol.word,
        at=symbol.at,
        signature=describing.signature(lines) or None,
        doc=symbol.doc or None,
    )


def _with_source(
    index: Index, pieces: list[Piece], known: list[Known | None], budget: Budget
) -> list[Piece]:
    """Source text for each, an even share of what is left; what one leaves goes to the next."""
    told: list[Piece] = []
    for number, (piece, symbol) in enumerate(zip(pieces, known, strict=True)):
        if symbol is None or symbol.kind == Kind.MODULE:
            told.append(piece)
            continue
        share = Budget(0)
        share.left = budget.left // (len(pieces) - number)
        before = share.left
        lines = describing.source_lines(index.root, symbol)
        text, complete = share.cut("\n".join(lines))
        budget.left -= before - share.left
        told.append(piece.model_copy(update={"source": text, "source_complete": complete}))
    return told


def _among(index: Index, symbols: list[Known]) -> list[str]:
    """Calls between these, in words."""
    known = {one.id: one for one in symbols}
    pairs = {
        (row["src"], row["dst"])
        for row in index.edges_out(known, CALLING)
        if row["dst"] in known and row["src"] != row["dst"]
    }
    return [f"{known[one].shown} -> {known[other].shown}" for one, other in sorted(pairs)]
