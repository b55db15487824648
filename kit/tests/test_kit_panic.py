"""The emergency stop on disk: the first one counts, damage counts, a full disk is no way out."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostwright_kit.errors import HostError
from hostwright_kit.jobs import JobContext, JobOutcome, JobStore
from hostwright_kit.panic import FILE, MAX_REASON_CHARS, declare, panicking, read_panic, remove


def test_of_many_at_once_one_counts_and_it_is_the_one_on_disk(tmp_path: Path) -> None:
    assert (panicking(tmp_path), read_panic(tmp_path)) == (False, None)

    def stop(number: int) -> tuple[str, bool]:
        found = declare(tmp_path, by=f"agent {number}", via="tool", reason="x" * 9_999)
        return found.panic.id, found.new

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(stop, range(64)))
    kept = read_panic(tmp_path)
    assert kept is not None
    assert {panic for panic, _ in found} == {kept.id}
    assert [new for _, new in found].count(True) == 1
    assert len(kept.reason) == MAX_REASON_CHARS
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    remove(tmp_path)
    assert not panicking(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b"\xff\x00", None])
def test_a_record_that_cannot_be_read_stops_all_the_same(
    tmp_path: Path, damage: bytes | None
) -> None:
    file = tmp_path / FILE
    file.symlink_to("/nowhere/at/all") if damage is None else file.write_bytes(damage)
    assert panicking(tmp_path)
    found = read_panic(tmp_path)
    assert found is not None
    assert str(file) in found.reason
    again = declare(tmp_path, by="agent", via="tool", reason="")
    assert (again.new, again.panic.by) == (False, "somebody")


def test_where_no_byte_can_be_written_the_name_alone_stops(tmp_path: Path) -> None:
    # A limit of 0 bytes a file is what a full disk is to whoever writes.
    program = f"""
import resource, signal
from pathlib import Path
from hostwright_kit.panic import declare
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
found = declare(Path({str(tmp_path)!r}), by="agent", via="tool", reason="full")
assert found.new and found.undurable is None, found
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert (tmp_path / FILE).read_bytes() == b""
    assert panicking(tmp_path)


def test_a_folder_that_is_gone_is_told_and_not_hidden(tmp_path: Path) -> None:
    found = declare(tmp_path / "none", by="agent", via="tool", reason="")
    assert found.new
    assert found.undurable is not None
    (tmp_path / FILE).mkdir()
    with pytest.raises(HostError) as refused:
        remove(tmp_path)
    assert refused.value.code == "panic_not_lifted"


async def test_jobs_of_a_server_that_runs_alone_end_too(tmp_path: Path) -> None:
    jobs = JobStore(tmp_path, "system")

    async def for_ever(_: JobContext) -> JobOutcome:
        await asyncio.Event().wait()
        raise AssertionError

    try:
        job = await jobs.start("command", "sleep", for_ever)
        declare(tmp_path, by="agent", via="tool", reason="")
        assert (await jobs.wait(job.id, 50)).state == "cancelled"
        other = await jobs.start("command", "sleep", for_ever)
        ended = await jobs.cancel_all(wait_seconds=50)
        assert [(one.id, one.state) for one in ended] == [(other.id, "cancelled")]
    finally:
        await jobs.close()
