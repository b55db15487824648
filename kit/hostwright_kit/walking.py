"""`python -m hostwright_kit.walking LEDGER [--without-archives]`: verify a ledger in a process.

Walking a long ledger keeps a processor busy; a server that answers meanwhile has it done elsewhere,
and can end it when its caller has gone. Checkpoints that were kept elsewhere come over stdin; the
result goes to stdout as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from hostwright_kit.errors import HostError
from hostwright_kit.host_key import host_signer
from hostwright_kit.signed_note import Checkpoint, NoteError, Verifier, split_notes
from hostwright_kit.verifying import Verification, verify

WITHOUT_ARCHIVES = "--without-archives"


def opened_checkpoints(text: str, verifier: Verifier, where: str) -> list[Checkpoint]:
    """The checkpoints in a text; a `HostError` unless all of them are this host's."""
    try:
        kept = [verifier.open_checkpoint(note) for note in split_notes(text)]
    except NoteError as error:
        raise HostError(
            f"The checkpoints in {where} cannot be used: {error}.",
            fix="Give checkpoints that this host signed (`hostwright audit key` shows its key).",
            code="bad_checkpoints",
        ) from error
    if not kept:
        raise HostError(
            f"There is no checkpoint in {where}.",
            fix="Give what [ledger] checkpoint_file has collected, or a copy of it.",
            code="bad_checkpoints",
        )
    return kept


async def verified(ledger: Path, checkpoints: str, *, without_archives: bool) -> Verification:
    """What a walk in a process of its own finds; cancelled, it is ended with all that it began."""
    words = [WITHOUT_ARCHIVES] if without_archives else []
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "hostwright_kit.walking", str(ledger), *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # It begins processes of its own, which must end with it.
        start_new_session=True,
    )
    try:
        found, told = await process.communicate(checkpoints.encode())
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode != 0:
        raise HostError(
            f"The ledger could not be read: {told.decode(errors='replace').strip()[-500:]}",
            fix="`hostwright audit verify` says more; `hostwright doctor` checks folder and disk.",
            code="ledger_unreadable",
        )
    return Verification.model_validate_json(found)


def main(ledger: str, *words: str) -> int:
    """Walk, and print what was found."""
    path = Path(ledger)
    try:
        verifier = host_signer(path.parent).verifier
        text = sys.stdin.read()
        kept = opened_checkpoints(text, verifier, "stdin") if text else []
        found = verify(
            path, verifier=verifier, against=kept, without_archives=WITHOUT_ARCHIVES in words
        )
    except HostError as error:
        sys.stderr.write(f"{error.message} {error.fix or ''}\n")
        return 1
    sys.stdout.write(found.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
