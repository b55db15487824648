"""Output pages: the stored bytes, whole, in order, never a character in two."""

from __future__ import annotations

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostwright_kit.errors import HostError
from hostwright_kit.job_output import (
    MAX_PAGE_BYTES,
    OutputPage,
    OutputSink,
    read_page,
    remove_orphans,
    stored_sizes,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200).map(str.encode)
MIXED = st.lists(st.one_of(TEXT, st.binary(max_size=40)), max_size=6).map(b"".join)


def page_of(
    folder: Path, offset: int, limit: int, *, ended: bool = True, total: int = 0
) -> OutputPage:
    return read_page(
        folder,
        "job",
        "stdout",
        offset_bytes=offset,
        limit_bytes=limit,
        total_bytes=total,
        truncated=None,
        ended=ended,
    )


def exact(page: OutputPage) -> bytes:
    return base64.b64decode(page.base64) if page.base64 is not None else page.text.encode()


@settings(deadline=None)
@given(data=MIXED, limit=st.integers(4, 64))
def test_pages_joined_equal_the_stored_bytes(data: bytes, limit: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.stdout").write_bytes(data)
        joined, text, offset = b"", "", 0
        while True:
            page = page_of(folder, offset, limit)
            assert page.offset_bytes == offset
            joined, text, offset = joined + exact(page), text + page.text, page.next_offset_bytes
            if page.complete:
                break
            assert page.next_offset_bytes > page.offset_bytes
        assert joined == data
        assert text == data.decode("utf-8", "replace")


@settings(deadline=None)
@given(data=TEXT, cut=st.integers(0, 800), limit=st.integers(4, 64))
def test_a_page_never_splits_a_character_while_it_is_being_written(
    data: bytes, cut: int, limit: int
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.stdout").write_bytes(data[:cut])
        offset, text = 0, ""
        for written in (data[:cut], data):
            (folder / "job.stdout").write_bytes(written)
            while True:
                page = page_of(folder, offset, limit, ended=False)
                assert page.base64 is None
                assert not page.complete
                text += page.text
                if page.next_offset_bytes == offset:
                    break
                offset = page.next_offset_bytes
        assert text.encode() == data


@settings(deadline=None)
@given(data=TEXT, last=st.integers(1, 300))
def test_a_page_from_the_end_starts_at_a_character(data: bytes, last: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.stdout").write_bytes(data)
        page = page_of(folder, -last, 1024)
        assert page.base64 is None
        assert data.endswith(exact(page))
        assert len(exact(page)) > min(last, len(data)) - 4


def test_bad_bounds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "job.stdout").write_bytes(b"abc")
    for offset, limit in ((0, 3), (0, MAX_PAGE_BYTES + 1), (4, 100)):
        with pytest.raises(HostError) as caught:
            page_of(tmp_path, offset, limit)
        assert caught.value.code == "invalid_argument"
        assert caught.value.fix


async def test_the_cap_keeps_a_true_prefix_of_each_stream(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        sink = OutputSink(tmp_path, "job", 10, pool)
        await sink.write(b"12345678", "stdout")
        await sink.write(b"abcd", "stderr")
        await sink.write(b"9", "stdout")
        await sink.write(b"e", "stderr")
        await sink.close()
    assert (tmp_path / "job.stdout").read_bytes() == b"12345678"
    assert (tmp_path / "job.stderr").read_bytes() == b"ab"
    assert sink.total_bytes == {"stdout": 9, "stderr": 5}
    assert sink.stored_bytes == {"stdout": 8, "stderr": 2}
    assert sink.truncated("stdout")
    assert sink.truncated("stderr")
    page = page_of(tmp_path, 0, 100, total=9)
    assert page.truncated
    assert page.total_bytes == 9
    assert page.stored_bytes == 8


async def test_concurrent_writes_to_both_streams_stay_whole(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        sink = OutputSink(tmp_path, "job", 1 << 20, pool)
        await asyncio.gather(
            *(sink.write(bytes([n]) * 100, "stdout" if n % 2 else "stderr") for n in range(200))
        )
        await sink.close()
    for stream in ("stdout", "stderr"):
        data = (tmp_path / f"job.{stream}").read_bytes()
        assert len(data) == 10_000
        assert all(len(set(data[i : i + 100])) == 1 for i in range(0, len(data), 100))
    assert (tmp_path / "job.stdout").stat().st_mode & 0o777 == 0o600


async def test_a_disk_that_refuses_stops_storing_and_says_so(tmp_path: Path) -> None:
    # A folder where the file should be: a real refusal that needs no full disk.
    (tmp_path / "job.stdout").mkdir()
    with ThreadPoolExecutor(1) as pool:
        sink = OutputSink(tmp_path, "job", 100, pool)
        await sink.write(b"lost")
        await sink.write(b"more")
        await sink.close()
    assert sink.failure is not None
    assert "could not be stored" in sink.failure
    assert sink.total_bytes["stdout"] == 8
    assert sink.stored_bytes["stdout"] == 0
    assert sink.truncated("stdout")


def test_orphans_go_and_known_files_stay(tmp_path: Path) -> None:
    for name in ("a.stdout", "a.stderr", "b.stdout"):
        (tmp_path / name).write_bytes(b"12")
    remove_orphans(tmp_path, lambda: {"b"})
    assert [path.name for path in tmp_path.iterdir()] == ["b.stdout"]
    assert stored_sizes(tmp_path, "b") == (2, 0)
