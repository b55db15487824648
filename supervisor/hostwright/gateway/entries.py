"""What an entry of a list must be for clients to be able to read it.

The fields that the protocol's schema gives a type, in either era; what else an entry holds is
passed on. One entry that is wrong would make a strict client refuse the whole list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

Object = dict[str, Any]


class _ObjectSchema(Struct):
    type: Literal["object"]
    properties: Object | UnsetType = UNSET
    required: list[str] | UnsetType = UNSET


class _Icon(Struct):
    src: str
    mimeType: str | None = None  # noqa: N815 - the protocol's name
    sizes: list[str] | None = None


class _Hints(Struct):
    title: str | None = None
    readOnlyHint: bool | None = None  # noqa: N815
    destructiveHint: bool | None = None  # noqa: N815
    idempotentHint: bool | None = None  # noqa: N815
    openWorldHint: bool | None = None  # noqa: N815


class _Audience(Struct):
    audience: list[Literal["user", "assistant"]] | None = None
    priority: float | None = None
    lastModified: str | None = None  # noqa: N815


class _Common(Struct, kw_only=True):
    name: str
    title: str | None = None
    description: str | None = None
    icons: list[_Icon] | None = None
    meta: Object | None = field(default=None, name="_meta")


class _Tool(_Common, kw_only=True):
    inputSchema: _ObjectSchema  # noqa: N815
    outputSchema: Object | None = None  # noqa: N815
    annotations: _Hints | None = None
    execution: Object | None = None


class _Resource(_Common, kw_only=True):
    uri: str
    mimeType: str | None = None  # noqa: N815
    annotations: _Audience | None = None
    size: int | float | None = None


class _Template(_Common, kw_only=True):
    uriTemplate: str  # noqa: N815
    mimeType: str | None = None  # noqa: N815
    annotations: _Audience | None = None


class _Argument(Struct):
    name: str
    title: str | None = None
    description: str | None = None
    required: bool | None = None


class _Prompt(_Common, kw_only=True):
    arguments: list[_Argument] | None = None


_SHAPES: Mapping[str, type[Struct]] = {
    "tools": _Tool,
    "resources": _Resource,
    "resourceTemplates": _Template,
    "prompts": _Prompt,
}


def fault(kind: str, entry: object) -> str | None:
    """Why clients could not read this entry; None when they can."""
    try:
        msgspec.convert(entry, _SHAPES[kind])
    except msgspec.ValidationError as error:
        return str(error)[:300]
    return None
