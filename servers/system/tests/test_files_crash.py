"""A writer killed at any point leaves the old file or the new one, and the next start cleans up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from hostwright_system.files import Roots, backup_list, open_file_space, trash_folder

ROUNDS = 60
SIZE = 300_000

# Whole files of one repeated byte: a torn one has two different bytes or another length.
WRITER = """
import sys
from pathlib import Path
from hostwright_system.files import Roots, file_write, open_file_space, trash_folder
root, state, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
roots = Roots([root], protected=[state], working_folder=root, trash=trash_folder(state / "files"))
space = open_file_space(roots, state / "files")
n = int(sys.argv[4])
print("ready", flush=True)
while True:
    n += 1
    file_write(space, "f", chr(97 + n % 26) * size)
"""


def test_killed_writers_never_tear_a_file(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    root.mkdir()
    state.mkdir(mode=0o700)
    (root / "f").write_text("0" * SIZE)
    chance = random.Random(7)  # noqa: S311 (when to kill, the same in every run)
    contents: set[str] = set()
    rounds = 0
    # Each child is forked from one that has imported everything: the kill hits writes, not imports.
    forker = subprocess.Popen(
        [sys.executable, "-c", FORKER, str(root), str(state), str(SIZE), WRITER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert forker.stdin
    assert forker.stdout
    try:
        # The first one is let write, which tells how long a write takes here and now.
        child = begin(forker, 1)
        began = time.monotonic()
        while (root / "f").read_bytes()[:1] == b"0":
            assert time.monotonic() < began + 120, "the child does not get to write"
            time.sleep(0.001)
        one_write = time.monotonic() - began
        end(forker, child)
        ends_at = time.monotonic() + 20
        # On a slow machine fewer rounds, on all the same promise.
        while rounds < ROUNDS and (time.monotonic() < ends_at or rounds < 6 or len(contents) < 4):
            rounds += 1
            child = begin(forker, rounds * 5)
            time.sleep(chance.uniform(0, 3 * one_write))
            end(forker, child)
            text = (root / "f").read_text()
            assert len(text) == SIZE
            assert len(set(text)) == 1, "two writes in one file"
            contents.add(text[0])
    finally:
        forker.stdin.close()
        assert forker.wait(timeout=60) == 0
    assert len(contents) > 3, "the children did not get to write"
    roots = Roots([root], protected=[state], trash=trash_folder(state / "files"))
    space = open_file_space(roots, state / "files")
    try:
        assert sorted(p.name for p in root.iterdir()) == ["f"]
        assert list((state / "files" / "inflight").iterdir()) == []
        for backup in backup_list(space, str(root / "f")).backups:
            assert len(set(space.backups.content(backup))) == 1
    finally:
        space.close()


def begin(forker: subprocess.Popen[str], number: int) -> int:
    """Have a writer forked; its pid, once it is about to write."""
    assert forker.stdin
    assert forker.stdout
    forker.stdin.write(f"{number}\n")
    forker.stdin.flush()
    child = int(forker.stdout.readline())
    assert forker.stdout.readline() == "ready\n"
    return child


def end(forker: subprocess.Popen[str], child: int) -> None:
    """Kill the writer; back when it is gone."""
    assert forker.stdout
    os.kill(child, signal.SIGKILL)
    assert forker.stdout.readline() == f"gone {child}\n"


FORKER = """
import os, sys
import hostwright_system.files
root, state, size, writer = sys.argv[1:5]
for line in sys.stdin:
    child = os.fork()
    if not child:
        print(os.getpid(), flush=True)
        sys.argv = ["writer", root, state, size, line.strip()]
        exec(writer)
    os.waitpid(child, 0)
    print("gone", child, flush=True)
"""
