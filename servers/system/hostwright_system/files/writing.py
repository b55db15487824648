"""`file_write`: create or replace a file whole, keeping what it was.

Order: check everything, keep the old content, then replace atomically (`replacing`). A link is
followed as long as its target lies in a root; the target is replaced, the link stays.

Blocking; writes in the roots and in the state folder.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from hostwright_kit.errors import HostError
from hostwright_system.files.backups import Kept
from hostwright_system.files.encodings import named
from hostwright_system.files.failures import refusing, shown
from hostwright_system.files.models import FileWritten
from hostwright_system.files.places import OpenFile, Place
from hostwright_system.files.reading import HASH_BYTES, hash_of
from hostwright_system.files.replacing import Owner, replace_file
from hostwright_system.files.space import FileSpace
from hostwright_system.files.trees import write_all

MAX_WRITE_BYTES = 16 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Change:
    """New content for a file, and what it asks of the old one."""

    data: bytes
    reason: str
    expected_sha256: str | None = None
    must_be_new: bool = False
    without_backup: bool = False
    mode: int | None = None
    owner: Owner | None = None


def file_write(
    space: FileSpace,
    path: str,
    content: str,
    *,
    encoding: str = "utf-8",
    expected_sha256: str | None = None,
    must_be_new: bool = False,
    create_parents: bool = False,
    mode: int | None = None,
    without_backup: bool = False,
) -> FileWritten:
    """Write `content` to `path`, at most 16 MiB.

    `encoding`: a codec for text, or base64 when `content` is bytes as base64. `expected_sha256`:
    the hash that file_read returned; anything else there refuses the write. `mode`: permission bits
    (0 to 0o777); an existing file keeps its own without it.
    """
    change = Change(
        data=_bytes_of(content, encoding),
        reason="write",
        expected_sha256=checked_sha256(expected_sha256),
        must_be_new=must_be_new,
        without_backup=without_backup,
        mode=_checked_mode(mode),
    )
    with (
        refusing(path, "write"),
        space.roots.place(path, create_parents=create_parents) as place,
        space.alone_with(place.path),
    ):
        return apply(space, place, change)


def apply(space: FileSpace, place: Place, change: Change) -> FileWritten:
    """Make `place` hold the content of `change`; the caller holds the lock on its path."""
    try:
        before = space.roots.open_file(place)
    except FileNotFoundError:
        return _create(space, place, change)
    try:
        return _replace(space, place, change, before)
    finally:
        before.close()


def checked_sha256(value: str | None) -> str | None:
    """`value` in lower case; `HostError` when it is no SHA-256."""
    if value is None:
        return None
    if not _SHA256.fullmatch(lowered := value.strip().lower()):
        raise HostError(
            f"expected_sha256={value[:80]!r} is not a SHA-256 in hex.",
            fix="Pass the sha256 that file_read returned, or leave it out.",
            code="bad_sha256",
        )
    return lowered


def _create(space: FileSpace, place: Place, change: Change) -> FileWritten:
    if change.expected_sha256 is not None:
        raise HostError(
            f"{shown(place.path)} does not exist, so it has not the expected content.",
            fix="Leave expected_sha256 out to create it.",
            code="not_found",
        )
    info, lost = replace_file(
        space.inflight,
        place,
        lambda fd: write_all(fd, change.data),
        before=None,
        mode=change.mode,
        owner=change.owner,
    )
    return FileWritten(
        path=shown(place.path),
        created=True,
        changed=True,
        size_bytes=len(change.data),
        sha256=hashlib.sha256(change.data).hexdigest(),
        sha256_before=None,
        backup_id=None,
        pruned_backup_ids=(),
        mode=f"{info.st_mode & 0o7777:04o}",
        hard_link_broken=False,
        attributes_lost=tuple(lost),
    )


def _replace(space: FileSpace, place: Place, change: Change, before: OpenFile) -> FileWritten:
    if change.must_be_new:
        raise HostError(
            f"{shown(place.path)} exists already.",
            fix="Choose another name, or write without must_be_new.",
            code="exists",
        )
    if not change.without_backup:
        space.backups.require_room(before)
    known = change.expected_sha256 is not None or before.info.st_size <= HASH_BYTES
    sha256_before = hash_of(before.fd) if known else None
    if change.expected_sha256 not in (None, sha256_before):
        raise HostError(
            f"{shown(place.path)} has not the expected content: its SHA-256 is {sha256_before}.",
            fix="Read it again and repeat the change on what is there now.",
            code="changed",
        )
    sha256 = hashlib.sha256(change.data).hexdigest()
    same_mode = change.mode in (None, before.info.st_mode & 0o7777)
    if sha256 == sha256_before and same_mode and change.owner is None:
        kept, info, lost, changed = None, before.info, list[str](), False
    else:
        kept = None if change.without_backup else space.backups.keep(before, change.reason)
        _require_same_content(place, kept, sha256_before)
        info, lost = replace_file(
            space.inflight,
            place,
            lambda fd: write_all(fd, change.data),
            before=before,
            mode=change.mode,
            owner=change.owner,
        )
        changed = True
    return FileWritten(
        path=shown(place.path),
        created=False,
        changed=changed,
        size_bytes=len(change.data),
        sha256=sha256,
        sha256_before=sha256_before,
        backup_id=kept.backup_id if kept else None,
        pruned_backup_ids=kept.pruned if kept else (),
        mode=f"{info.st_mode & 0o7777:04o}",
        hard_link_broken=changed and before.info.st_nlink > 1,
        attributes_lost=tuple(lost),
    )


def _require_same_content(place: Place, kept: Kept | None, sha256_before: str | None) -> None:
    if kept is not None and sha256_before not in (None, kept.sha256):
        raise HostError(
            f"{shown(place.path)} is being written by another program; nothing was changed.",
            fix="Try again when it is done.",
            code="changed",
        )


def _checked_mode(mode: int | None) -> int | None:
    if mode is not None and not 0 <= mode <= 0o777:
        raise HostError(
            f"mode={mode} is not a set of permission bits.",
            fix="Use 0 to 0o777, such as 0o644; setuid, setgid and sticky are not given here.",
            code="bad_mode",
        )
    return mode


def _bytes_of(content: str, encoding: str) -> bytes:
    if encoding == "base64":
        try:
            data = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise HostError(
                f"The content is not valid base64: {error}.",
                fix="Send standard base64 with padding and without line breaks.",
                code="bad_base64",
            ) from error
    else:
        data = encoded(content, named(encoding, b"").codec)
    if len(data) > MAX_WRITE_BYTES:
        raise HostError(
            f"The content has {len(data)} bytes; one call writes at most {MAX_WRITE_BYTES}.",
            fix="Write it with shell_exec, or in several files.",
            code="too_large",
        )
    return data


def encoded(text: str, codec: str) -> bytes:
    """`text` in `codec`; `HostError` names the first character that it has no place for."""
    try:
        return text.encode(codec)
    except UnicodeEncodeError as error:
        raise HostError(
            f"{codec} has no place for {text[error.start]!r} (character {error.start}).",
            fix="Use encoding utf-8, or other characters.",
            code="bad_encoding",
        ) from error
