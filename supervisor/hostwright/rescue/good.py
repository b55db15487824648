"""Copies of the configuration as it was when everything had started: what "last good" means.

`<state_dir>/good/<UTC time>-<digest>/`: the owner's `config.toml`, `policy.toml` and
`manifests/*.toml` as they stand in the configuration folder, beside an `index.json` with the
SHA-256 of each. A copy is made whole in a folder of another name and then renamed. The newest ten
different ones stay. Files elsewhere (`/etc` for a user, `HOSTWRIGHT_CONFIG`) are not copied: they
are not ours to put back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hostwright_kit.errors import HostError

FOLDER = "good"
INDEX = "index.json"
KEPT = 10
MAX_FILE_BYTES = 1024 * 1024
MAX_FILES = 1_000

Files = Mapping[str, bytes]
"""By the name in the configuration folder."""


@dataclass(frozen=True)
class Copy:
    """One good configuration."""

    folder: Path
    made: str
    digest: str

    @property
    def id(self) -> str:
        """As it is named in commands."""
        return self.folder.name

    def files(self) -> Files:
        """Its content; raises `HostError` when it is not what was copied."""
        try:
            index: dict[str, str] = json.loads((self.folder / INDEX).read_bytes())["files"]
            found = {name: (self.folder / name).read_bytes() for name in index}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(self.folder, str(error)) from error
        if {name: _sha256(content) for name, content in found.items()} != index:
            raise _damaged(self.folder, "a file is not what was copied")
        return found


@dataclass(frozen=True)
class Difference:
    """What putting a copy back would change."""

    written: tuple[str, ...]
    """New or with another content."""
    removed: tuple[str, ...]

    @property
    def any(self) -> bool:
        """Whether it would change anything."""
        return bool(self.written or self.removed)

    def words(self) -> list[str]:
        """For people."""
        return [
            *(f"restore {name}" for name in self.written),
            *(f"remove {name}" for name in self.removed),
        ]


def names_in(config_dir: Path) -> list[str]:
    """The files that are the owner's configuration."""
    found = [name for name in ("config.toml", "policy.toml") if (config_dir / name).is_file()]
    manifests = config_dir / "manifests"
    if manifests.is_dir():
        found += sorted(f"manifests/{file.name}" for file in manifests.glob("*.toml"))
    return found[:MAX_FILES]


def read(config_dir: Path) -> dict[str, bytes]:
    """The configuration as it stands; raises `OSError`."""
    return {name: _bounded(config_dir / name) for name in names_in(config_dir)}


def keep(state_dir: Path, files: Files) -> Copy | None:
    """Keep these, if they differ from the newest copy. Raises `OSError`."""
    digest = digest_of(files)
    known = copies(state_dir)
    if known and known[0].digest == digest:
        return None
    top = state_dir / FOLDER
    top.mkdir(mode=0o700, exist_ok=True)
    made = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name = f"{made}-{digest[:12]}"
    aside = top / f".{name}.{os.getpid()}"
    try:
        _write(aside / INDEX, _index(made, digest, files))
        for one, content in files.items():
            _write(aside / one, content)
        if (top / name).exists():
            # The same content within one second: it is there already.
            return None
        aside.rename(top / name)
        _sync(top)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in copies(state_dir)[KEPT:]:
        shutil.rmtree(old.folder, ignore_errors=True)
    return Copy(top / name, made, digest)


def copies(state_dir: Path) -> list[Copy]:
    """All of them, newest first."""
    return sorted(_copies(state_dir), key=lambda copy: copy.folder.name, reverse=True)


def find(state_dir: Path, copy_id: str) -> Copy:
    """One by its id; raises `HostError`."""
    for copy in _copies(state_dir):
        if copy.id == copy_id:
            return copy
    known = ", ".join(copy.id for copy in copies(state_dir)[:5]) or "none"
    raise HostError(
        f"There is no copy {copy_id!r} of a good configuration.",
        fix=f"Known: {known}. They are made when the supervisor has started.",
        code="not_found",
    )


def difference(config_dir: Path, files: Files) -> Difference:
    """What putting these back would change. Raises `OSError`."""
    there = names_in(config_dir)
    written = tuple(
        name
        for name, content in files.items()
        if name not in there or _bounded(config_dir / name) != content
    )
    return Difference(written, tuple(name for name in there if name not in files))


def put_back(config_dir: Path, files: Files) -> list[str]:
    """Make the configuration these files, each whole; then read them again.

    Raises `OSError` half-way, or `HostError` when what stands there is not what was written.
    """
    from hostwright_kit.atomic import write_private

    change = difference(config_dir, files)
    for name in change.written:
        (config_dir / name).parent.mkdir(mode=0o700, exist_ok=True)
        write_private(config_dir / name, files[name])
    for name in change.removed:
        (config_dir / name).unlink()
    left = difference(config_dir, files)
    if left.any:
        raise HostError(
            f"The configuration is not what was to be restored: {', '.join(left.words())}.",
            fix="Somebody else writes to it; end that first.",
            code="not_restored",
        )
    return change.words()


def digest_of(files: Files) -> str:
    """One digest over names and contents."""
    lines = (f"{name}\0{_sha256(content)}\n" for name, content in sorted(files.items()))
    return _sha256("".join(lines).encode())


def _copies(state_dir: Path) -> Iterator[Copy]:
    top = state_dir / FOLDER
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for folder in top.iterdir():
            if folder.name.startswith("."):
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                index = json.loads((folder / INDEX).read_bytes())
                yield Copy(folder, str(index["made"]), str(index["digest"]))


def _index(made: str, digest: str, files: Files) -> bytes:
    hashes = {name: _sha256(content) for name, content in files.items()}
    return json.dumps({"made": made, "digest": digest, "files": hashes}, indent=1).encode()


def _bounded(file: Path) -> bytes:
    with file.open("rb") as handle:
        content = handle.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(27, "too large for a configuration", str(file))
    return content


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _damaged(folder: Path, why: str) -> HostError:
    return HostError(
        f"The copy {folder} is damaged: {why}.",
        fix="Use another one (hostwright rescue names them).",
        code="copy_damaged",
    )
