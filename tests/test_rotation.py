"""The daemon moves old entries into archives; whoever reads the ledger still finds them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from hostwright_kit.archives import FOLDER
from hostwright_kit.checkpoints import Checkpoints
from hostwright_kit.host_key import host_signer
from hostwright_kit.ledger import Entry, Ledger

from .daemon_harness import Installation, wait_for

ENTRIES = 1_200
KEEP = 300


def fill(ledger: Path) -> None:
    signer = host_signer(ledger.parent)
    checkpoints = Checkpoints(lambda: signer, [], every_entries=ENTRIES)
    with closing(Ledger(ledger, checkpoints)) as open_ledger:
        made = (Entry(type="owner.note", caller="owner", detail={"n": n}) for n in range(ENTRIES))
        for wait in [open_ledger.submit(one) for one in made]:
            wait.result(60)


async def test_what_the_daemon_has_moved_is_still_found(tmp_path: Path) -> None:
    home = Installation(tmp_path)
    fill(home.ledger)
    home.configure("autonomous", f"[ledger]\nkeep_entries = {KEEP}")
    try:
        with home.up() as daemon:
            archives = home.state / FOLDER
            wait_for(lambda: list(archives.glob("ledger-*.db")))
            wait_for(lambda: not list(archives.glob(".ledger-*")))
            status = json.loads(home.cli("status", "--json").stdout)
            assert not [one for one in status["problems"] if "rotated" in one]
            key = home.token("reader")
            async with daemon.client("http", "2026-07-28", token=key) as client:
                seen, wanted = 0, {"type": "owner.note", "limit": 200}
                while True:
                    page = (await client.call_tool("event_log", wanted)).structured_content
                    assert page
                    seen += len(page["events"])
                    if page["next_cursor"] is None:
                        break
                    wanted["cursor"] = page["next_cursor"]
                proven = await client.call_tool("audit_prove", {"entry": "1"})
                whole = await client.call_tool("audit_verify", {})
            assert seen == ENTRIES
            assert proven.structured_content
            assert '"n":0' in proven.structured_content["entry"]
            assert whole.structured_content
            assert whole.structured_content["ok"], whole
            # The signing of a checkpoint is told to whoever listens.
            home.cli("audit", "checkpoint")
            wait_for(
                lambda: (
                    "ledger.checkpoint"
                    in home.cli("events", "--filter", "ledger.checkpoint", "--json").stdout
                )
            )
    finally:
        home.close()
