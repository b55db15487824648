"""Cleaning up after a write that was killed.

Each write notes its temporary file in `STATE/inflight` and holds a lock on the note while it runs.
A note whose lock is free belongs to a process that died: the next start removes the temporary file
it names (and nothing that does not carry the temporary prefix), then the note. The notes are not
synced: after power loss a stray temporary file may stay, which harms nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from hostwright_kit.errors import HostError
from hostwright_system.files.places import Place
from hostwright_system.files.roots import Roots
from hostwright_system.files.trees import remove_tree

PREFIX = ".hostwright-"
_SUFFIX = ".tmp"


class Inflight:
    """The notes of one state folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def temporary(self, place: Place) -> Generator[str]:
        """A fresh temporary name beside `place`; whatever bears it afterwards is removed."""
        token = secrets.token_hex(8)
        name = f"{PREFIX}{token}{_SUFFIX}"
        note = self._folder / token
        fd = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.write(fd, json.dumps([place.folder, name]).encode())
            try:
                yield name
            finally:
                remove_tree(place.folder_fd, name, missing_ok=True)
        finally:
            note.unlink(missing_ok=True)
            os.close(fd)

    def sweep(self, roots: Roots) -> int:
        """Remove what dead writers left; how many temporary files there were."""
        removed = 0
        for note in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError), note.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # its writer lives
                removed += self._remove(roots, file.read())
                note.unlink(missing_ok=True)
        return removed

    @staticmethod
    def _remove(roots: Roots, note: bytes) -> int:
        try:
            folder, name = json.loads(note)
        except ValueError:
            return 0  # killed before the note was written: then there is no temporary file either
        if not (name.startswith(PREFIX) and name.endswith(_SUFFIX)):
            return 0
        try:
            with roots.place(f"{folder}/{name}", follow=False) as place:
                if place.stat() is None:
                    return 0
                remove_tree(place.folder_fd, name)
        except (HostError, OSError):
            return 0  # the folder is gone or closed to us now, and with it our reason to touch it
        return 1
