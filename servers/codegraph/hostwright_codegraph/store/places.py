"""Where a project's index lies, and which projects there are."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from hostwright_kit.errors import HostError

REGISTRY = "projects.json"


class Places:
    """The folder of this server's indexes, inside the state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def facts(self) -> Path:
        """What all projects share."""
        return self.folder / "facts.db"

    def database(self, root: Path) -> Path:
        """A project's own database; the lock beside it belongs to whoever writes."""
        return self.folder / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.db"

    def projects(self) -> list[Path]:
        """The projects that were added, in that order."""
        try:
            text = (self.folder / REGISTRY).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        try:
            return [Path(one) for one in json.loads(text)]
        except (ValueError, TypeError) as error:
            raise HostError(
                f"The list of projects {self.folder / REGISTRY} is damaged: {error}.",
                fix="Remove the file and add the projects again with codegraph_index.",
                code="store_corrupt",
            ) from error

    def add(self, root: Path) -> bool:
        """Remember a project; whether it is new."""
        known = self.projects()
        if root in known:
            return False
        self._write([*known, root])
        return True

    def remove(self, root: Path) -> bool:
        """Forget a project with its index; whether there was one."""
        known = self.projects()
        self._write([one for one in known if one != root])
        for ending in ("", "-wal", "-shm"):
            path = self.database(root)
            path.with_name(path.name + ending).unlink(missing_ok=True)
        return root in known

    def _write(self, projects: list[Path]) -> None:
        target = self.folder / REGISTRY
        aside = target.with_name(f".{REGISTRY}.{os.getpid()}")
        with aside.open("w", encoding="utf-8") as file:
            json.dump([str(one) for one in projects], file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
