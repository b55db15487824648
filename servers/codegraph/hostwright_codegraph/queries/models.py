"""What answers look like. Short keys and places as `path:line`: every character is paid for."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Definition(BaseModel, frozen=True):
    """A definition, in one line."""

    name: str = Field(description="Qualified name inside its file.")
    kind: str
    at: str = Field(description="path:line")
    doc: str | None = Field(default=None, description="First line of its documentation.")


class Call(BaseModel, frozen=True):
    """One end of calls, seen from the other."""

    name: str
    kind: str
    at: str = Field(description="Where it is defined, path:line.")
    lines: list[int] = Field(description="Lines of the calls, in the caller's file.")
    depth: int = Field(default=1, description="Calls between it and the symbol that was asked for.")
    how: str = Field(default="calls", description="calls, instantiates, references or overrides.")
    confidence: float | None = Field(default=None, description="Where it is below 0.95.")
    test: bool | None = Field(default=None, description="Set for tests.")


class Answer(BaseModel, frozen=True):
    """What every answer says about the index that it came from."""

    project: str
    index: str = Field(description="How fresh the index is.")


class SearchPage(Answer, frozen=True):
    """Definitions that match, best first."""

    results: list[Definition]
    total: int = Field(description="All that match; at most 1000 are counted.")
    did_you_mean: list[str] = Field(default=[], description="When nothing matches.")
    next_cursor: str | None = None


class Calls(Answer, frozen=True):
    """Who calls a symbol, or what it calls."""

    symbol: Definition
    calls: list[Call]
    total: int
    unresolved: int = Field(
        description="Calls that could not be resolved: of that name (callers), or made in it "
        "(callees). They may or may not be more of what was asked for."
    )
    unresolved_at: list[str] = Field(default=[], description="The first of those, path:line text.")
    outside: int | None = Field(default=None, description="Calls in its file that leave it.")
    next_cursor: str | None = None


class Node(Answer, frozen=True):
    """One definition with its surroundings."""

    symbol: Definition
    signature: str
    source: str | None = None
    source_complete: bool | None = None
    members: list[Definition] = []
    bases: list[str] = []
    derived: list[str] = []
    overrides: list[str] = []
    overridden_by: list[str] = []
    callers: int = Field(default=0, description="Definitions that call it; see codegraph_callers.")
    callees: int = Field(default=0, description="Definitions it calls; see codegraph_callees.")
    unresolved: int = Field(default=0, description="Calls in it that could not be resolved.")
    left_out: list[str] = Field(default=[], description="Parts that did not fit into max_tokens.")


class FileLine(BaseModel, frozen=True):
    """A file or folder."""

    path: str
    files: int | None = Field(default=None, description="Of a folder.")
    language: str | None = None
    lines: int
    symbols: int
    note: str | None = Field(default=None, description="test, generated, vendored; a problem.")


class FilesPage(Answer, frozen=True):
    """A level or more of the project's tree."""

    entries: list[FileLine]
    total: int
    next_cursor: str | None = None


class ProjectState(BaseModel, frozen=True):
    """How one project's index is."""

    project: str
    state: str = Field(description="current, indexing, waiting, failed or missing.")
    progress: str | None = None
    checked_seconds_ago: float | None = None
    watched: bool = False
    files: int = 0
    symbols: int = 0
    edges: dict[str, int] = {}
    languages: dict[str, int] = Field(default={}, description="Files by language.")
    languages_not_read: dict[str, int] = Field(
        default={}, description="Files of code in languages that this server does not read."
    )
    calls_resolved: int = 0
    calls_unresolved: int = 0
    calls_outside: int = 0
    unresolved_share: float | None = Field(
        default=None, description="Of the calls that do not provably leave the project."
    )
    problems: list[str] = Field(default=[], description="path: why, the first 20.")
    problems_total: int = 0
    database_mb: float = 0
    problem: str | None = None
    fix: str | None = None


class Status(BaseModel, frozen=True):
    """All projects of this server."""

    projects: list[ProjectState]
    not_indexed: dict[str, str] = Field(
        default={}, description="Languages that are known but cannot be read here, and the remedy."
    )


class Indexed(BaseModel, frozen=True):
    """What an indexing call did."""

    project: str
    action: str
    state: str
    files: int | None = None
    read: int | None = Field(default=None, description="Files that were new or changed.")
    resolved: int | None = Field(default=None, description="Files whose edges were made again.")
    seconds: float | None = None
    note: str | None = None


class Affected(BaseModel, frozen=True):
    """Something that a change may reach."""

    name: str
    at: str = Field(description="path:line")
    depth: int
    how: str = Field(description="The kind of the edge that it was reached by.")


class Impact(Answer, frozen=True):
    """What may break."""

    changed: list[Definition]
    affected: list[Affected]
    total: int
    files: int = Field(description="Files with something affected.")
    tests: list[str] = Field(default=[], description="Tests to run, path::name.")
    tests_total: int = 0
    public: list[str] = Field(default=[], description="Changed names that a package exports.")
    unresolved: int = Field(
        default=0, description="Unresolved calls of a changed name: they may be reached too."
    )
    next_cursor: str | None = None


class TestsFound(Answer, frozen=True):
    """Tests that reach a symbol or a change."""

    __test__ = False

    changed: list[Definition]
    tests: list[Affected] = Field(description="Nearest first; name is path::name to run.")
    total: int
    next_cursor: str | None = None


class Way(Answer, frozen=True):
    """How one symbol reaches another."""

    found: bool
    steps: list[str] = Field(description="From the first to the last, each with its place.")
    note: str | None = None


class Piece(BaseModel, frozen=True):
    """A definition as much as fits."""

    name: str
    kind: str
    at: str
    signature: str | None = None
    doc: str | None = None
    source: str | None = None
    source_complete: bool | None = None
    problem: str | None = Field(default=None, description="Why it could not be shown.")


class Explored(Answer, frozen=True):
    """Several definitions and what is between them."""

    pieces: list[Piece]
    calls: list[str] = Field(default=[], description="Calls among them.")
    left_out: list[str] = []


class ContextFound(Answer, frozen=True):
    """What matters for a task."""

    symbols: list[Piece]
    files: list[str] = Field(description="Where most of it stands, best first.")
    tests: list[str] = Field(default=[], description="Tests that reach it, path::name.")
    calls: list[str] = Field(default=[], description="Calls among the symbols.")
    note: str | None = None


class DeadPage(Answer, frozen=True):
    """Definitions that nothing in the project leads to."""

    results: list[Definition]
    total: int
    next_cursor: str | None = None


class Ring(BaseModel, frozen=True):
    """Files that import each other."""

    files: list[str]
    size: int


class CyclesPage(Answer, frozen=True):
    """Rings of imports."""

    cycles: list[Ring]
    total: int
    next_cursor: str | None = None


class Hotspot(BaseModel, frozen=True):
    """A file that changes often and that much leans on."""

    path: str
    commits: int
    used_by_files: int
    lines: int


class HotspotsPage(Answer, frozen=True):
    """The hottest files first."""

    results: list[Hotspot]
    total: int
    next_cursor: str | None = None
