"""What git knows of a project: only asked, and no program of its configuration is run."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

from hostwright_kit.errors import HostError

SECONDS = 30
QUIET = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.pager=cat")
MOST_OUTPUT = 16 * 1024 * 1024
_HUNK = re.compile(rb"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@")


def git(root: Path, *arguments: str) -> bytes | None:
    """The output of a git command; None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *QUIET, *arguments],
            cwd=root,
            capture_output=True,
            check=False,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def changed_lines(root: Path, against: str) -> dict[str, list[tuple[int, int]]]:
    """Lines that differ from a commit, as they are numbered now, by file."""
    arguments = ("--unified=0", "--no-color", "--no-ext-diff", "--no-textconv", "--relative")
    said = git(root, "diff", *arguments, "--end-of-options", against, "--")
    if said is None:
        raise HostError(
            f"git can not compare {root.name} with {against!r}.",
            fix="Name a commit or a branch of this repository, such as HEAD or main.",
            code="no_diff",
        )
    found: dict[str, list[tuple[int, int]]] = {}
    path = ""
    for line in said[:MOST_OUTPUT].split(b"\n"):
        if line.startswith(b"+++ "):
            name = line[4:].rstrip(b"\t")
            path = os.fsdecode(name[2:]) if name.startswith(b"b/") else ""
        elif path and (hunk := _HUNK.match(line)):
            first, count = int(hunk[1]), int(hunk[2] or 1)
            found.setdefault(path, []).append((first, first + max(count, 1) - 1))
    return found


def churn(root: Path, days: int) -> Counter[str] | None:
    """In how many commits of the last days each file was changed; None without git."""
    said = git(
        root,
        "log",
        f"--since={days}.days",
        "--name-only",
        "--format=",
        "-z",
        "--relative",
        "--no-renames",
    )
    if said is None:
        return None
    names = said[:MOST_OUTPUT].replace(b"\n", b"\0").split(b"\0")
    return Counter(os.fsdecode(name) for name in names if name)
