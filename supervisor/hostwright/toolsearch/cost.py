"""What a listing costs a model in tokens, roughly.

Counted is what clients put into the model's context for a tool: name, description and input schema
as compact JSON. Models have different tokenizers and none is shipped here: it is bytes / 3.6, which
comes within some 15 % for schemas in English. The ratio between two modes is exact enough to
choose by.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, Field

from hostwright.toolsearch.tools import definitions

BYTES_PER_TOKEN = 3.6
METHOD = f"bytes of name, description and input schema as JSON / {BYTES_PER_TOKEN}"


class ToolCost(BaseModel, frozen=True):
    """One tool."""

    server: str
    tool: str
    tokens: int


class ServerCost(BaseModel, frozen=True):
    """All tools of one server."""

    server: str
    tools: int
    tokens: int


class Costs(BaseModel, frozen=True):
    """A whole listing, in both modes."""

    method: str = METHOD
    tools: list[ToolCost] = Field(description="Dearest first.")
    servers: list[ServerCost] = Field(description="Dearest first.")
    full_tokens: int
    search_tokens: int = Field(description="The three tools of search mode.")


def tokens_of(entry: Mapping[str, Any]) -> int:
    """Of one tool's listing."""
    schema = entry.get("inputSchema", {})
    told = {
        "name": entry.get("name"),
        "description": entry.get("description") or "",
        "input_schema": schema,
    }
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)


def costs_of(listed: Iterable[tuple[str, Mapping[str, Any]]]) -> Costs:
    """Of (server, listing) pairs."""
    tools = [
        ToolCost(server=server, tool=str(entry.get("name")), tokens=tokens_of(entry))
        for server, entry in listed
    ]
    sums: dict[str, ServerCost] = {}
    for one in tools:
        had = sums.get(one.server) or ServerCost(server=one.server, tools=0, tokens=0)
        sums[one.server] = ServerCost(
            server=one.server, tools=had.tools + 1, tokens=had.tokens + one.tokens
        )
    return Costs(
        tools=sorted(tools, key=lambda one: (-one.tokens, one.tool)),
        servers=sorted(sums.values(), key=lambda one: (-one.tokens, one.server)),
        full_tokens=sum(one.tokens for one in tools),
        search_tokens=sum(tokens_of(entry) for entry in definitions()),
    )
