"""`directory_list`: what lies in a folder, and below it.

Links are shown and never followed; closed entries are named as such and not entered. Pages are
keyed by the last entry shown, so that entries which come and go do not shift the others.

Blocking; reads only.
"""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from typing import Any, Literal, cast

from hostwright_kit.errors import HostError
from hostwright_system.files import cursors
from hostwright_system.files.failures import refusing, shown
from hostwright_system.files.models import DirectoryEntry, DirectoryPage, EntryKind
from hostwright_system.files.places import kind_of
from hostwright_system.files.roots import Roots
from hostwright_system.files.trees import Node, walk

MAX_PAGE = 1_000
MAX_LIST_DEPTH = 20
MAX_LOOKED_AT = 100_000
_UNREADABLE_SHOWN = 20

Sort = Literal["name", "size", "modified"]


def directory_list(
    roots: Roots,
    path: str,
    *,
    depth: int = 1,
    include_hidden: bool = False,
    sort: Sort = "name",
    limit: int = 200,
    cursor: str | None = None,
) -> DirectoryPage:
    """The entries of `path` down to `depth` levels, `limit` of them.

    `sort`: by name (path order), by size (largest first) or by modification (newest first).
    """
    _check(depth, limit)
    query = cursors.digest("list", path, depth, include_hidden, sort)
    after = cursors.unpack(query, cursor)
    unreadable: list[str] = []
    found: list[tuple[list[Any], DirectoryEntry]] = []
    looked_at = 0

    with refusing(path, "list"), roots.folder(path) as folder:
        closed = roots.rules.inodes()

        def denied(node: Node) -> bool:
            if (node.info.st_dev, node.info.st_ino) in closed:
                return True
            return (
                roots.rules.why(f"{folder.path.rstrip('/')}/{node.path}", folder=node.is_folder)
                is not None
            )

        def enter(node: Node) -> bool:
            wanted = include_hidden or not node.name.startswith(".")
            return wanted and node.depth + 1 < depth and not denied(node)

        def failed(where: str, error: OSError) -> None:
            if not where:
                raise error
            unreadable.append(shown(where.rstrip("/")))

        for node in walk(folder.fd, enter=enter, failed=failed):
            if node.name.startswith(".") and not include_hidden:
                continue
            looked_at += 1
            if looked_at > MAX_LOOKED_AT:
                break
            key = _key(node, sort)
            if after is None or key > after:
                found.append((key, _entry(node, denied(node))))
    found.sort(key=lambda pair: pair[0])
    page = found[:limit]
    complete = looked_at <= MAX_LOOKED_AT
    return DirectoryPage(
        path=shown(folder.path),
        entries=tuple(entry for _, entry in page),
        next_cursor=cursors.pack(query, page[-1][0]) if len(found) > limit else None,
        total=looked_at if complete else None,
        unreadable=tuple(unreadable[:_UNREADABLE_SHOWN]),
        incomplete=None
        if complete
        else f"more than {MAX_LOOKED_AT} entries; list a folder below, or with a smaller depth",
    )


def _key(node: Node, sort: Sort) -> list[Any]:
    """What the entry is sorted by; plain JSON, as it goes into the cursor."""
    name = shown(node.path).split("/")
    if sort == "size":
        return [-node.info.st_size if stat.S_ISREG(node.info.st_mode) else 0, name]
    if sort == "modified":
        return [-node.info.st_mtime_ns, name]
    return name


def _entry(node: Node, denied: bool) -> DirectoryEntry:
    info = node.info
    name = shown(node.path)
    target = None
    if stat.S_ISLNK(info.st_mode):
        try:
            target = shown(os.readlink(node.name, dir_fd=node.folder_fd))
        except OSError:
            target = None  # replaced while we looked
    return DirectoryEntry(
        path=name,
        kind=cast("EntryKind", kind_of(info)),
        size_bytes=info.st_size if stat.S_ISREG(info.st_mode) else None,
        modified_at=datetime.fromtimestamp(info.st_mtime, UTC),
        mode=f"{info.st_mode & 0o7777:04o}",
        uid=info.st_uid,
        gid=info.st_gid,
        link_target=target,
        denied=denied,
        unaddressable=name != node.path,
    )


def _check(depth: int, limit: int) -> None:
    if not 1 <= depth <= MAX_LIST_DEPTH:
        raise HostError(
            f"depth={depth} is out of range.", fix=f"Use 1 to {MAX_LIST_DEPTH}.", code="bad_depth"
        )
    if not 1 <= limit <= MAX_PAGE:
        raise HostError(
            f"limit={limit} is out of range.", fix=f"Use 1 to {MAX_PAGE}.", code="bad_limit"
        )
