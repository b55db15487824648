"""What a call would overwrite, as an approval binds it: each path with the state it has now.

The owner approves "write this over that file", not over whatever stands there by then. A tool
names the parameters that hold such paths (`overwrites=("path",)`); their contents are hashed when
the owner is asked and again when the grant is used, and another hash is another call.

Nothing that is read here is shown to anybody: only its hash leaves this module.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Beyond these a path is bound by its size, times and inode, which is cheap and nearly as good.
MAX_HASHED_BYTES = 64 * 1024 * 1024
MAX_ENTRIES = 20_000
_CHUNK = 1024 * 1024


def overwritten(arguments: Mapping[str, Any], names: Sequence[str], folder: str) -> dict[str, str]:
    """Path → state, for the paths that stand in these parameters. Blocking."""
    given = [arguments[name] for name in names if isinstance(arguments.get(name), str)]
    paths = [os.path.join(folder, os.path.expanduser(text)) for text in given if "\0" not in text]  # noqa: PTH118, PTH111 - text, which need not be a path
    return {path: _state(path) for path in paths}


def _state(path: str) -> str:
    try:
        info = os.lstat(path)
        link = f"link to {os.readlink(path)}, " if stat.S_ISLNK(info.st_mode) else ""  # noqa: PTH115
        return link + _target(Path(path))
    except FileNotFoundError:
        return "absent"
    except OSError as error:
        # Not readable for us is a state too; the tool itself will say so.
        return f"unreadable: {error.strerror}"


def _target(path: Path) -> str:
    # Non-blocking, or a FIFO would hold us up; no terminal of ours is opened by accident.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        info = os.fstat(handle)
        if stat.S_ISREG(info.st_mode):
            return _file(handle, info)
        if stat.S_ISDIR(info.st_mode):
            return f"folder {_tree(path)}"
        return f"special {_facts(info)}"
    finally:
        os.close(handle)


def _file(handle: int, info: os.stat_result) -> str:
    if info.st_size > MAX_HASHED_BYTES:
        return f"large file {_facts(info)}"
    found = hashlib.sha256()
    while chunk := os.read(handle, _CHUNK):
        found.update(chunk)
    return f"sha256 {found.hexdigest()} mode {stat.S_IMODE(info.st_mode):o}"


def _tree(path: Path) -> str:
    """A hash over names, sizes and times below; contents would take too long."""
    found = hashlib.sha256()
    for count, (name, info) in enumerate(_walk(path), 1):
        if count > MAX_ENTRIES:
            return f"of more than {MAX_ENTRIES} entries, {_facts(path.stat())}"
        found.update(f"{name}\0{_facts(info)}\0".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def _walk(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted([*files, *folders]):
            inside = Path(folder, name)
            try:
                yield str(inside.relative_to(path)), inside.lstat()
            except FileNotFoundError:
                continue


def _facts(info: os.stat_result) -> str:
    return f"{info.st_mode:o} {info.st_dev}:{info.st_ino} {info.st_size} {info.st_mtime_ns}"
