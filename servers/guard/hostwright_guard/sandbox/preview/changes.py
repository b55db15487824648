"""What an overlay's upper layer says was changed, beside the folder beneath it.

Format: overlayfs as the kernel writes it (`Documentation/filesystems/overlayfs.rst`): a character
device 0:0, or an empty file with the attribute `user.overlay.whiteout`, stands for a removed entry;
`user.overlay.opaque` on a folder says that nothing of the one beneath shows through. Blocking.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import stat
from typing import Literal

from pydantic import BaseModel, Field

from hostwright_guard.sandbox.preview import tree
from hostwright_guard.sandbox.preview.attributes import read_attributes
from hostwright_guard.sandbox.preview.tree import Kind

MAX_CHANGES = 5_000
MAX_DIFF_BYTES = 256 * 1024
MAX_DIFF_CHARS = 32_000
MAX_ALL_DIFFS = 200_000


class Change(BaseModel, frozen=True):
    """One entry that is not as it was."""

    path: str = Field(description="Relative to the folder.")
    action: Literal["created", "changed", "deleted", "mode"]
    kind: Kind
    mode: str | None = Field(default=None, description="Afterwards, octal.")
    old_mode: str | None = Field(default=None, description="Before, octal.")
    size: int | None = Field(default=None, description="Bytes afterwards.")
    sha256: str | None = Field(default=None, description="Of a file's content afterwards.")
    old_sha256: str | None = Field(default=None, description="Of a file's content before.")
    target: str | None = Field(default=None, description="Where a link leads afterwards.")
    diff: str | None = Field(default=None, description="Unified, of text that is not too long.")
    replaces: Kind | None = Field(
        default=None, description="What was there before, when it was of another kind."
    )
    note: str | None = None


class NotApplicableError(Exception):
    """The upper layer holds something that cannot be applied; the text says what."""


def read_changes(lower: int, upper: int) -> list[Change]:
    """The changes, parents before children. `lower` and `upper` are open folders."""
    below = {entry.path: entry.info for entry in tree.walk(lower)}
    found: list[Change] = []
    shown = 0
    opaque: list[str] = []
    for path, info in sorted(tree.walk(upper), key=lambda entry: entry.path):
        _refuse_unspeakable(path)
        old = None if any(path.startswith(f"{one}/") for one in opaque) else below.get(path)
        if _is_whiteout(upper, path, info):
            found += _deleted(path, below)
        elif stat.S_ISDIR(info.st_mode):
            if _attribute(upper, path, b"user.overlay.opaque") == b"y" and path in below:
                opaque.append(path)
                found += [one for inner in _children(path, below) for one in [_gone(inner, below)]]
            found += _folder(path, info, old, below)
        else:
            one = _entry(lower, upper, path, info, old, MAX_ALL_DIFFS - shown)
            if one is not None:
                if old is not None and stat.S_ISDIR(old.st_mode):
                    found += _deleted(path, below)
                shown += len(one.diff or "")
                found.append(one)
        if len(found) > MAX_CHANGES:
            raise NotApplicableError(f"more than {MAX_CHANGES} entries changed")
    return _merged(found)


def _refuse_unspeakable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(text).decode("utf-8", "replace")
        raise NotApplicableError(f"the name {shown[:200]!r} is not UTF-8") from None


def _merged(found: list[Change]) -> list[Change]:
    """Whatever was removed and made again is one change."""
    last: dict[str, Change] = {}
    for one in found:
        before = last.get(one.path)
        if before is None or before.action != "deleted" or one.action != "created":
            last[one.path] = one
        elif before.kind != one.kind:
            update = {"old_mode": before.old_mode, "replaces": before.kind}
            last[one.path] = one.model_copy(update=update)
        elif one.kind == "folder":
            del last[one.path]
            if before.old_mode != one.mode:
                update = {"action": "mode", "old_mode": before.old_mode}
                last[one.path] = one.model_copy(update=update)
        else:
            update = {"action": "changed", "old_mode": before.old_mode}
            last[one.path] = one.model_copy(update=update)
    return sorted(last.values(), key=lambda one: one.path)


def _folder(
    path: str, info: os.stat_result, old: os.stat_result | None, below: dict[str, os.stat_result]
) -> list[Change]:
    mode = _mode(info)
    if old is None or not stat.S_ISDIR(old.st_mode):
        replaced = tree.kind(old) if old is not None else None
        made = Change(path=path, action="created", kind="folder", mode=mode, replaces=replaced)
        return [made]
    if _mode(old) != mode:
        return [Change(path=path, action="mode", kind="folder", mode=mode, old_mode=_mode(old))]
    return []


def _entry(
    lower: int,
    upper: int,
    path: str,
    info: os.stat_result,
    old: os.stat_result | None,
    room: int,
) -> Change | None:
    kind = tree.kind(info)
    common = {"path": path, "kind": kind, "mode": _mode(info)}
    if old is not None:
        common["old_mode"] = _mode(old)
        if tree.kind(old) != kind:
            common["replaces"] = tree.kind(old)
            old = None
    if kind == "link":
        target = _readlink(upper, path)
        _refuse_unspeakable(target)
        if old is not None and tree.kind(old) == "link" and _readlink(lower, path) == target:
            return None
        return Change.model_validate(
            {**common, "action": "changed" if old else "created", "target": target}
        )
    if kind == "other":
        note = "a pipe, socket or device; it cannot be applied"
        return Change.model_validate({**common, "action": "created", "note": note})
    digest = tree.hash_file(upper, path)
    same_kind = old is not None and stat.S_ISREG(old.st_mode)
    before = tree.hash_file(lower, path) if same_kind else None
    notes: list[str] = []
    if same_kind and read_attributes(lower, path) != read_attributes(upper, path):
        notes.append("its extended attributes or access list change")
    if before == digest and not notes:
        if old is None or _mode(old) == _mode(info):
            return None
        return Change.model_validate(
            {**common, "action": "mode", "sha256": digest, "old_sha256": before}
        )
    if same_kind and old is not None and old.st_nlink > 1:
        notes.append(f"it has {old.st_nlink - 1} more names (hard links), which keep the old one")
    return Change.model_validate(
        {
            **common,
            "action": "created" if old is None else "changed",
            "size": info.st_size,
            "sha256": digest,
            "old_sha256": before,
            "diff": _diff(lower if same_kind else None, upper, path, room),
            "note": "; ".join(notes) or None,
        }
    )


def _diff(lower: int | None, upper: int, path: str, room: int) -> str | None:
    new = tree.read_file(upper, path, MAX_DIFF_BYTES + 1)
    old = tree.read_file(lower, path, MAX_DIFF_BYTES + 1) if lower is not None else b""
    if len(new) > MAX_DIFF_BYTES or len(old) > MAX_DIFF_BYTES or b"\0" in new + old:
        return None
    try:
        texts = (old.decode(), new.decode())
    except UnicodeDecodeError:
        return None
    lines = difflib.unified_diff(
        *(text.splitlines(keepends=True) for text in texts),
        fromfile=f"a/{path}" if lower is not None else "/dev/null",
        tofile=f"b/{path}",
    )
    text = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
    return text if len(text) <= min(MAX_DIFF_CHARS, room) else None


def _deleted(path: str, below: dict[str, os.stat_result]) -> list[Change]:
    if path not in below:
        return []
    return [_gone(path, below), *(_gone(inner, below) for inner in _children(path, below))]


def _children(path: str, below: dict[str, os.stat_result]) -> list[str]:
    return [inner for inner in below if inner.startswith(f"{path}/")]


def _gone(path: str, below: dict[str, os.stat_result]) -> Change:
    info = below[path]
    _refuse_unspeakable(path)
    return Change(path=path, action="deleted", kind=tree.kind(info), old_mode=_mode(info))


def _is_whiteout(upper: int, path: str, info: os.stat_result) -> bool:
    if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
        return True
    if not stat.S_ISREG(info.st_mode) or info.st_size:
        return False
    return _attribute(upper, path, b"user.overlay.whiteout") is not None


def _attribute(root: int, path: str, name: bytes) -> bytes | None:
    folder, last = tree.split(path)
    handle = tree.open_folder(root, folder)
    try:
        with contextlib.suppress(OSError):
            place = f"/proc/self/fd/{handle}/{last}"
            return os.getxattr(place, name, follow_symlinks=False)
    finally:
        os.close(handle)
    return None


def _readlink(root: int, path: str) -> str:
    folder, name = tree.split(path)
    handle = tree.open_folder(root, folder)
    try:
        return os.readlink(name, dir_fd=handle)
    finally:
        os.close(handle)


def _mode(info: os.stat_result) -> str:
    return f"{stat.S_IMODE(info.st_mode):04o}"
