"""`file_search`: files by name, lines by content, in the manner of ripgrep.

The walk is in path order and by descriptor: links are not followed, closed entries are not read,
.gitignore and .ignore hold, `.git` and (unless asked for) hidden names are left out, binary and too
large files are counted and skipped. It stops at the limit, at the output bound or at the deadline,
says so, and its cursor goes on behind the last thing that was looked at.

Blocking, at most `deadline_seconds` and the time of one file; reads only.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pathspec import GitIgnoreSpec

from hostwright_kit.errors import HostError
from hostwright_system.files import cursors
from hostwright_system.files.failures import refusing, shown
from hostwright_system.files.ignoring import IgnoreRules, rules_above, rules_of
from hostwright_system.files.matching import Case, Pattern, searchable
from hostwright_system.files.models import FoundFile, SearchMatch, SearchPage, SearchSkipped
from hostwright_system.files.places import OpenFolder
from hostwright_system.files.reading import read_whole
from hostwright_system.files.roots import Roots
from hostwright_system.files.trees import MAX_DEPTH, Node, walk

MAX_PAGE = 1_000
MAX_CONTEXT = 10
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_DEADLINE_SECONDS = 50.0
OUTPUT_CHARS = 256 * 1024


def file_search(
    roots: Roots,
    path: str,
    *,
    names: Sequence[str] = (),
    content: str | None = None,
    literal: bool = False,
    case: Case = "smart",
    context_lines: int = 0,
    include_hidden: bool = False,
    respect_gitignore: bool = True,
    max_file_bytes: int = 4 * 1024 * 1024,
    limit: int = 100,
    cursor: str | None = None,
    deadline_seconds: float = 10.0,
) -> SearchPage:
    """Search below the folder `path`.

    `names`: globs as in .gitignore (`*.py`, `src/**/test_*`, `!*.min.js`); none means every file.
    `content`: an RE2 pattern (`literal`: plain text); without it the names are the result. `case`:
    smart ignores case while the pattern has no capital letter.
    """
    _check(context_lines, max_file_bytes, limit, deadline_seconds)
    if content is None and not names:
        raise HostError(
            "Neither names nor content is given.",
            fix="Give a glob, a pattern, or both; directory_list shows everything.",
            code="bad_query",
        )
    query = cursors.digest(
        "search", path, list(names), content, literal, case, include_hidden, respect_gitignore
    )
    base, only = _base(roots, path)
    with refusing(path, "search"), roots.folder(base) as folder:
        search = _Search(
            roots=roots,
            folder=folder,
            only=only,
            names=_name_spec(names),
            pattern=None if content is None else Pattern(content, literal=literal, case=case),
            context=context_lines,
            include_hidden=include_hidden,
            respect_gitignore=respect_gitignore,
            max_file_bytes=max_file_bytes,
            limit=limit,
            ends_at=time.monotonic() + deadline_seconds,
            resume=_Position.unpacked(cursors.unpack(query, cursor)),
        )
        return search.run(query)


@dataclass(frozen=True, slots=True)
class _Position:
    """The last path that was looked at, and the last line of it (all, when None)."""

    parts: list[str]
    line: int | None

    @staticmethod
    def unpacked(value: Any) -> _Position | None:
        if value is None:
            return None
        return _Position([os.fsdecode(bytes.fromhex(part)) for part in value[0]], value[1])

    def packed(self) -> list[Any]:
        return [[os.fsencode(part).hex() for part in self.parts], self.line]


@dataclass
class _Search:
    roots: Roots
    folder: OpenFolder
    only: str | None
    names: GitIgnoreSpec | None
    pattern: Pattern | None
    context: int
    include_hidden: bool
    respect_gitignore: bool
    max_file_bytes: int
    limit: int
    ends_at: float
    resume: _Position | None
    matches: list[SearchMatch] = field(default_factory=list[SearchMatch])
    files: list[FoundFile] = field(default_factory=list[FoundFile])
    skipped: dict[str, int] = field(default_factory=dict[str, int])
    searched: int = 0
    room: int = OUTPUT_CHARS
    position: _Position | None = None
    stopped: str | None = None
    rules: list[tuple[str, IgnoreRules | None]] = field(
        default_factory=list[tuple[str, "IgnoreRules | None"]]
    )
    closed: frozenset[tuple[int, int]] = frozenset()

    def run(self, query: str) -> SearchPage:
        self.closed = self.roots.rules.inodes()
        base = None
        if self.respect_gitignore:
            base = rules_above(self.roots, self.folder.path)
            base = rules_of(self.folder.fd, self.folder.path, base, (".git/info/exclude",))
        self.rules = [("", base)]
        self.position = self.resume
        for node in walk(self.folder.fd, enter=self._enter, failed=self._failed):
            if self._passed(node):
                continue
            # Looked at only where this page has got further: else a slow way back to the cursor
            # would use up the time of every page, and no page would ever get on.
            if self.position is not self.resume and time.monotonic() >= self.ends_at:
                self.stopped = "deadline"
            if self.stopped:
                break
            if stat.S_ISREG(node.info.st_mode):
                self._look_at(node)
            if not self.stopped:
                # Also behind folders and what is left out: the next page must get further.
                self.position = _Position(node.path.split("/"), None)
        cursor = None
        if self.stopped:
            cursor = cursors.pack(query, (self.position or _Position([], None)).packed())
        return SearchPage(
            path=shown(self.folder.path),
            matches=tuple(self.matches),
            files=tuple(self.files),
            files_searched=self.searched,
            skipped=SearchSkipped(**self.skipped),
            next_cursor=cursor,
            incomplete=self.stopped,
        )

    def _look_at(self, node: Node) -> None:
        if self.only is not None:
            if node.path != self.only:
                return
        elif self._left_out(node):
            return
        if self.names is not None and not self.names.match_file(shown(node.path)):
            return
        resumed = self.resume is not None and node.path.split("/") == self.resume.parts
        after_line = (self.resume.line or 0) if resumed and self.resume else 0
        if self.pattern is None:
            if self._is_closed(node):
                return
            self._add_file(node)
        else:
            self._search_content(node, self.pattern, after_line)

    def _search_content(self, node: Node, pattern: Pattern, after_line: int) -> None:
        if node.info.st_size > self.max_file_bytes:
            self._skip("too_large")
            return
        data = self._read(node)
        if data is None:
            return
        self.searched += 1
        for match in pattern.lines(data, self.context, after_line):
            size = len(match.text) + sum(map(len, (*match.before, *match.after)))
            if len(self.matches) >= self.limit or (size > self.room and self.matches):
                self.stopped = "limit"
                return
            self.room -= size
            self.matches.append(
                SearchMatch(
                    path=shown(node.path),
                    line=match.line,
                    column=match.column,
                    text=match.text,
                    text_cut=match.text_cut,
                    before=match.before,
                    after=match.after,
                )
            )
            self.position = _Position(node.path.split("/"), match.line)

    def _read(self, node: Node) -> bytes | None:
        if self._is_closed(node):
            return None
        try:
            fd = Roots.open_entry(node.folder_fd, node.name)
        except OSError:
            self._skip("unreadable")
            return None
        try:
            folder_uid = os.stat(".", dir_fd=node.folder_fd).st_uid
            self.roots.vet(self._absolute(node), os.fstat(fd), folder_uid, fd)
            data = read_whole(fd, self.max_file_bytes)
        except HostError:
            self._skip("denied")
            return None
        except OSError:
            self._skip("unreadable")
            return None
        finally:
            os.close(fd)
        if len(data) > self.max_file_bytes:
            self._skip("too_large")  # it grew, or its size is not what stat(2) says
            return None
        text = searchable(data)
        if text is None:
            self._skip("binary")
        return text

    def _add_file(self, node: Node) -> None:
        if len(self.files) >= self.limit or len(node.path) > self.room:
            self.stopped = "limit"
            return
        self.room -= len(node.path)
        self.files.append(
            FoundFile(
                path=shown(node.path),
                size_bytes=node.info.st_size,
                modified_at=datetime.fromtimestamp(node.info.st_mtime, UTC),
            )
        )

    def _enter(self, node: Node) -> bool:
        if self.only is not None or self._left_out(node):
            return False
        if self.resume is not None:
            parts = node.path.split("/")
            # Done with on an earlier page: everything in it sorts before the last path seen.
            if parts < self.resume.parts[: len(parts)]:
                return False
        if node.depth + 1 >= MAX_DEPTH:
            self._skip("too_deep")
            return False
        return not self._is_closed(node)

    def _left_out(self, node: Node) -> bool:
        if node.name == ".git" or (node.name.startswith(".") and not self.include_hidden):
            return True
        rules = self._rules_for(node)
        if rules is None:
            return False
        return rules.ignores(shown(self._absolute(node)), folder=node.is_folder)

    def _rules_for(self, node: Node) -> IgnoreRules | None:
        """The rules inside the folder that `node` lies in; read once when it is entered."""
        if not self.respect_gitignore:
            return None
        inside = node.path[: -len(node.name)]
        while not inside.startswith(self.rules[-1][0]):
            self.rules.pop()
        if self.rules[-1][0] != inside:
            above = self.rules[-1][1]
            path = shown(self._absolute(node)[: -len(node.name) - 1])
            self.rules.append((inside, rules_of(node.folder_fd, path, above)))
        return self.rules[-1][1]

    def _absolute(self, node: Node) -> str:
        return f"{self.folder.path.rstrip('/')}/{node.path}"

    def _passed(self, node: Node) -> bool:
        """Whether an earlier page has dealt with this entry to its end."""
        if self.resume is None:
            return False
        parts = node.path.split("/")
        return parts < self.resume.parts or (
            parts == self.resume.parts and self.resume.line is None
        )

    def _is_closed(self, node: Node) -> bool:
        path = self._absolute(node)
        by_inode = (node.info.st_dev, node.info.st_ino) in self.closed
        if by_inode or self.roots.rules.why(path, folder=node.is_folder) is not None:
            self._skip("denied")
            return True
        return False

    def _failed(self, path: str, error: OSError) -> None:
        if not path:
            raise error
        self._skip("unreadable")

    def _skip(self, why: str) -> None:
        self.skipped[why] = self.skipped.get(why, 0) + 1


def _base(roots: Roots, path: str) -> tuple[str, str | None]:
    """(folder to walk, name in it when `path` is a single file)."""
    try:
        with roots.folder(path):
            return path, None
    except HostError as error:
        if error.code != "not_a_folder":
            raise
    with roots.place(path) as place:
        return place.folder, place.name


def _name_spec(names: Sequence[str]) -> GitIgnoreSpec | None:
    if not names:
        return None
    try:
        spec = GitIgnoreSpec.from_lines(names)
    except ValueError as error:
        raise HostError(
            f"A name pattern is not valid: {error}.",
            fix="Use globs as in .gitignore, such as *.py or src/**/test_*.",
            code="bad_pattern",
        ) from error
    if all(name.startswith("!") for name in names):
        # Only exclusions: from all files.
        spec = GitIgnoreSpec.from_lines(["*", *names])
    return spec


def _check(context: int, max_file_bytes: int, limit: int, deadline: float) -> None:
    for name, value, low, high in (
        ("context_lines", context, 0, MAX_CONTEXT),
        ("max_file_bytes", max_file_bytes, 1, MAX_FILE_BYTES),
        ("limit", limit, 1, MAX_PAGE),
        ("deadline_seconds", deadline, 0.01, MAX_DEADLINE_SECONDS),
    ):
        if not low <= value <= high:
            raise HostError(
                f"{name}={value} is out of range.", fix=f"Use {low} to {high}.", code="bad_range"
            )
