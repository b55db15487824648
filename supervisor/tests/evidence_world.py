"""A ledger with checkpoints that somebody keeps, and a third party that has Python and no more."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

from hostwright_kit.checkpoints import Checkpoints, to_file
from hostwright_kit.host_key import host_signer
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.signed_note import split_notes

from .cli_world import Done, World

ENTRIES = 700
SIGNED = 300


class Evidence(World):
    """An installation whose ledger has been in use."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.kept = folder / "elsewhere.txt"
        self.their = folder / "their"
        self.their.mkdir()

    def append(self, count: int, *, caller: str = "agent") -> None:
        """Entries, with a checkpoint after every 300 and one at the end."""
        signer = host_signer(self.state)
        checkpoints = Checkpoints(lambda: signer, [to_file(self.kept)], every_entries=SIGNED)
        with closing(Ledger(self.ledger, checkpoints)) as ledger:
            for first in range(0, count, SIGNED):
                # In one go each, so that every checkpoint covers a known number of entries.
                entries = range(first, min(first + SIGNED, count))
                made = (Entry(type="t", caller=caller, detail={"n": n}) for n in entries)
                for wait in [ledger.submit(one) for one in made]:
                    wait.result(60)

    def notes(self) -> list[str]:
        return split_notes(self.kept.read_text())

    def hand_over(self) -> None:
        """What the third party fetches once: the script and the key."""
        self.ok("audit", "script", self.their / "check.py")
        (self.their / "key").write_text(self.ok("audit", "key").out)

    def check(self, *words: str | Path, key: str | Path = "key") -> Done:
        """The third party's own Python: not ours, nothing installed, nothing of our environment."""
        base: str = sys._base_executable  # type: ignore[attr-defined] - the one outside the venv
        process = subprocess.run(
            [base, "-I", "check.py", key, *words],
            cwd=self.their,
            env={"PATH": "/nowhere"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        done = Done(process.returncode, process.stdout, process.stderr)
        assert "Traceback" not in done.text, done.text
        return done
