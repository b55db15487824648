"""Which files a project has: those that git would not ignore, or those of a plain folder.

Links are never followed, so there are no loops and nothing outside the project. `.codegraphignore`
at the top (rules as in .gitignore) leaves out more.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from hostwright_codegraph.gitting import QUIET
from hostwright_codegraph.languages import language_of, unread_language

IGNORE_FILE = ".codegraphignore"
NEVER = frozenset(
    (
        *(".git", ".hg", ".svn", "node_modules", "site-packages", "__pycache__", ".venv", "venv"),
        *(".tox", ".nox", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".eggs"),
    )
)
GIT_SECONDS = 60


class Seen(NamedTuple):
    """A file as the file system tells of it."""

    size: int
    mtime_ns: int


class Scan(NamedTuple):
    """What a scan found."""

    files: dict[str, Seen]
    """Of a known language, by path from the project's top."""
    problems: dict[str, str]
    """What could not be looked at, and why."""
    unread: dict[str, int]
    """Files of code in languages that are not read, by language."""


def scan(root: Path) -> Scan:
    """Every file of the project that is of a known language."""
    problems: dict[str, str] = {}
    listed = _by_git(root)
    found = listed if listed is not None else _by_walking(root, problems)
    left_out = _left_out(root)
    files: dict[str, Seen] = {}
    unread: Counter[str] = Counter()
    for path in found:
        known, other = language_of(path), unread_language(path)
        if (known or other) is None or left_out(path) or NEVER & set(path.split("/")):
            continue
        if known is None:
            unread[str(other)] += 1
            continue
        try:
            path.encode("utf-8")
            info = os.lstat(f"{root}/{path}")
        except UnicodeEncodeError:
            problems[ascii(path)] = "its name is no UTF-8"
            continue
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # listed by git, deleted by the user
                problems[path] = error.strerror or str(error)
            continue
        if stat.S_ISREG(info.st_mode):
            files[path] = Seen(info.st_size, info.st_mtime_ns)
    return Scan(files, problems, dict(unread.most_common()))


def _by_git(root: Path) -> list[str] | None:
    """What git tracks or would track below the folder; None where it is no work tree."""
    try:
        done = subprocess.run(
            ["git", *QUIET, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root,
            capture_output=True,
            check=False,
            timeout=GIT_SECONDS,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    found: list[str] = []
    for raw in dict.fromkeys(done.stdout.split(b"\0")):
        path = os.fsdecode(raw).rstrip("/")
        if not path:
            continue
        # Submodules and repositories inside this one are listed as their folder.
        whole = root / path
        if language_of(path) is None and whole.is_dir() and not whole.is_symlink():
            inner = _by_git(whole) if (whole / ".git").exists() else None
            found += [f"{path}/{one}" for one in inner or ()]
        else:
            found.append(path)
    return found


def _by_walking(root: Path, problems: dict[str, str]) -> Iterator[str]:
    pending: list[tuple[str, tuple[tuple[str, object], ...]]] = [("", ())]
    while pending:
        prefix, above = pending.pop()
        try:
            entries = sorted(os.scandir(f"{root}/{prefix}"), key=lambda one: one.name)
        except OSError as error:
            problems[prefix or "."] = error.strerror or str(error)
            continue
        rules = (*above, *_rules(root, prefix, entries))
        for entry in entries:
            path = prefix + entry.name
            folder = entry.is_dir(follow_symlinks=False)
            if _ignored(rules, path + "/" if folder else path):
                continue
            if folder:
                if entry.name not in NEVER:
                    pending.append((f"{path}/", rules))
            else:
                yield path


def _rules(root: Path, prefix: str, entries: list[os.DirEntry[str]]) -> list[tuple[str, object]]:
    if not any(entry.name == ".gitignore" for entry in entries):
        return []
    return [(prefix, _spec(root / prefix / ".gitignore"))]


def _ignored(rules: tuple[tuple[str, object], ...], path: str) -> bool:
    for prefix, spec in reversed(rules):
        said = spec.check_file(path[len(prefix) :]).include  # type: ignore[attr-defined]
        if said is not None:
            return bool(said)
    return False


def _spec(path: Path) -> object:
    from pathspec import GitIgnoreSpec  # noqa: PLC0415 - most projects never need it

    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return GitIgnoreSpec.from_lines(lines)


def _left_out(root: Path) -> Callable[[str], bool]:
    """The project's own rules."""
    path = root / IGNORE_FILE
    if not path.is_file():
        return lambda _: False
    spec = _spec(path)
    return spec.match_file  # type: ignore[attr-defined]
