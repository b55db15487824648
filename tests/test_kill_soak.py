"""A hundred kills under load leave nothing behind; the bench does many more."""

from __future__ import annotations

from pathlib import Path

from .kill_soak import kill_soak


async def test_a_hundred_kills_leave_no_process_no_descriptor_and_no_memory(
    tmp_path: Path,
) -> None:
    soak = await kill_soak(tmp_path, cycles=100)
    assert len(soak.recovery_ms) == 100
    assert soak.answered > 100
    assert soak.orphans == ()
    before, after = soak.descriptors
    # A server is always in the middle of something: a pipe, a pidfd, a log that is being drained.
    assert after <= before + 8
    before, after = soak.memory_bytes
    assert after - before < 16 * 2**20
