"""Thirty kills of processes that write one ledger; `make bench` does many more."""

from __future__ import annotations

from pathlib import Path

from bench.ledger_kills import ledger_kills


def test_kills_lose_nothing_that_was_acknowledged_and_break_no_chain(tmp_path: Path) -> None:
    found = ledger_kills(tmp_path, kills=30)
    assert found.invalid == ()
    assert found.lost == 0
    assert found.twice == 0
    assert found.of_the_host == 10
    assert found.acknowledged > 30
    assert found.entries >= found.acknowledged
    assert found.checkpoints > 0
