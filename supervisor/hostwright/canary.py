"""The canary of a manifest: a real call of a tool that only reads, and what its result must be.

A tool that is not annotated as read-only is never called: what the owner wrote into a manifest is
no reason to change something every minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from hostwright.keeper.around import CanaryRefused
from hostwright.manifest_rules import Canary, PointedAt

MAX_SHOWN = 200


class CanaryFailed(Exception):  # noqa: N818 - the keeper counts it like an answer that did not come
    """The call was answered, but not as it should be."""


class Asks(Protocol):
    """What is needed of a link."""

    async def request(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Put a request of the supervisor's own and return the result."""
        ...


async def sing(link: Asks, tools: Mapping[str, Mapping[str, Any]], rules: Canary) -> None:
    """Make the call; `tools` are the server's, as it listed them, by their own names."""
    entry = tools.get(rules.tool)
    if entry is None:
        raise CanaryRefused(f"the server offers no tool {rules.tool!r}")
    hints: Any = entry.get("annotations")
    if not isinstance(hints, Mapping) or hints.get("readOnlyHint") is not True:
        raise CanaryRefused(f"the tool {rules.tool!r} is not annotated as read-only")
    result = await link.request("tools/call", {"name": rules.tool, "arguments": rules.arguments})
    if fault := wrong(rules, result):
        raise CanaryFailed(fault)


def wrong(rules: Canary, result: Mapping[str, Any]) -> str:
    """What is wrong with a result; empty when it is as expected."""
    texts = list(_texts(result))
    said = " ".join(texts)[:MAX_SHOWN]
    if result.get("isError") is True:
        return f"it answered with an error: {said}"
    expected = rules.expect
    if expected is None:
        return ""
    if isinstance(expected, str):
        found = any(expected in text for text in texts)
        return "" if found else f"its result does not contain {expected!r}: {said}"
    return _pointed(expected, result)


def _pointed(expected: PointedAt, result: Mapping[str, Any]) -> str:
    try:
        value = resolve(expected.pointer, result)
    except LookupError:
        return f"its result has nothing at {expected.pointer}"
    # 1 and true are equal in Python, and are not in JSON.
    same = value == expected.equals and isinstance(value, bool) == isinstance(expected.equals, bool)
    if same:
        return ""
    return f"{expected.pointer} is {str(value)[:MAX_SHOWN]!r}, not {expected.equals!r}"


def resolve(pointer: str, document: Any) -> Any:
    """The value at a JSON pointer (RFC 6901); `LookupError` when there is none."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, Mapping):
            document = cast("Mapping[str, Any]", document)[key]
        elif isinstance(document, Sequence) and not isinstance(document, str):
            plain = key.isascii() and key.isdigit() and (key == "0" or key[0] != "0")
            if not plain:
                raise LookupError(key)
            document = cast("Sequence[Any]", document)[int(key)]
        else:
            raise LookupError(key)  # noqa: TRY004 - the document is to blame, not a type
    return document


def _texts(result: Mapping[str, Any]) -> list[str]:
    blocks: Any = result.get("content")
    if not isinstance(blocks, list):
        return []
    found = [cast("dict[str, Any]", one) for one in blocks if isinstance(one, dict)]
    return [one["text"] for one in found if isinstance(one.get("text"), str)]
