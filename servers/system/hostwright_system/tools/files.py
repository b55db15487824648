"""Tools that read, write, search, move and bring back files inside the configured roots."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Literal, cast

import mcp_types as mcp
from fastmcp.tools.base import ToolResult
from pydantic import Field

from hostwright_kit.guard import call_scope
from hostwright_kit.server import HostServer
from hostwright_system import files
from hostwright_system.files import Edit, FileSpace
from hostwright_system.files.models import (
    BackupPage,
    Deleted,
    DirectoryPage,
    FileContent,
    FileEdited,
    FileWritten,
    Moved,
    Restored,
    SearchPage,
    TrashPage,
)

Path = Annotated[
    str,
    Field(min_length=1, max_length=4_096, description="Absolute, from ~, or from the work folder."),
]
Encoding = Annotated[str, Field(max_length=40)]
Sha256 = Annotated[
    str | None,
    Field(
        pattern="^[0-9a-fA-F]{64}$",
        description="Go on only if the file has this SHA-256 now (from file_read).",
    ),
]
Cursor = Annotated[
    str | None,
    Field(max_length=20_000, description="next_cursor of the page before, with the same question."),
]
Parents = Annotated[bool, Field(description="Create missing folders on the way.")]


def register(app: HostServer, space: FileSpace) -> None:
    """Add the tools."""
    _register_reading(app, space)
    _register_writing(app, space)


def _register_reading(app: HostServer, space: FileSpace) -> None:
    roots = space.roots
    # A daemon works in /, which is no root; then "here" is the home, or what the owner named.
    here = next(
        (
            name
            for name, folder in ((".", roots.working_folder), ("~", FilePath.home()))
            if any(map(folder.is_relative_to, roots.folders))
        ),
        str(roots.folders[0]) if roots.folders else "~",
    )

    @app.read_tool(title="Read a file")
    def file_read(
        path: Path,
        offset: Annotated[
            int, Field(ge=0, le=1 << 50, description="First line or byte, from 0.")
        ] = 0,
        limit: Annotated[
            int | None, Field(ge=1, le=1_000_000, description="Lines or bytes; none: what fits.")
        ] = None,
        unit: Annotated[
            Literal["line", "byte"], Field(description="What offset and limit count.")
        ] = "line",
        encoding: Annotated[
            Encoding, Field(description="auto, base64 for raw bytes, or a codec such as utf-16.")
        ] = "auto",
    ) -> FileContent:
        """Read a file or a part of it, at most 256 KiB a call; go on with next_offset.

        Text is decoded (the encoding is detected), binary content comes as base64, a PNG, JPEG,
        GIF or WebP as an image. The result's sha256 guards a later write (expected_sha256).
        Only inside the configured roots; private keys and password files are denied.
        """
        content = files.file_read(
            roots, path, offset=offset, limit=limit, unit=unit, encoding=encoding
        )
        if content.kind == "image" and content.base64 is not None:
            return _as_image(content)
        return content

    @app.read_tool(title="List a folder")
    def directory_list(
        path: Path = here,
        depth: Annotated[int, Field(ge=1, le=10, description="Levels below the folder.")] = 1,
        include_hidden: Annotated[bool, Field(description="Names that begin with a dot too.")] = (
            False
        ),
        sort: Annotated[
            Literal["name", "size", "modified"],
            Field(description="size: largest first; modified: newest first."),
        ] = "name",
        limit: Annotated[int, Field(ge=1, le=1_000, description="Entries per page.")] = 200,
        cursor: Cursor = None,
    ) -> DirectoryPage:
        """The entries of a folder with kind, size, mode, owner and time, a page at a time.

        Links are shown, not followed. Find files by name or content with file_search.
        """
        return files.directory_list(
            roots,
            path,
            depth=depth,
            include_hidden=include_hidden,
            sort=sort,
            limit=limit,
            cursor=cursor,
        )

    @app.read_tool(title="Search files")
    def file_search(
        path: Path = here,
        names: Annotated[
            list[Annotated[str, Field(max_length=1_000)]],
            Field(max_length=50, description="Globs as in .gitignore: *.py, src/**/x, !*.min.js"),
        ] = ["*"],  # noqa: B006 - never changed; schemas show it to agents
        content: Annotated[
            str | None,
            Field(max_length=2_000, description="RE2 pattern; without it names are the result."),
        ] = None,
        literal: Annotated[bool, Field(description="content is plain text.")] = False,
        case: Annotated[
            Literal["smart", "sensitive", "insensitive"],
            Field(description="smart: ignores case while content has no capital letter."),
        ] = "smart",
        context_lines: Annotated[int, Field(ge=0, le=10, description="Around each match.")] = 0,
        include_hidden: Annotated[bool, Field(description="Names that begin with a dot too.")] = (
            False
        ),
        respect_gitignore: Annotated[bool, Field(description="Skip what git ignores.")] = True,
        limit: Annotated[int, Field(ge=1, le=500, description="Matches per page.")] = 100,
        cursor: Cursor = None,
    ) -> SearchPage:
        """Find files by name, or lines by content, below a folder, as ripgrep does.

        .gitignore is respected, binary and very large files are skipped and counted. A search
        that runs out of its ten seconds says so and goes on from its cursor.
        """
        return files.file_search(
            roots,
            path,
            names=names,
            content=content,
            literal=literal,
            case=case,
            context_lines=context_lines,
            include_hidden=include_hidden,
            respect_gitignore=respect_gitignore,
            limit=limit,
            cursor=cursor,
        )

    @app.read_tool(title="Backups")
    def backup_list(
        path: Annotated[
            str | None, Field(max_length=4_096, description="Only those of this file.")
        ] = None,
        limit: Annotated[int, Field(ge=1, le=200, description="Per page, newest first.")] = 50,
        cursor: Cursor = None,
    ) -> BackupPage:
        """Backups that file_write, file_edit and file_move made, newest first."""
        return files.backup_list(space, path, limit=limit, cursor=cursor)

    @app.read_tool(title="Trash")
    def trash_list(
        limit: Annotated[int, Field(ge=1, le=200, description="Per page, newest first.")] = 50,
        cursor: Cursor = None,
    ) -> TrashPage:
        """What file_delete put into the trash and file_restore can bring back, newest first."""
        return files.trash_list(space, limit=limit, cursor=cursor)


def _register_writing(app: HostServer, space: FileSpace) -> None:
    @app.write_tool(destructive=True, idempotent=True, overwrites=("path",), title="Write a file")
    def file_write(
        path: Path,
        content: Annotated[str, Field(max_length=12_000_000, description="The whole new content.")],
        encoding: Annotated[
            Encoding, Field(description="A codec, or base64 when content is bytes.")
        ] = "utf-8",
        expected_sha256: Sha256 = None,
        must_be_new: Annotated[bool, Field(description="Refuse when the file exists.")] = False,
        create_parents: Parents = False,
        mode: Annotated[
            str | None,
            Field(pattern="^0?[0-7]{3}$", description="Permission bits, octal; kept if left out."),
        ] = None,
    ) -> FileWritten:
        """Replace a file's content, or create it, atomically: it has the old content or the new.

        Mode and owner are kept. What was there before is kept as a backup; file_restore brings it
        back. For a change inside a file prefer file_edit.
        """
        written = files.file_write(
            space,
            path,
            content,
            encoding=encoding,
            expected_sha256=expected_sha256,
            must_be_new=must_be_new,
            create_parents=create_parents,
            mode=None if mode is None else int(mode, 8),
        )
        _undo_write(written)
        return written

    @app.write_tool(
        destructive=True, read_when="dry_run", overwrites=("path",), title="Edit a file"
    )
    def file_edit(
        path: Path,
        edits: Annotated[
            list[Edit], Field(min_length=1, max_length=200, description="All of them or none.")
        ],
        expected_sha256: Sha256 = None,
        encoding: Annotated[Encoding, Field(description="auto, or a codec.")] = "auto",
        dry_run: Annotated[
            bool, Field(description="Only show the diff; needs no approval.")
        ] = False,
    ) -> FileEdited:
        """Replace exact pieces of text in a file and return the unified diff.

        Each old_text must stand in the file exactly once, or replace_all be set; if one does not,
        nothing is changed. Line endings, encoding, mode and owner are kept, a backup is made.
        """
        edited = files.file_edit(
            space,
            path,
            edits,
            expected_sha256=expected_sha256,
            encoding=encoding,
            dry_run=dry_run,
        )
        if edited.written is not None:
            _undo_write(edited.written)
        return edited

    @app.write_tool(destructive=True, title="Restore a file")
    def file_restore(
        restore_id: Annotated[
            str, Field(max_length=64, description="A backup_id (bk_…) or a trash_id (tr_…).")
        ],
        overwrite: Annotated[
            bool, Field(description="Replace what is there now; it is kept in turn.")
        ] = False,
    ) -> Restored:
        """Bring back a backup or something from the trash to its path, with mode and owner.

        The ids are in the results of file_write, file_edit, file_move and file_delete, in
        receipt_list, and in backup_list and trash_list.
        """
        return files.file_restore(space, restore_id, overwrite=overwrite)

    @app.write_tool(
        destructive=True, overwrites=("source", "destination"), title="Move a file or folder"
    )
    def file_move(
        source: Path,
        destination: Annotated[
            str,
            Field(min_length=1, max_length=4_096, description="The full new path, with the name."),
        ],
        overwrite: Annotated[bool, Field(description="Replace a file; a backup is kept.")] = False,
        create_parents: Parents = False,
    ) -> Moved:
        """Rename or move a file or folder, also across file systems; never over a folder."""
        moved = files.file_move(
            space, source, destination, overwrite=overwrite, create_parents=create_parents
        )
        call_scope().undone_by("file_move", source=moved.destination, destination=moved.source)
        return moved

    @app.write_tool(destructive=True, overwrites=("path",), title="Delete a file or folder")
    def file_delete(
        path: Path,
        recursive: Annotated[bool, Field(description="Also a folder with entries in it.")] = False,
    ) -> Deleted:
        """Move a file or folder to the trash, from where file_restore brings it back.

        The trash is bounded: the result names what had to leave it to make room.
        """
        deleted = files.file_delete(space, path, recursive=recursive)
        call_scope().undone_by("file_restore", restore_id=deleted.trash_id)
        return deleted


def _undo_write(written: FileWritten) -> None:
    if written.backup_id is not None:
        call_scope().undone_by("file_restore", restore_id=written.backup_id, overwrite=True)
    elif written.created:
        call_scope().undone_by("file_delete", path=written.path)


def _as_image(content: FileContent) -> FileContent:
    """The image as an image, its facts beside it; the bytes are not sent twice."""
    image = mcp.ImageContent(type="image", data=content.base64 or "", mime_type=content.mime_type)
    facts = content.model_copy(update={"base64": None}).model_dump(mode="json")
    # FastMCP takes a finished result from any tool; the annotation stays the schema's.
    return cast("FileContent", ToolResult(content=[image], structured_content=facts))
