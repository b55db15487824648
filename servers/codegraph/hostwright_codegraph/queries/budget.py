"""Answers that fit: a hard bound in tokens, and a cursor for what did not fit.

Tokens are estimated from above (three characters a token), because a client's tokenizer is not
known here; an answer is never longer than what was asked for.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from hostwright_kit.errors import HostError

CHARACTERS_PER_TOKEN = 3
OVERHEAD = 120
"""Tokens left for what stands around the items of a page."""

Item = TypeVar("Item", bound=BaseModel)


def cost(item: BaseModel | str) -> int:
    """Tokens that an item takes in an answer."""
    text = item if isinstance(item, str) else item.model_dump_json(exclude_none=True)
    return len(text) // CHARACTERS_PER_TOKEN + 2


class Budget:
    """What is left of `max_tokens`."""

    def __init__(self, max_tokens: int) -> None:
        self.left = max(max_tokens - OVERHEAD, 0)

    def take(self, item: BaseModel | str) -> bool:
        """Whether it still fits; then it is paid for."""
        price = cost(item)
        if price > self.left:
            return False
        self.left -= price
        return True

    def cut(self, text: str) -> tuple[str, bool]:
        """As many whole lines as fit, and whether that is all of them; paid for."""
        lines = text.splitlines()
        kept: list[str] = []
        for line in lines:
            price = (len(json.dumps(line)) + 2) // CHARACTERS_PER_TOKEN + 1
            if price > self.left:
                return "\n".join(kept), False
            self.left -= price
            kept.append(line)
        return "\n".join(kept), True


def page(
    items: Sequence[Item],
    budget: Budget,
    start: int,
    query: str,
    *,
    before: int = 0,
    total: int | None = None,
) -> tuple[list[Item], str | None]:
    """The items from `start` that fit, and the cursor of the rest.

    `before`, `total`: where `items` is a part only, how many stand before it, and all there are.
    """
    kept: list[Item] = []
    for item in items[start:]:
        if not budget.take(item):
            if not kept:  # one item is always given, or the cursor would stand still
                kept.append(item)
            break
        kept.append(item)
    after = before + start + len(kept)
    return kept, pack(query, after) if after < (total or len(items)) else None


def query_name(*parts: object) -> str:
    """A short name of a question, so that its cursor is not used with another."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:12]


def pack(query: str, position: Any) -> str:
    """The cursor that goes on at `position`."""
    raw = json.dumps([query, position]).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def unpack(query: str, cursor: str | None) -> int:
    """Where a cursor goes on; 0 without one."""
    if cursor is None:
        return 0
    try:
        of, position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError):
        of, position = None, None
    if of != query or not isinstance(position, int) or position < 0:
        raise HostError(
            "The cursor does not belong to this question.",
            fix="Pass next_cursor of the page before, with the same other arguments; an index that "
            "changed meanwhile begins again without a cursor.",
            code="bad_cursor",
        )
    return position
