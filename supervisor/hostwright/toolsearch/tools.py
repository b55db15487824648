"""The three tools of search mode: find, read, call.

`tool_call` is only an envelope: the gateway takes the call inside of it the same way as one by the
tool's own name, through the same guard. Its own annotations are therefore the worst that may be
inside; those of the target are in what `tool_describe` shows.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hostwright.toolsearch.index import ToolIndex
from hostwright_kit.errors import HostError

SEARCH, DESCRIBE, CALL = NAMES = ("tool_search", "tool_describe", "tool_call")
MAX_FOUND = 25
MAX_DESCRIBED = 10
MAX_SUMMARY_CHARS = 240
MAX_RESULT_CHARS = 48_000
MAX_NAME_CHARS = 512


class Shown(Protocol):
    """What is searched: a `View`."""

    @property
    def index(self) -> ToolIndex:
        """The search over it."""
        ...

    def names(self) -> Any:
        """Every shown name."""
        ...

    def lookup(self, shown: str) -> Any | None:
        """The item of that name."""
        ...

    def entry(self, shown: str) -> dict[str, Any]:
        """Its listing."""
        ...


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchArguments(_Strict):
    """Of `tool_search`."""

    query: str = Field(
        min_length=1, max_length=1_000, description="What you want to do, in a few words."
    )
    limit: int = Field(default=8, ge=1, le=MAX_FOUND, description="How many tools at most.")
    server: str | None = Field(
        default=None, max_length=63, description="Only tools of this server; default: all."
    )


class DescribeArguments(_Strict):
    """Of `tool_describe`."""

    names: list[str] = Field(
        min_length=1, max_length=MAX_DESCRIBED, description="Names as tool_search gave them."
    )


class CallArguments(_Strict):
    """Of `tool_call`."""

    name: str = Field(
        min_length=1, max_length=MAX_NAME_CHARS, description="A tool's name from tool_search."
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="Its arguments, as its input schema says."
    )


AnyArguments = TypeVar("AnyArguments", bound=_Strict)
_MODELS: Mapping[str, type[_Strict]] = {
    SEARCH: SearchArguments,
    DESCRIBE: DescribeArguments,
    CALL: CallArguments,
}


def definitions() -> list[dict[str, Any]]:
    """The three entries of `tools/list`."""
    reads = {"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False}
    acts = {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": True}
    said = (
        (
            SEARCH,
            "Find tools",
            "Find tools by what they do. Many tools are offered here and not listed; this gives "
            "their names, what they do and their arguments.",
            reads,
        ),
        (
            DESCRIBE,
            "Describe tools",
            "The whole input schema and the annotations of tools, by name. Read it before calling "
            "a tool whose arguments are not plain from tool_search.",
            reads,
        ),
        (
            CALL,
            "Call a tool",
            "Call a tool that tool_search found. It is checked, asked about and recorded exactly "
            "as if it were called by its own name.",
            acts,
        ),
    )
    return [
        {
            "name": name,
            "title": title,
            "description": text,
            "inputSchema": _schema(_MODELS[name]),
            "annotations": {"title": title, **hints},
        }
        for name, title, text, hints in said
    ]


def answer(name: str, arguments: object, view: Shown) -> dict[str, Any]:
    """The result of `tool_search` or `tool_describe`. Raises `HostError`."""
    if name == SEARCH:
        return _result(_search(_read(SearchArguments, name, arguments), view))
    return _result(_describe(_read(DescribeArguments, name, arguments), view))


def target(arguments: object, view: Shown) -> tuple[str, dict[str, Any]]:
    """The tool that a `tool_call` means and its arguments. Raises `HostError`."""
    wanted = _read(CallArguments, CALL, arguments)
    if view.lookup(wanted.name) is None:
        raise unknown(wanted.name, view)
    return wanted.name, wanted.arguments


def unknown(name: str, view: Shown) -> HostError:
    """There is no such tool; which ones may be meant."""
    close = difflib.get_close_matches(name, view.names(), n=3, cutoff=0.6)
    found = [*close, *(one for one in view.index.search(name, 3) if one not in close)][:3]
    meant = f"Did you mean {', '.join(found)}? Otherwise ask" if found else "Ask"
    return HostError(
        f"There is no tool {name[:MAX_NAME_CHARS]!r} here.",
        fix=f"{meant} {SEARCH} with what you want to do.",
        code="unknown_tool",
    )


def _search(wanted: SearchArguments, view: Shown) -> dict[str, Any]:
    found = view.index.search(wanted.query, wanted.limit, wanted.server)
    tools = [_short(name, view) for name in found]
    said: dict[str, Any] = {"tools": tools}
    while len(tools) > 1 and _size(said) > MAX_RESULT_CHARS:
        tools.pop()
    if not found:
        where = f" of the server {wanted.server!r}" if wanted.server else ""
        said["note"] = f"No tool{where} fits; say it in other words."
    elif len(tools) < len(found):
        said["note"] = f"{len(found) - len(tools)} more are left out: the answer would be too long."
    return said


def _short(name: str, view: Shown) -> dict[str, Any]:
    entry = view.entry(name)
    item = cast("Any", view.lookup(name))
    text = " ".join(str(entry.get("description") or "").split("\n\n", 1)[0].split())
    if len(text) > MAX_SUMMARY_CHARS:
        text = f"{text[:MAX_SUMMARY_CHARS]}…"
    schema = entry.get("inputSchema")
    fields = cast("Mapping[str, Any]", schema) if isinstance(schema, Mapping) else {}
    properties, required = fields.get("properties"), fields.get("required")
    names = list(cast("Mapping[str, Any]", properties)) if isinstance(properties, Mapping) else []
    needed = cast("list[Any]", required) if isinstance(required, list) else []
    return {
        "name": name,
        "server": str(item.server),
        "description": text,
        "required": [one for one in names if one in needed][:50],
        "optional": [one for one in names if one not in needed][:50],
    }


def _describe(wanted: DescribeArguments, view: Shown) -> dict[str, Any]:
    described: list[dict[str, Any]] = []
    left_out: list[str] = []
    room = MAX_RESULT_CHARS
    for name in dict.fromkeys(wanted.names):
        if view.lookup(name) is None:
            raise unknown(name, view)
        entry = {key: value for key, value in view.entry(name).items() if key in _TOLD}
        size = _size(entry)
        if size > room and described:
            left_out.append(name)
        elif size > room:
            # Alone it does not fit either. Its arguments matter more than its prose.
            described.append({**entry, "description": "[too long]", "inputSchema": "[too long]"})
            left_out.append(name)
        else:
            described.append(entry)
            room -= size
    said: dict[str, Any] = {"tools": described}
    if left_out:
        said["note"] = f"Too long to be shown whole here: {', '.join(left_out)}. Ask for fewer."
    return said


_TOLD = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")


def _read(model: type[AnyArguments], name: str, arguments: object) -> AnyArguments:
    try:
        return model.model_validate(arguments or {})
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)[:10]
        ]
        raise HostError(
            f"The arguments of {name} are not valid: {'; '.join(faults)}.",
            fix="Correct them as the tool's input schema says.",
            code="bad_arguments",
        ) from error


def _result(said: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    return {
        "resultType": "complete",
        "content": [{"type": "text", "text": text}],
        "structuredContent": said,
        "isError": False,
    }


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Without the titles that pydantic makes of names: they cost tokens and say nothing."""
    schema = model.model_json_schema()
    return {key: _untitled(value) for key, value in schema.items() if key not in _NOISE}


_NOISE = ("title", "description")


def _untitled(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {
            key: _untitled(inner)
            for key, inner in fields.items()
            if key != "title" or not isinstance(inner, str)
        }
    if isinstance(value, list):
        return [_untitled(inner) for inner in cast("list[Any]", value)]
    return value


def _size(said: object) -> int:
    return len(json.dumps(said, ensure_ascii=False, separators=(",", ":")))
