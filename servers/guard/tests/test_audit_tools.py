"""The ledger as evidence, over tools: walked as a whole, and proven to those who have the key."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from fastmcp import Client

from hostwright_kit import offline_audit
from hostwright_kit.host_key import host_signer
from hostwright_kit.runtime import LEDGER_FILE

from .guard_world import World, call, failed

KEPT = "kept.txt"


def signs_often(world: World) -> Path:
    """An installation that signs a checkpoint after each entry, and copies it."""
    kept = world.work / KEPT
    world.configure(f'[ledger]\ncheckpoint_entries = 1\ncheckpoint_file = "{kept}"\n')
    world.served()
    return kept


async def ask(guard: Client[Any]) -> None:
    """Something that goes on record."""
    await call(
        guard, "approval_request", server="system", tool="shell_exec", arguments={"argv": ["id"]}
    )


async def test_an_entry_is_proven_to_who_has_the_key_and_python(tmp_path: Path) -> None:
    world = World(tmp_path)
    kept = signs_often(world)
    async with world.client() as guard:
        await ask(guard)
        (asked,) = world.events(type="approval.requested")
        proven = await call(guard, "audit_prove", entry=asked.id)
        by_number = await call(guard, "audit_prove", entry=str(asked.seq))
        missing = await failed(guard, "audit_prove", entry="nosuch")
        whole = await call(guard, "audit_verify", checkpoints=kept.read_text())
    assert proven == by_number
    assert (proven["seq"], missing["code"]) == (asked.seq, "not_found")
    assert asked.id in proven["entry"]
    assert (whole["ok"], whole["problem"]) == (True, None)
    assert whole["checkpoints"] >= 2
    proof = world.work / "proof"
    key = host_signer(world.state).verifier.line()
    forged = proven["proof"].replace("extra ey", "extra ez", 1)
    assert forged != proven["proof"]
    for text, expected in ((proven["proof"], 0), (forged, 1)):
        proof.write_text(text)
        done = subprocess.run(
            [sys.executable, "-I", offline_audit.__file__, key, "proof", str(proof)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == expected, done


async def test_a_changed_entry_and_a_ledger_written_anew_are_found_out(tmp_path: Path) -> None:
    world = World(tmp_path)
    kept = signs_often(world)
    async with world.client() as guard:
        await ask(guard)
        assert (await call(guard, "audit_verify"))["ok"]
        refused = await failed(guard, "audit_verify", checkpoints="no checkpoint at all")
        assert refused["code"] == "bad_checkpoints"
        with sqlite3.connect(world.state / LEDGER_FILE) as db:
            # Whoever can write the file can take its triggers away.
            triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for (name,) in db.execute(triggers).fetchall():
                db.execute(f'DROP TRIGGER "{name}"')
            db.execute("UPDATE entries SET caller = 'somebody else' WHERE seq = 1")
        found = await call(guard, "audit_verify")
        assert (found["ok"], found["first_broken_seq"]) == (False, 1)
    (world.state / LEDGER_FILE).unlink()
    for left in world.state.glob(f"{LEDGER_FILE}-*"):
        left.unlink()
    old = kept.read_text()
    async with world.client(name="another") as guard:
        await ask(guard)
        assert (await call(guard, "audit_verify"))["ok"], "it fits itself"
        convicted = await call(guard, "audit_verify", checkpoints=old)
    assert (convicted["ok"], convicted["first_broken_seq"]) == (False, None)
    assert "checkpoint" in convicted["problem"]
