"""Opaque page cursors: where to go on, bound to the query that they belong to."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from hostwright_kit.errors import HostError


def digest(*query: object) -> str:
    """A short name for one query, so that its cursor is not used with another."""
    return hashlib.sha256(json.dumps(query, default=str).encode()).hexdigest()[:12]


def pack(query: str, position: Any) -> str:
    """A cursor for `position` (plain JSON) in the query named `query`."""
    return base64.urlsafe_b64encode(json.dumps([query, position]).encode()).decode().rstrip("=")


def unpack(query: str, cursor: str | None) -> Any:
    """The position in `cursor`, or None without one; `HostError` when it is not of this query."""
    if cursor is None:
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        of_query, position = json.loads(raw)
    except (ValueError, TypeError):
        of_query, position = None, None
    if of_query != query:
        raise HostError(
            "The cursor does not belong to this query.",
            fix="Pass next_cursor of the previous page unchanged, with the same other parameters.",
            code="bad_cursor",
        )
    return position
