"""What the file tools share: roots, backups, trash and the locks between calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from hostwright_system.files.backups import BackupStore
from hostwright_system.files.history import History, Limits
from hostwright_system.files.inflight import Inflight
from hostwright_system.files.roots import Roots
from hostwright_system.files.trash import TrashStore


class _Lock:
    """`threading.Lock` is a function and cannot be referred to weakly."""

    __slots__ = ("__weakref__", "mutex")

    def __init__(self) -> None:
        self.mutex = threading.Lock()


@dataclass(frozen=True)
class FileSpace:
    """What the writing file tools take as their first argument; the reading ones take `roots`."""

    roots: Roots
    history: History
    backups: BackupStore
    trash: TrashStore
    inflight: Inflight
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _locks: WeakValueDictionary[str, _Lock] = field(default_factory=WeakValueDictionary[str, _Lock])

    @contextmanager
    def alone_with(self, path: str) -> Generator[None]:
        """Two calls that change the same file run one after the other."""
        with self._guard:
            lock = self._locks.get(path)
            if lock is None:
                lock = self._locks[path] = _Lock()
        with lock.mutex:
            yield

    def close(self) -> None:
        """Close the state folder."""
        self.history.close()


def trash_folder(state: Path) -> Path:
    """Where the trash of `state` lies; `Roots` must know it."""
    return state / "trash"


def open_file_space(roots: Roots, state: Path, limits: Limits | None = None) -> FileSpace:
    """Open the state folder (created 0700) and clean up after a crash.

    `state` must lie in one of the folders that `roots` protects, and `roots` know its trash.
    """
    limits = limits or Limits()
    if roots.rules.why(str(state), folder=True) is None:
        raise ValueError(f"{state} is not protected by the roots")
    if roots.trash != Path(os.path.realpath(trash_folder(state))):
        raise ValueError("the roots do not know the trash folder of this state folder")
    history = History(state)
    try:
        backups = BackupStore(history, limits)
        trash = TrashStore(history, limits)
        inflight = Inflight(history.inflight)
        backups.sweep()
        trash.recover()
        inflight.sweep(roots)
    except BaseException:
        history.close()
        raise
    return FileSpace(roots, history, backups, trash, inflight)
