"""Tools that read the records: what was asked, decided and done on this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hostwright_kit import audit
from hostwright_kit.access_reading import CURSOR_CHARS, list_all
from hostwright_kit.clock import format_utc
from hostwright_kit.errors import HostError
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer

Caller = Annotated[
    str | None, Field(max_length=200, description="Exact name of the client, or of its token.")
]
Server = Annotated[str | None, Field(max_length=200, description="Exact name of the server.")]
Tool = Annotated[str | None, Field(max_length=200, description="Exact name of the tool.")]
Moment = Annotated[str | None, Field(max_length=40, description="ISO 8601; without a zone: UTC.")]
Limit = Annotated[int, Field(ge=1, le=200, description="Entries per page.")]
Cursor = Annotated[
    str | None, Field(max_length=CURSOR_CHARS, description="next_cursor of the page before.")
]


def register(app: HostServer, runtime: Runtime) -> None:
    """Add the tools."""

    def file() -> Path:
        """Where to look, once the calls before this one are there: reads are not waited for."""
        runtime.flush_records()
        return runtime.ledger.path

    @app.read_tool(title="Event log")
    def event_log(
        type: Annotated[  # noqa: A002 - the name that agents expect
            str | None,
            Field(max_length=64, description="Exact, or a group such as `call.*`, `approval.*`."),
        ] = None,
        caller: Caller = None,
        server: Server = None,
        tool: Tool = None,
        outcome: Annotated[
            str | None, Field(max_length=200, description="ok, error, cancelled or denied.")
        ] = None,
        since: Moment = None,
        until: Moment = None,
        reads: Annotated[bool, Field(description="Whether to add the access log.")] = True,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> audit.EventPage:
        """What happened, newest first: every call, denial and approval.

        Types: call.intent, call.outcome, call.denied, approval.requested, approval.granted,
        approval.denied, and events of the supervisor (server.*) are the hash-chained audit ledger,
        which the owner verifies with `hostwright audit verify`; call.read (reads) comes from the
        access log beside it, which keeps the latest. Arguments are redacted.
        """
        wanted = audit.EventFilter(
            type=type,
            caller=caller,
            server=server,
            tool=tool,
            outcome=outcome,
            since=_moment("since", since),
            until=_moment("until", until),
        )
        return list_all(file(), wanted, reads=reads, limit=limit, cursor=cursor)

    @app.read_tool(title="Receipts")
    def receipt_list(
        caller: Caller = None,
        server: Server = None,
        tool: Tool = None,
        outcome: Annotated[
            Literal["ok", "error", "cancelled", "unknown", "unrecorded"] | None,
            Field(description="How it ended."),
        ] = None,
        since: Moment = None,
        until: Moment = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> audit.ReceiptPage:
        """What was changed on this machine, newest first: each act with its outcome, approval
        and, where there is one, the call that undoes it.

        `unrecorded` means begun without a known end: it runs now, or was cut off by a crash; then
        check the state of what it touched before repeating it.
        """
        wanted = audit.EventFilter(
            caller=caller,
            server=server,
            tool=tool,
            outcome=outcome,
            since=_moment("since", since),
            until=_moment("until", until),
        )
        return audit.list_receipts(file(), wanted, limit=limit, cursor=cursor)


def _moment(name: str, text: str | None) -> str | None:
    """`text` as the ledger writes times, so that comparing text compares times."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return format_utc(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise HostError(
            f"{name}={text!r} is not a time.",
            fix="Write it as ISO 8601, for example 2026-11-20T09:30:00Z.",
            code="bad_time",
        ) from None
