"""What is known of a call whose server ended under it.

A server of ours writes its intent into the ledger before it acts, on disk, and its outcome after:
so the ledger says whether the act was begun, and whether it was finished. Of anybody else's server
only that the call was sent is known. So it is of a call that was running when the supervisor ended.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from hostwright.gateway.calls import Call
from hostwright_kit.audit import EventFilter, ReceiptEntry, list_receipts
from hostwright_kit.errors import HostError

LOOK_BACK = 50


async def explain(call: Call, *, ours: bool, ledger: Path) -> HostError:
    """The error that the client gets."""
    server, tool = call.owned.server, call.owned.name
    what = f"The server {server} ended while {tool} was running"
    if interrupted := call.request.interrupted is not None:
        what = f"The supervisor ended while {tool} of {server} was running"
    if not ours:
        return HostError(
            f"{what}. The call was sent; whether it took effect is not known.",
            fix="Look whether it did before repeating it; the server is being restarted.",
            code="server_ended",
        )
    try:
        # A server may have finished what a supervisor that ended did not pass on.
        outcome = None if interrupted else "unrecorded"
        begun = await asyncio.to_thread(_begun, call, ledger, outcome)
    except HostError as error:
        return HostError(
            f"{what}, and the ledger cannot be read ({error.message}).",
            fix="It may have taken effect: look at receipt_list before repeating it.",
            code="server_ended",
        )
    if not begun:
        return HostError(
            f"{what}. No intent of it is on record, so it had not begun.",
            fix="It is safe to repeat; receipt_list shows what was done.",
            code="server_ended",
        )
    names = ", ".join(receipt.id for receipt in begun[:3])
    ended = [receipt for receipt in begun if receipt.outcome != "unrecorded"]
    if ended:
        return HostError(
            f"{what}. On record since then: {', '.join(_told(one) for one in ended[:3])}.",
            fix="It may be that act: look at receipt_list before repeating it.",
            code="server_ended",
        )
    return HostError(
        f"{what}. An intent is on record without an outcome ({names}): it may have taken effect.",
        fix="Look at the state that it changes, and at receipt_list, before repeating it.",
        code="server_ended",
    )


def _told(receipt: ReceiptEntry) -> str:
    return f"{receipt.id} ({receipt.outcome})"


def _begun(call: Call, ledger: Path, outcome: str | None) -> list[ReceiptEntry]:
    """Acts of this caller with this tool that began since the call was made."""
    # A second early, because the ledger's times are cut off.
    since = datetime.fromtimestamp(call.since - 1, UTC).isoformat()
    wanted = EventFilter(
        server=call.owned.server,
        tool=call.owned.name,
        caller=call.request.asker.name,
        outcome=outcome,
        since=since,
    )
    return list_receipts(ledger, wanted, limit=LOOK_BACK).receipts
