"""Answers without what they do not say: a null is paid for like any other word."""

from __future__ import annotations

import json
from typing import TypeVar, cast

import mcp_types as mcp
from fastmcp.tools.base import ToolResult
from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def lean(answer: Model) -> Model:
    """The answer as it is sent: fields that hold nothing are left out."""
    data = answer.model_dump(mode="json", exclude_none=True)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    result = ToolResult(content=[mcp.TextContent(type="text", text=text)], structured_content=data)
    # FastMCP takes a finished result from any tool; the annotation stays the schema's.
    return cast("Model", result)
