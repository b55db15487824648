"""An event in a few words, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GAPS = {
    "overrun": "more happened than is kept",
    "restart": "requests of before the daemon's restart are not known",
    "ledger": "the ledger cannot be read, or is another one",
}


def sentence(kind: str, fields: Mapping[str, Any]) -> str:
    """What happened, without the kind. As it came: whoever prints it makes it `visible`."""
    family, _, _ = kind.partition(".")
    if kind == "events.gap":
        lost = f" (at most {fields['lost']} events)" if "lost" in fields else ""
        reason = str(fields.get("reason"))
        return f"events are missing here: {_GAPS.get(reason, reason)}{lost}"
    if family == "request":
        return _request(fields)
    if family == "approval":
        return _approval(fields)
    if family == "server":
        return _join(fields.get("server"), _server(fields))
    return _join(*(f"{name} {value}" for name, value in fields.items()))


def _request(fields: Mapping[str, Any]) -> str:
    what = f"{fields.get('server', '?')}.{fields.get('tool') or fields.get('method', '?')}"
    words = [f"#{fields.get('id')}", what, f"by {fields.get('caller', '?')}"]
    if "progress" in fields:
        total = f"/{fields['total']:g}" if "total" in fields else ""
        words.append(f"{fields['progress']:g}{total}")
    if "outcome" in fields:
        words.append(_join(fields["outcome"], fields.get("code")))
    if "duration_ms" in fields:
        words.append(f"{fields['duration_ms']:.1f} ms")
    return _join(*words)


def _approval(fields: Mapping[str, Any]) -> str:
    what = f"{fields.get('server')}.{fields.get('tool')}"
    words = [fields.get("approval"), what, f"by {fields.get('caller')}", fields.get("reason")]
    if "via" in fields:
        words.append(f"decided via {fields['via']} by {fields.get('by')}")
    return _join(*words)


def _server(fields: Mapping[str, Any]) -> str:
    words: list[Any] = []
    if "pid" in fields:
        words.append(f"pid {fields['pid']}")
    if "start_seconds" in fields:
        words.append(f"after {fields['start_seconds']:.2f} s")
    if "tools" in fields:
        words.append(f"{fields['tools']} tools")
    if "milliseconds" in fields:
        words.append(f"after {fields['milliseconds']:.0f} ms")
    words += [fields.get("reason"), fields.get("what_to_do")]
    if "failures" in fields:
        words.append(f"{fields['failures']} failures")
    if "retry_in_seconds" in fields:
        words.append(f"again in {fields['retry_in_seconds']:.1f} s")
    return ", ".join(str(word) for word in words if word)


def _join(*words: Any) -> str:
    return "  ".join(str(word) for word in words if word)
