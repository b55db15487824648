"""Tools about the ledger as evidence: whether it is whole, and proofs that others can check."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field

from hostwright_kit.errors import HostError
from hostwright_kit.host_key import host_signer
from hostwright_kit.progress import ticking
from hostwright_kit.proving import Inclusion, prove
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer
from hostwright_kit.verifying import Verification
from hostwright_kit.walking import opened_checkpoints, verified

VERIFY_SECONDS = 50.0
"""Real clients cut a call at 60 s. About ten million entries are walked by then."""


def register(app: HostServer, runtime: Runtime) -> None:
    """Add the tools."""
    ledger, state = runtime.ledger.path, runtime.paths.state_dir

    @app.read_tool(title="Verify the ledger")
    async def audit_verify(
        checkpoints: Annotated[
            str,
            Field(
                max_length=1_000_000,
                description="Signed checkpoints that were kept elsewhere (C2SP signed notes, one "
                "after the other) to compare with; without them a ledger that was written anew "
                "as a whole is not found out.",
            ),
        ] = "",
        without_archives: Annotated[
            bool, Field(description="Archives are kept elsewhere: leave their entries unread.")
        ] = False,
    ) -> Verification:
        """Walk the whole ledger: chain, Merkle tree (RFC 6962) and signed checkpoints.

        `ok` false names the first entry that does not fit. Seconds per million entries, with
        progress. verify_too_long: it takes longer than 50 seconds, so the owner has to run
        `hostwright audit verify`. bad_checkpoints: what was given is not signed by this host.
        """
        if checkpoints:
            verifier = (await asyncio.to_thread(host_signer, state)).verifier
            opened_checkpoints(checkpoints, verifier, "the argument")
        await asyncio.to_thread(runtime.flush_records)
        try:
            async with asyncio.timeout(VERIFY_SECONDS), ticking(VERIFY_SECONDS, "walking"):
                return await verified(ledger, checkpoints, without_archives=without_archives)
        except TimeoutError:
            raise HostError(
                f"Walking the ledger takes longer than {VERIFY_SECONDS:g} s.",
                fix="Ask the owner to run `hostwright audit verify` in a terminal.",
                code="verify_too_long",
            ) from None

    @app.read_tool(title="Prove an entry of the ledger")
    async def audit_prove(
        entry: Annotated[
            str,
            Field(
                min_length=1,
                max_length=40,
                pattern="^[0-9A-Za-z-]+$",
                description="Its id or its number (seq), as event_log shows them.",
            ),
        ],
    ) -> Inclusion:
        """Prove to somebody else that an entry was in the ledger when a checkpoint was signed.

        The proof (c2sp.org/tlog-proof) holds the entry as it was hashed, with its redacted
        arguments, and the signed checkpoint. It is checked with the host's public key and the file
        that `hostwright audit script` writes, without this machine. not_covered: no checkpoint
        covers the entry yet; one comes by itself within [ledger] checkpoint_seconds.
        """
        await asyncio.to_thread(runtime.flush_records)

        def proven() -> Inclusion:
            return prove(ledger, entry, host_signer(state).verifier)

        return await asyncio.to_thread(proven)
