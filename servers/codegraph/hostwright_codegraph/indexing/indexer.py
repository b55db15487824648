"""One run over a project: look, read what changed, resolve what that can affect, write.

The symbols and edges of a run are written in one transaction: a reader sees the index before it or
after it. Facts are written as they are made, so a run that was killed does not begin again.
"""

from __future__ import annotations

import array
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hostwright_codegraph.indexing.changes import changed_facts, changed_paths
from hostwright_codegraph.indexing.parsing import (
    FORMAT,
    MAX_BYTES,
    FactStore,
    GrammarMissingError,
    digest,
    parse,
)
from hostwright_codegraph.indexing.recognising import flags_of
from hostwright_codegraph.indexing.scan import Scan, Seen, scan
from hostwright_codegraph.indexing.symbols import delete_symbols, symbols_of, write_symbols
from hostwright_codegraph.languages import language_of
from hostwright_codegraph.languages.facts import Scope
from hostwright_codegraph.languages.python.modules import Modules
from hostwright_codegraph.store.kinds import Kind
from hostwright_kit.store import transaction

if TYPE_CHECKING:
    from hostwright_codegraph.flow.edges import FileEdges

RESOLVER = "2"
"""Changes whenever the same facts would give other edges."""
COMMIT_EVERY = 200
RACY_NS = 2_000_000_000
WHOLE_ABOVE = 0.5
"""Beyond this part of the files, everything is resolved again: it is cheaper than choosing."""

Say = Callable[[str, int, int], None]


class Held(NamedTuple):
    """A file as the index knows it."""

    number: int
    size: int
    mtime_ns: int
    hash: bytes | None
    problem: str | None
    module: str
    lines: int
    flags: int


class Outcome(NamedTuple):
    """What a run did."""

    files: int
    read: int
    removed: int
    resolved: int
    seconds: float


class Indexer:
    """A run; `say(phase, done, of)` hears how far it is."""

    def __init__(
        self,
        root: Path,
        db: sqlite3.Connection,
        facts: sqlite3.Connection,
        say: Say,
    ) -> None:
        self.root = root
        self.db = db
        self._facts_db = facts
        self.facts = FactStore(facts)
        self.say = say
        self.hashes: dict[str, bytes] = {}
        """The content that each file of the new index has; none for those with a problem."""
        self.problems: dict[str, str] = {}
        self.lines: dict[str, int] = {}
        self.flags: dict[str, int] = {}
        self._loaded: dict[str, list[Scope]] = {}
        self._kept: Any = None

    def run(self) -> Outcome:
        """Bring the index up to date."""
        began = time.monotonic()
        self.say("scan", 0, 0)
        found = scan(self.root)
        held = self._held()
        at = time.time_ns()
        changed = self._read_changed(found.files, held)
        gone = [path for path in held if path not in found.files]
        for path, why in found.problems.items():
            self.problems.setdefault(path, why)
        if not changed and not gone and self._current():
            self._note(found)
            return Outcome(len(found.files), 0, 0, 0, time.monotonic() - began)
        resolved = self._bring(found.files, held, changed, gone, at)
        self._note(found)
        seconds = time.monotonic() - began
        return Outcome(len(found.files), len(changed), len(gone), resolved, seconds)

    def _current(self) -> bool:
        row = self.db.execute("SELECT value FROM meta WHERE key='resolver'").fetchone()
        return row is not None and row[0] == f"{RESOLVER}:{FORMAT}"

    def _note(self, found: Scan) -> None:
        problems = found.problems
        with transaction(self.db):
            values = {
                "checked": str(time.time()),
                "root": str(self.root),
                "unseen": "\n".join(f"{path}: {why}" for path, why in sorted(problems.items())),
                "unread": json.dumps(found.unread),
            }
            self.db.executemany("INSERT OR REPLACE INTO meta VALUES(?,?)", values.items())

    def _held(self) -> dict[str, Held]:
        rows = self.db.execute(
            "SELECT path, id, size, mtime_ns, hash, problem, module, lines, flags FROM file"
        )
        held = {row[0]: Held(*row[1:]) for row in rows}
        self.hashes = {path: one.hash for path, one in held.items() if one.hash is not None}
        return held

    def _read_changed(self, files: dict[str, Seen], held: dict[str, Held]) -> list[str]:
        """Read the files that look different; those that are, in the order of their names."""
        suspects: list[str] = []
        for path, seen in files.items():
            before = held.get(path)
            if before is None or (before.size, before.mtime_ns) != seen or before.problem:
                suspects.append(path)
        whole = not self._current()
        changed: list[str] = []
        pending = 0
        self._facts_db.execute("BEGIN IMMEDIATE")
        try:
            for count, path in enumerate(sorted(files) if whole else sorted(suspects)):
                self.say("read", count, len(suspects))
                before = held.get(path)
                if self._read(path, before) or whole:
                    changed.append(path)
                elif before is not None:
                    seen = files[path]
                    self.db.execute(
                        "UPDATE file SET size=?, mtime_ns=? WHERE id=?", (*seen, before.number)
                    )
                pending += 1
                if pending % COMMIT_EVERY == 0:
                    self._facts_db.execute("COMMIT")
                    self._facts_db.execute("BEGIN IMMEDIATE")
        finally:
            self._facts_db.execute("COMMIT")
        return changed

    def _read(self, path: str, before: Held | None) -> bool:
        """Read one file and make its facts; whether it differs from what is held."""
        language = language_of(path) or ""
        problem: str | None = None
        content: bytes | None = None
        try:
            with (self.root / path).open("rb") as file:
                source = file.read(MAX_BYTES + 1)
            if len(source) > MAX_BYTES:
                problem = f"larger than {MAX_BYTES // 1024 // 1024} MiB, so not read"
            else:
                content = digest(source)
                self.lines[path] = source.count(b"\n") + 1
                self.flags[path] = flags_of(path, source)
                if not self.facts.has(content, language):
                    self.facts.put(content, language, parse(language, source))
        except OSError as error:
            problem = error.strerror or str(error)
        except GrammarMissingError as error:
            problem, content = str(error), None
        except RecursionError:
            problem, content = "nested too deeply to be read", None
        if problem is not None:
            self.problems[path] = problem
            self.hashes.pop(path, None)
        elif content is not None:
            self.hashes[path] = content
        if before is None:
            return True
        return before.hash != content or before.problem != problem

    def _scopes(self, path: str) -> list[Scope]:
        """The facts of a file as it is now, without its calls."""
        found = self._loaded.get(path)
        if found is None:
            content = self.hashes.get(path)
            found = self.facts.scopes(content, language_of(path) or "", path) if content else []
            self._loaded[path] = found = found or []
        return found

    def _bring(
        self,
        files: dict[str, Seen],
        held: dict[str, Held],
        changed: list[str],
        gone: list[str],
        at: int,
    ) -> int:
        """Write the new symbols and the edges that they change; how many files were resolved."""
        whole = not self._current() or len(changed) + len(gone) > WHOLE_ABOVE * len(files)
        affected = set(changed)
        with transaction(self.db):
            if not whole:
                affected |= self._affected(files, held, changed, gone)
            for path in gone:
                self._remove(path, held[path].number)
            self._write_files(files, held, changed, at)
            todo = sorted(path for path in (files if whole else affected) if path in files)
            if whole:  # an index is made faster than it is kept
                self.db.execute("DROP INDEX edge_in")
            self._resolve(files, todo)
            if whole:
                self.db.execute("CREATE INDEX edge_in ON edge(dst, kind)")
            self.db.execute(
                "INSERT OR REPLACE INTO meta VALUES('resolver',?)", (f"{RESOLVER}:{FORMAT}",)
            )
            self.db.execute("INSERT OR REPLACE INTO meta VALUES('changed',?)", (str(time.time()),))
        return len(todo)

    def _affected(
        self,
        files: dict[str, Seen],
        held: dict[str, Held],
        changed: list[str],
        gone: list[str],
    ) -> set[str]:
        """The files whose edges stand on a fact that is different now."""
        keys = changed_paths(held, files)
        for path in (*changed, *gone):
            before = held.get(path)
            old: list[Scope] = []
            if before is not None and before.hash is not None:
                kept = self.facts.scopes(before.hash, language_of(path) or "", path)
                if kept is None:  # forgotten meanwhile: then nothing can be ruled out
                    return set(files)
                old = kept
            keys |= changed_facts(path, old, self._scopes(path) if path in files else [])
        if not keys:
            return set()
        rows = self.db.execute("SELECT path, facts FROM reads JOIN file ON file.id = reads.file")
        return {path for path, blob in rows if not keys.isdisjoint(array.array("I", blob))}

    def _remove(self, path: str, number: int) -> None:
        delete_symbols(self.db, number, path)
        self.hashes.pop(path, None)
        self.db.execute("DELETE FROM reads WHERE file=?", (number,))
        self.db.execute("DELETE FROM file WHERE id=?", (number,))

    def _write_files(
        self, files: dict[str, Seen], held: dict[str, Held], changed: list[str], at: int
    ) -> None:
        modules = Modules(files)
        for count, path in enumerate(changed):
            self.say("symbols", count, len(changed))
            self._write_file(path, files[path], modules, at)
        for path in files.keys() & held.keys() - set(changed):
            # An `__init__.py` that came or went gives other files another name.
            before = held[path]
            if before.module != _module_name(path, modules):
                self.lines[path], self.flags[path] = before.lines, before.flags
                if before.problem is not None:
                    self.problems[path] = before.problem
                self._write_file(path, files[path], modules, at)

    def _write_file(self, path: str, seen: Seen, modules: Modules, at: int) -> None:
        # A file that was written just now may be written again within the clock's grain.
        mtime_ns = seen.mtime_ns if at - seen.mtime_ns > RACY_NS else -1
        module = _module_name(path, modules)
        row = self.db.execute(
            "INSERT INTO file(path, language, module, size, mtime_ns, hash, lines, flags, problem) "
            "VALUES(?,?,?,?,?,?,?,?,?) ON CONFLICT(path) DO UPDATE SET module=excluded.module, "
            "size=excluded.size, mtime_ns=excluded.mtime_ns, hash=excluded.hash, "
            "lines=excluded.lines, flags=excluded.flags, problem=excluded.problem RETURNING id",
            (
                *(path, language_of(path), module, seen.size, mtime_ns, self.hashes.get(path)),
                *(self.lines.get(path, 0), self.flags.get(path, 0), self.problems.get(path)),
            ),
        ).fetchone()
        write_symbols(self.db, row[0], path, symbols_of(self._scopes(path), path, module))

    def _resolve(self, files: dict[str, Seen], todo: list[str]) -> None:
        # Only a run that resolves something loads the resolver.
        from hostwright_codegraph.flow.edges import Edges  # noqa: PLC0415
        from hostwright_codegraph.flow.evaluate import Flow  # noqa: PLC0415
        from hostwright_codegraph.flow.project import Project  # noqa: PLC0415

        numbers = dict(self.db.execute("SELECT path, id FROM file").fetchall())
        methods: dict[str, list[tuple[str, int]]] = {}
        for name, path, scope in self.db.execute(
            "SELECT name, path, scope FROM symbol JOIN file ON file.id = symbol.file WHERE kind=?",
            (Kind.METHOD,),
        ):
            methods.setdefault(name, []).append((path, scope))
        project = Project(files, self._scopes, lambda name: methods.get(name, ()))
        edges = Edges(Flow(project))
        # Taking all of it apart would take longer than the process has left to live.
        self._kept = (project, edges)
        ids: dict[str, dict[int, int]] = {}

        def ids_of(path: str) -> dict[int, int]:
            if path not in ids:
                ids[path] = dict(
                    self.db.execute(
                        "SELECT scope, id FROM symbol WHERE file=? AND scope>=0", (numbers[path],)
                    ).fetchall()
                )
            return ids[path]

        for count, path in enumerate(todo):
            self.say("resolve", count, len(todo))
            scopes = project.scopes(path)
            calls = self.facts.calls(self.hashes[path], language_of(path) or "") if scopes else []
            for scope, (made, raised) in zip(scopes, calls, strict=True):
                scope.calls, scope.raises = made, raised
            self._write_edges(edges.of_file(path), numbers[path], ids_of)
            for scope in scopes:
                scope.calls, scope.raises = [], []

    def _write_edges(
        self, found: FileEdges, number: int, ids_of: Callable[[str], dict[int, int]]
    ) -> None:
        own = ids_of(found.path)
        self.db.executemany("DELETE FROM edge WHERE src=?", [(one,) for one in own.values()])
        self.db.executemany("DELETE FROM unresolved WHERE src=?", [(one,) for one in own.values()])
        self.db.executemany(
            "INSERT INTO edge VALUES(?,?,?,?,?) ON CONFLICT DO UPDATE SET "
            "rule=min(rule, excluded.rule)",
            [
                (own[source], kind, ids_of(path)[scope], line, rule)
                for source, kind, path, scope, line, rule in found.edges
            ],
        )
        self.db.executemany(
            "INSERT INTO unresolved VALUES(?,?,?,?)",
            [
                (own[source], line, text.rpartition(".")[2].rstrip("()"), text)
                for source, line, text in found.unresolved
            ],
        )
        self.db.execute("UPDATE file SET outside=? WHERE id=?", (found.outside, number))
        self.db.execute(
            "INSERT OR REPLACE INTO reads VALUES(?,?)",
            (number, array.array("I", sorted(found.read)).tobytes()),
        )


def _module_name(path: str, modules: Modules) -> str:
    return modules.name(path) if path in modules.paths else path
