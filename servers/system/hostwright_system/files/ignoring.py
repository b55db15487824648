"""Which files a search leaves out by .gitignore and .ignore (gitignore(5), by pathspec).

Each folder's rules apply to what lies below it; the deepest rule that speaks about a path wins. The
rules of the folders above the searched one count too, up to the repository's top. As in git and
ripgrep, nothing below an ignored folder comes back.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pathspec import GitIgnoreSpec

from hostwright_kit.errors import HostError
from hostwright_system.files.openat2 import open_folder_beneath
from hostwright_system.files.reading import read_whole
from hostwright_system.files.roots import Roots

_NAMES = (".gitignore", ".ignore")
_MAX_RULE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """Rules of one folder on top of those of the folders above it."""

    spec: GitIgnoreSpec
    prefix: str
    above: IgnoreRules | None

    def ignores(self, path: str, *, folder: bool) -> bool:
        """Whether `path` (absolute, as `prefix`) is left out."""
        rules: IgnoreRules | None = self
        while rules is not None:
            inside = path[len(rules.prefix) + 1 :] + ("/" if folder else "")
            include = rules.spec.check_file(inside).include
            if include is not None:
                return include
            rules = rules.above
        return False


def rules_of(
    folder_fd: int, path: str, above: IgnoreRules | None, extra: tuple[str, ...] = ()
) -> IgnoreRules | None:
    """The rules that hold inside the open folder `path`."""
    lines: list[str] = []
    for name in (*extra, *_NAMES):
        lines += _lines(folder_fd, name)
    if not lines:
        return above
    return IgnoreRules(_spec(lines), path.rstrip("/"), above)


def rules_above(roots: Roots, path: str) -> IgnoreRules | None:
    """The rules of the folders above `path`, from the top of the repository it lies in."""
    parents: list[str] = []
    current = path
    while not _is_top(roots, current):
        parent = os.path.dirname(current)  # noqa: PTH120 (a str, also for odd bytes)
        if parent == current or not _inside(roots, parent):
            return None  # no repository around it: rules above do not concern it
        parents.append(parent)
        current = parent
    rules: IgnoreRules | None = None
    for parent in reversed(parents):
        with roots.folder(parent) as folder:
            rules = rules_of(folder.fd, folder.path, rules, (".git/info/exclude",))
    return rules


def _is_top(roots: Roots, path: str) -> bool:
    try:
        with roots.folder(path) as folder:
            os.stat(".git", dir_fd=folder.fd, follow_symlinks=False)
    except (HostError, OSError):
        return False
    return True


def _inside(roots: Roots, path: str) -> bool:
    return any(f"{path}/".startswith(f"{root}/".replace("//", "/")) for root in roots.folders)


def _lines(folder_fd: int, name: str) -> list[str]:
    *folders, last = name.split("/")
    try:
        parent = open_folder_beneath(folder_fd, folders)
        try:
            fd = Roots.open_entry(parent, last)
            try:
                data = read_whole(fd, _MAX_RULE_BYTES)
            finally:
                os.close(fd)
        finally:
            os.close(parent)
    except OSError:
        return []  # none there, or none that we may read: then it rules nothing out
    return data.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()


def _spec(lines: list[str]) -> GitIgnoreSpec:
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError:
        pass
    good: list[str] = []
    for line in lines:  # one bad line must not switch off the others; git skips it too
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            continue
        good.append(line)
    return GitIgnoreSpec.from_lines(good)
