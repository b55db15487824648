"""`file_read`: bounded parts, encodings, images, and the promise that nothing is lost between."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostwright_system.files import Roots, file_read
from hostwright_system.files import reading as module

from .files_world import World, refused, world_in


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    with world_in(tmp_path) as made:
        yield made


def test_lines_page_by_page(world: World) -> None:
    text = "".join(f"line {n}\n" for n in range(10)) + "last"
    (world.root / "f").write_text(text)
    first = file_read(world.roots, "f", limit=4)
    assert first.text == "line 0\nline 1\nline 2\nline 3\n"
    assert (first.next_offset, first.returned, first.total_lines) == (4, 4, 11)
    assert first.sha256 == hashlib.sha256(text.encode()).hexdigest()
    last = file_read(world.roots, "f", offset=10)
    assert (last.text, last.next_offset, last.next_byte_offset) == ("last", None, None)
    rest = file_read(world.roots, "f", offset=first.next_byte_offset or 0, unit="byte")
    assert (first.text or "") + (rest.text or "") == text
    with refused("bad_range"):
        file_read(world.roots, "f", offset=12)
    with refused("bad_range"):
        file_read(world.roots, "f", limit=0)


def test_an_empty_file(world: World) -> None:
    (world.root / "f").touch()
    read = file_read(world.roots, "f")
    assert (read.text, read.total_lines, read.next_offset, read.size_bytes) == ("", 0, None, 0)


def test_a_huge_line_is_cut_and_goes_on_by_byte(world: World) -> None:
    text = "ä" * 200_000 + "\nsecond\n"
    (world.root / "f").write_text(text)
    first = file_read(world.roots, "f")
    assert first.line_cut
    assert len((first.text or "").encode()) <= module.OUTPUT_BYTES
    assert first.next_offset == 1
    parts, at = [first.text or ""], first.next_byte_offset
    while at is not None:
        part = file_read(world.roots, "f", offset=at, unit="byte")
        parts.append(part.text or "")
        at = part.next_byte_offset
    assert "".join(parts) == text
    assert file_read(world.roots, "f", offset=1).text == "second\n"


def test_a_huge_file_is_read_in_part(world: World) -> None:
    path = world.root / "huge"
    with path.open("wb") as file:
        file.write(b"first\nsecond\n")
        file.truncate(200 * 1024**3)
    read = file_read(world.roots, "huge", limit=2, encoding="utf-8")
    assert read.text == "first\nsecond\n"
    assert (read.sha256, read.total_lines, read.next_offset) == (None, None, 2)
    end = file_read(world.roots, "huge", offset=200 * 1024**3 - 3, unit="byte", encoding="base64")
    assert base64.b64decode(end.base64 or "") == b"\0\0\0"
    assert end.next_offset is None


@pytest.mark.parametrize(
    ("codec", "bom"),
    [
        ("utf-8", b"\xef\xbb\xbf"),
        ("utf-16-le", b"\xff\xfe"),
        ("utf-16-be", b"\xfe\xff"),
        ("utf-32-le", b"\xff\xfe\0\0"),
        ("utf-32-be", b"\0\0\xfe\xff"),
    ],
)
def test_byte_order_marks(world: World, codec: str, bom: bytes) -> None:
    # U+0A00 and U+000A stand side by side: newlines count at whole code units only.
    text = "ਊ\u0a00one\nzw\u0a0aei\n三"
    (world.root / "f").write_bytes(bom + text.encode(codec))
    read = file_read(world.roots, "f")
    assert (read.text, read.encoding, read.has_bom) == (text, codec, True)
    assert (read.total_lines, read.returned) == (3, 3)
    assert file_read(world.roots, "f", offset=1, limit=1).text == "zw\u0a0aei\n"


def test_legacy_encodings(world: World) -> None:
    german = "Die Größe der Straße überraschte Jürgen sehr, weil er Käse mag.\n" * 20
    (world.root / "l1").write_bytes(german.encode("cp1252"))
    assert file_read(world.roots, "l1").text == german
    japanese = "日本語のテキストファイルです。文字コードを判定します。\n" * 20
    (world.root / "sj").write_bytes(japanese.encode("shift-jis"))
    assert file_read(world.roots, "sj", encoding="shift-jis").text == japanese
    assert file_read(world.roots, "sj").text == japanese
    for bad in ("no-such", "rot13", "punycode", "zlib"):
        with refused("bad_encoding"):
            file_read(world.roots, "l1", encoding=bad)


def test_undecodable_bytes_are_counted(world: World) -> None:
    (world.root / "f").write_bytes(b"good \xff bad\n")
    read = file_read(world.roots, "f", encoding="utf-8")
    assert (read.text, read.replaced_characters) == ("good \ufffd bad\n", 1)


def test_binary_and_base64(world: World) -> None:
    data = bytes(range(256)) * 10
    (world.root / "f").write_bytes(data)
    read = file_read(world.roots, "f")
    assert (read.kind, read.text, read.unit) == ("binary", None, "byte")
    assert base64.b64decode(read.base64 or "") == data
    part = file_read(world.roots, "f", offset=100, limit=50, unit="byte")
    assert base64.b64decode(part.base64 or "") == data[100:150]
    assert part.next_offset == 150
    with refused("not_text"):
        file_read(world.roots, "f", offset=3)
    (world.root / "t").write_text("text")
    forced = file_read(world.roots, "t", encoding="base64")
    assert base64.b64decode(forced.base64 or "") == b"text"


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "image/png"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 20, "image/jpeg"),
        (b"GIF89a" + b"\0" * 20, "image/gif"),
        (b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 20, "image/webp"),
    ],
)
def test_images_by_their_bytes(world: World, head: bytes, mime: str) -> None:
    (world.root / "picture.txt").write_bytes(head)
    read = file_read(world.roots, "picture.txt")
    assert (read.kind, read.mime_type) == ("image", mime)
    assert base64.b64decode(read.base64 or "") == head
    with (world.root / "picture.txt").open("r+b") as file:
        file.truncate(module.IMAGE_BYTES + 1)
    large = file_read(world.roots, "picture.txt")
    assert (large.kind, large.mime_type) == ("binary", mime)
    assert large.next_offset is not None


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs a procfs")  # noqa: PTH110
def test_files_whose_size_says_nothing(tmp_path: Path) -> None:
    roots = Roots([Path("/proc/self").resolve()], working_folder=tmp_path)
    read = file_read(roots, "/proc/self/status")
    assert "Pid:" in (read.text or "")
    assert read.size_bytes > 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=30),
    limit=st.integers(1, 7),
    codec=st.sampled_from(["utf-8", "utf-16-le", "utf-32-be"]),
)
def test_pages_join_to_the_whole(world: World, lines: list[str], limit: int, codec: str) -> None:
    text = "\n".join(lines).lstrip("\ufeff")  # a mark at the beginning is no text
    data = text.encode(codec)
    (world.root / "f").write_bytes(data)
    parts, at = list[str](), 0
    while True:
        page = file_read(world.roots, "f", offset=at, limit=limit, encoding=codec)
        parts.append(page.text or "")
        assert page.sha256 == hashlib.sha256(data).hexdigest()
        if page.next_offset is None:
            break
        assert page.next_offset > at
        at = page.next_offset
    assert "".join(parts).encode(codec) == data


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60), limit=st.integers(1, 9))
def test_byte_pages_never_cut_a_character(world: World, text: str, limit: int) -> None:
    (world.root / "f").write_bytes(text.encode())
    parts, at = list[str](), 0
    while True:
        page = file_read(
            world.roots, "f", offset=at, limit=max(limit, 4), unit="byte", encoding="utf-8"
        )
        assert page.replaced_characters == page.text.count("\ufffd") if page.text else True
        parts.append(page.text or "")
        if page.next_offset is None:
            break
        at = page.next_offset
    assert "".join(parts) == text.removeprefix("\ufeff")
