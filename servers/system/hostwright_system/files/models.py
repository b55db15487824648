"""What the file tools return. Sizes in bytes, times in UTC, hashes as lower-case SHA-256 hex."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

EntryKind = Literal["file", "directory", "symlink", "fifo", "socket", "device", "unknown"]
_MODE = Field(description="Permission bits, octal, as chmod takes them: '0644'.")


class FileContent(BaseModel, frozen=True):
    """A part of a file, or the whole of it."""

    path: str = Field(description="The real path, with links resolved.")
    kind: Literal["text", "binary", "image"]
    mime_type: str
    encoding: str | None = Field(description="Codec of the text; null for binary content.")
    has_bom: bool = Field(description="The file begins with a byte order mark, left out of `text`.")
    text: str | None = Field(description="The text, line endings as in the file.")
    base64: str | None = Field(description="The bytes of binary content or of the whole image.")
    unit: Literal["line", "byte"] = Field(description="What offset, returned and next_offset count")
    offset: int = Field(description="First line or byte returned, from 0.")
    returned: int = Field(description="Lines or bytes returned.")
    next_offset: int | None = Field(description="Where to read on in `unit`; null at the end.")
    next_byte_offset: int | None = Field(
        description="The same place in bytes. After `line_cut` it is the rest of the cut line: read"
        " on with unit='byte'."
    )
    line_cut: bool = Field(description="The one line returned was longer than the output bound.")
    replaced_characters: int = Field(description="Undecodable bytes shown as U+FFFD.")
    size_bytes: int
    total_lines: int | None = Field(description="Null when the file was not read to its end.")
    sha256: str | None = Field(
        description="Of the whole file; null above 64 MiB. Pass it as expected_sha256 to write."
    )
    modified_at: datetime
    mode: str = _MODE


class FileWritten(BaseModel, frozen=True):
    """A file that was written, edited or restored."""

    path: str = Field(description="The real path, with links resolved.")
    created: bool = Field(description="There was no file before.")
    changed: bool = Field(description="False when the file already had this content and mode.")
    size_bytes: int
    sha256: str
    sha256_before: str | None = Field(description="Null when created, or unread above 64 MiB.")
    backup_id: str | None = Field(description="The previous content; file_restore brings it back.")
    pruned_backup_ids: tuple[str, ...] = Field(description="Older backups dropped to make room.")
    mode: str = _MODE
    hard_link_broken: bool = Field(
        description="The file had further names; they keep the previous content."
    )
    attributes_lost: tuple[str, ...] = Field(description="Extended attributes not carried over.")


class FileEdited(BaseModel, frozen=True):
    """An edit, done or (dry_run) only shown."""

    path: str
    dry_run: bool
    replacements: int = Field(description="Places changed, over all edits.")
    diff: str = Field(description="Unified diff, LF line ends.")
    diff_truncated: bool
    sha256_before: str
    sha256: str = Field(description="Of the file after the edit, also for a dry run.")
    written: FileWritten | None = Field(description="Null for a dry run or an empty change.")


class Moved(BaseModel, frozen=True):
    """A file, link or folder that has a new path."""

    source: str
    destination: str
    kind: EntryKind
    across_file_systems: bool = Field(description="Copied and then removed, not renamed.")
    replaced_backup_id: str | None = Field(description="What was at the destination before.")
    pruned_backup_ids: tuple[str, ...]
    attributes_lost: tuple[str, ...]


class Deleted(BaseModel, frozen=True):
    """Something that lies in the trash now."""

    path: str
    trash_id: str = Field(description="file_restore brings it back.")
    kind: EntryKind
    entries: int = Field(description="Files, links and folders, itself included.")
    size_bytes: int
    pruned_trash_ids: tuple[str, ...] = Field(description="Older items dropped for good.")


class Restored(BaseModel, frozen=True):
    """What came back from a backup or from the trash."""

    path: str
    restored_from: Literal["backup", "trash"]
    kind: EntryKind
    size_bytes: int
    sha256: str | None = Field(description="Null for what came back from the trash.")
    replaced_backup_id: str | None = Field(description="Backup of the file that was replaced.")
    replaced_trash_id: str | None = Field(description="Trash item that holds what was replaced.")
    owner_kept: bool = Field(description="False when this user may not give the file to its owner.")


class Backup(BaseModel, frozen=True):
    """A kept earlier content of a file."""

    backup_id: str
    path: str
    sha256: str
    size_bytes: int
    mode: str = _MODE
    uid: int
    gid: int
    reason: str = Field(description="write, edit, move or restore: what replaced this content.")
    created_at: datetime


class BackupPage(BaseModel, frozen=True):
    """Backups, newest first."""

    backups: tuple[Backup, ...]
    total: int
    next_cursor: str | None


class TrashItem(BaseModel, frozen=True):
    """Something deleted that can be restored."""

    trash_id: str
    path: str = Field(description="Where it was, and where file_restore puts it.")
    kind: EntryKind
    entries: int
    size_bytes: int
    deleted_at: datetime


class TrashPage(BaseModel, frozen=True):
    """Trash items, newest first."""

    items: tuple[TrashItem, ...]
    total: int
    total_size_bytes: int
    next_cursor: str | None


class DirectoryEntry(BaseModel, frozen=True):
    """One name in a folder; links are shown, not followed."""

    path: str = Field(description="Relative to the listed folder.")
    kind: EntryKind
    size_bytes: int | None = Field(description="Of regular files.")
    modified_at: datetime | None
    mode: str | None = _MODE
    uid: int | None
    gid: int | None
    link_target: str | None = Field(default=None, description="Of a symbolic link, as stored.")
    denied: bool = Field(default=False, description="Closed to the file tools by a rule.")
    unaddressable: bool = Field(
        default=False, description="The name is no valid UTF-8: shown with escapes, not usable."
    )


class DirectoryPage(BaseModel, frozen=True):
    """Entries of a folder in the order asked for."""

    path: str
    entries: tuple[DirectoryEntry, ...]
    next_cursor: str | None
    total: int | None = Field(description="Entries in all; null when not all were looked at.")
    unreadable: tuple[str, ...] = Field(description="Folders that could not be opened (first 20).")
    incomplete: str | None = Field(description="Why entries are missing; null when none are.")


class SearchMatch(BaseModel, frozen=True):
    """One line that matches."""

    path: str = Field(description="Relative to the searched folder.")
    line: int = Field(description="From 1.")
    column: int = Field(description="Character of the first match in the line, from 1.")
    text: str
    text_cut: bool = Field(description="The line is longer; the part around the match is shown.")
    before: tuple[str, ...] = Field(description="Context lines above.")
    after: tuple[str, ...] = Field(description="Context lines below.")


class FoundFile(BaseModel, frozen=True):
    """One file whose name matches."""

    path: str = Field(description="Relative to the searched folder.")
    size_bytes: int
    modified_at: datetime


class SearchSkipped(BaseModel, frozen=True):
    """Files and folders that were met and not searched."""

    binary: int = 0
    too_large: int = 0
    denied: int = 0
    unreadable: int = 0
    too_deep: int = 0


class SearchPage(BaseModel, frozen=True):
    """Matches in path order. `matches` for a content search, `files` for a name search."""

    path: str
    matches: tuple[SearchMatch, ...]
    files: tuple[FoundFile, ...]
    files_searched: int
    skipped: SearchSkipped
    next_cursor: str | None = Field(description="Pass it to go on; null when all was searched.")
    incomplete: str | None = Field(description="Why the search stopped early: limit or deadline.")
