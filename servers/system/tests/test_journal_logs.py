"""Reading a real journal, written by a real journald."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hostwright_kit.errors import HostError
from hostwright_system.services import Direction, Journal, JournalPage, journal, journal_logs
from hostwright_system.services.journalctl import LINE_MAX_BYTES

from .systemd_host import SystemdHost, systemd_host

__all__ = ["systemd_host"]
pytestmark = pytest.mark.systemd

# Speaks journald's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
SEND = (
    "import array, os, socket, struct, sys\n"
    "data = b''\n"
    "for field in sys.stdin.buffer.read().split(b'\\0\\0\\0'):\n"
    "    name, _, value = field.partition(b'=')\n"
    "    data += name + b'\\n' + struct.pack('<Q', len(value)) + value + b'\\n'\n"
    "fd = os.memfd_create('entry', os.MFD_ALLOW_SEALING)\n"
    "os.write(fd, data) == len(data) or sys.exit('short write')\n"
    "import fcntl; fcntl.fcntl(fd, 1033, 0xF)\n"
    "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "s.connect(sys.argv[1])\n"
    "s.sendmsg([b''], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])\n"
)
tags = itertools.count()


class Writer:
    """Writes entries to the journal of the booted host and reads them back with our code."""

    def __init__(self, host: SystemdHost) -> None:
        self.host = host
        self.journal = Journal(redact=str, directory=host.journal_directory)
        self.unit = f"writer{next(tags)}.service"

    def write(self, *lines: str, sync: bool = True) -> None:
        """Log lines as the unit does; a `<N>` prefix sets the priority (sd-daemon(3))."""
        script = "".join(f"echo '{line}'; " for line in lines)
        self.host.add_unit(
            self.unit, f"[Service]\nType=oneshot\nExecStart=/bin/sh /run/{self.unit}.sh\n"
        )
        (self.host.root / f"run/{self.unit}.sh").write_text(script)
        self.host.run("systemctl", "start", self.unit)
        if sync:
            self.host.sync_journal()

    async def read(
        self,
        *,
        priority: str | int | None = None,
        since: str | None = None,
        until: str | None = None,
        grep: str | None = None,
        boot: str | int | None = None,
        limit: int = 100,
        cursor: str | None = None,
        direction: Direction = "forward",
    ) -> JournalPage:
        return await journal_logs(
            self.unit,
            priority=priority,
            since=since,
            until=until,
            grep=grep,
            boot=boot,
            limit=limit,
            cursor=cursor,
            direction=direction,
            journal=self.journal,
        )


def texts(page: JournalPage) -> list[str]:
    """The messages that the unit's own process wrote."""
    return [entry.message for entry in page.entries if entry.identifier == "sh"]


@pytest.fixture
def writer(systemd_host: SystemdHost) -> Writer:
    return Writer(systemd_host)


def send(host: SystemdHost, message: bytes, tag: str) -> None:
    """One entry with MESSAGE as raw bytes, sent from outside through the host's own socket."""
    data = b"\0\0\0".join((b"MESSAGE=" + message, b"SYSLOG_IDENTIFIER=" + tag.encode()))
    socket = str(host.root / "run/systemd/journal/socket")
    subprocess.run([sys.executable, "-c", SEND, socket], input=data, check=True)
    host.sync_journal()


async def test_an_entry_has_its_fields(writer: Writer) -> None:
    writer.write("<3>broken", "fine")
    page = await writer.read()
    broken, fine = [entry for entry in page.entries if entry.identifier == "sh"]
    assert (broken.message, broken.priority) == ("broken", "err")
    assert (fine.message, fine.priority) == ("fine", "info")
    assert broken.unit == writer.unit
    assert broken.pid is not None and broken.pid > 1
    assert broken.time.endswith("Z") and len(broken.time) == len("2026-01-01T00:00:00.000000Z")
    # What systemd says about the unit belongs to it too.
    (starting,) = [entry for entry in page.entries if entry.message.startswith("Starting")]
    assert (starting.unit, starting.identifier) == (writer.unit, "systemd")
    assert not page.truncated
    assert page.next_cursor is None
    assert page.notes == ()


@pytest.mark.parametrize("direction", ["forward", "backward"])
async def test_pages_lose_nothing_and_repeat_nothing(writer: Writer, direction: Direction) -> None:
    writer.write(*(f"line {number}" for number in range(25)))
    whole = await writer.read(direction=direction)
    seen: list[str] = []
    cursor = None
    for _ in range(40):
        page = await writer.read(limit=4, cursor=cursor, direction=direction)
        seen += [entry.cursor for entry in page.entries]
        cursor = page.next_cursor
        assert page.truncated == (cursor is not None)
        assert page.truncated_by == ("limit" if cursor else None)
        if cursor is None:
            break
    assert seen == [entry.cursor for entry in whole.entries]
    wanted = [f"line {number}" for number in range(25)]
    assert texts(whole) == (wanted if direction == "forward" else wanted[::-1])


async def test_following_from_the_last_entry_gives_only_what_is_new(writer: Writer) -> None:
    writer.write("old")
    last = (await writer.read()).entries[-1]
    assert (await writer.read(cursor=last.cursor)).entries == ()
    writer.write("new")
    assert texts(await writer.read(cursor=last.cursor)) == ["new"]


async def test_since_and_until_bound_both_directions_and_all_pages(writer: Writer) -> None:
    writer.write(*(f"line {number}" for number in range(10)))
    lines = [entry for entry in (await writer.read()).entries if entry.identifier == "sh"]
    since, until = lines[2].time, lines[7].time
    wanted = [entry.cursor for entry in lines if since <= entry.time <= until]
    assert len(wanted) >= 6
    for direction in ("forward", "backward"):
        page = await writer.read(since=since, until=until, direction=direction)
        expected = wanted if direction == "forward" else wanted[::-1]
        assert [entry.cursor for entry in page.entries] == expected
        seen: list[str] = []
        cursor = None
        while True:
            page = await writer.read(
                since=since, until=until, direction=direction, limit=2, cursor=cursor
            )
            seen += [entry.cursor for entry in page.entries]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == expected
    assert texts(await writer.read(since="-1h", until="now")) == [f"line {n}" for n in range(10)]
    assert texts(await writer.read(until="1 hour ago")) == []


async def test_priority_takes_in_all_that_is_more_important(writer: Writer) -> None:
    writer.write("<2>critical", "<3>error", "<4>warning", "<6>info", "<7>debug")
    assert texts(await writer.read(priority="warning")) == ["critical", "error", "warning"]
    assert texts(await writer.read(priority=3)) == ["critical", "error"]
    assert texts(await writer.read(priority="ERROR")) == ["critical", "error"]
    assert len(texts(await writer.read(priority="debug"))) == 5


async def test_grep_is_a_pattern_with_smart_case(writer: Writer) -> None:
    writer.write("Connection refused", "connection accepted 17", "nothing", "--user=x")
    assert texts(await writer.read(grep="connection")) == [
        "Connection refused",
        "connection accepted 17",
    ]
    assert texts(await writer.read(grep="Connection")) == ["Connection refused"]
    assert texts(await writer.read(grep=r"accepted \d+$")) == ["connection accepted 17"]
    assert texts(await writer.read(grep="--user")) == ["--user=x"]  # a value, not an option
    nothing = await writer.read(grep="no such text")
    assert nothing.entries == ()
    assert not nothing.truncated
    with pytest.raises(HostError) as caught:
        await writer.read(grep="(unclosed")
    assert caught.value.code == "bad_pattern"
    assert caught.value.fix


async def test_grep_pages_too(writer: Writer) -> None:
    writer.write(*(f"{'hit' if number % 3 == 0 else 'miss'} {number}" for number in range(12)))
    first = await writer.read(grep="^hit", limit=2)
    assert texts(first) == ["hit 0", "hit 3"]
    second = await writer.read(grep="^hit", limit=2, cursor=first.next_cursor)
    assert texts(second) == ["hit 6", "hit 9"]
    assert not second.truncated


async def test_boots(writer: Writer) -> None:
    writer.write("this boot")
    assert texts(await writer.read(boot=0)) == ["this boot"]
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    assert texts(await writer.read(boot=boot_id)) == ["this boot"]
    with pytest.raises(HostError) as caught:
        await writer.read(boot=-5)
    assert caught.value.code == "not_found"


async def test_a_glob_reads_several_units_and_no_unit_reads_all(writer: Writer) -> None:
    other = Writer(writer.host)
    writer.write("from one")
    other.write("from two")
    page = await journal_logs("writer*", limit=1000, journal=writer.journal)
    assert {writer.unit, other.unit} <= {entry.unit for entry in page.entries}
    everything = await journal_logs(limit=1000, direction="forward", journal=writer.journal)
    assert {"init.scope", "dbus.service"} <= {entry.unit for entry in everything.entries}
    newest = await journal_logs(limit=3, journal=writer.journal)
    assert newest.direction == "backward"
    assert [entry.time for entry in newest.entries] == sorted(
        (entry.time for entry in newest.entries), reverse=True
    )


async def test_an_unknown_unit_is_said_to_be_unknown(writer: Writer) -> None:
    writer.write("x")
    page = await journal_logs(writer.unit.replace("writer", "wrtier"), journal=writer.journal)
    assert page.entries == ()
    assert "holds no entry" in page.notes[0]
    assert writer.unit in page.notes[0]
    quiet = await writer.read(priority="emerg")
    assert quiet.entries == ()
    assert quiet.notes == ()


async def test_binary_multi_line_and_very_long_messages(writer: Writer) -> None:
    host = writer.host
    send(host, b"\x00\x01 caf\xe9 \xff", "raw")
    send(host, "first\nsecond\n\tthird — ü".encode(), "raw")
    send(host, b"A" * 100_000, "raw")
    send(host, b"B" * (LINE_MAX_BYTES + 100_000), "raw")
    send(host, b"after", "raw")
    page = await journal_logs(direction="forward", limit=1000, journal=writer.journal)
    entries = [entry for entry in page.entries if entry.identifier == "raw"]
    binary, lines, long, after = entries
    assert binary.message == "\x00\x01 caf\\xe9 \\xff"
    assert lines.message == "first\nsecond\n\tthird — ü"
    assert long.message_truncated
    assert set(long.message) == {"A"}
    assert after.message == "after"
    left_out = [entry for entry in page.entries if entry.message.startswith("[left out")]
    assert len(left_out) == 1
    assert long.time < left_out[0].time < after.time
    behind = await journal_logs(
        direction="forward", limit=5, cursor=left_out[0].cursor, journal=writer.journal
    )
    assert behind.entries[0].message == "after"


async def test_a_page_is_bounded_in_size(writer: Writer) -> None:
    writer.write(*(f"{number:02} " + "y" * 7_900 for number in range(40)))
    seen: list[str] = []
    cursor, pages = None, 0
    while True:
        page = await writer.read(limit=1000, cursor=cursor)
        pages += 1
        seen += texts(page)
        assert len(json.dumps(page.model_dump())) < 400_000
        cursor = page.next_cursor
        if cursor is None:
            break
        assert page.truncated_by == "size"
    assert pages == 2
    assert [text[:2] for text in seen] == [f"{number:02}" for number in range(40)]


async def test_secrets_are_redacted(writer: Writer) -> None:
    writer.write("token=hunter2 accepted")
    journal = Journal(
        redact=lambda text: text.replace("hunter2", "[redacted]"),
        directory=writer.host.journal_directory,
    )
    page = await journal_logs(writer.unit, journal=journal)
    assert "hunter2" not in page.model_dump_json()
    assert "token=[redacted] accepted" in texts(page)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"limit": 0}, "bad_limit"),
        ({"limit": 1001}, "bad_limit"),
        ({"priority": "loud"}, "bad_priority"),
        ({"priority": 8}, "bad_priority"),
        ({"priority": "0..3"}, "bad_priority"),
        ({"boot": "--help"}, "bad_boot"),
        ({"cursor": "--help"}, "bad_cursor"),
        ({"cursor": "s=1;i=2 --help"}, "bad_cursor"),
        ({"since": "--help"}, "bad_time"),
        ({"since": "now", "until": "-1h"}, "bad_time"),
        ({"grep": ""}, "bad_pattern"),
        ({"grep": "a\0b"}, "bad_pattern"),
        ({"grep": "x" * 501}, "bad_pattern"),
        ({"unit": "a b"}, "bad_unit_name"),
    ],
)
async def test_bad_arguments_never_reach_journalctl(
    writer: Writer, arguments: dict[str, str], code: str
) -> None:
    with pytest.raises(HostError) as caught:
        await journal_logs(**arguments, journal=writer.journal)  # pyright: ignore[reportArgumentType] (wrong on purpose)
    assert caught.value.code == code
    assert caught.value.fix


async def test_a_cursor_of_another_journal_still_gives_entries(writer: Writer) -> None:
    """After rotation a cursor may name an entry that is gone; the nearest place is taken."""
    writer.write("one", "two")
    first = (await writer.read()).entries[0]
    gone = first.cursor.replace(first.cursor.split(";")[1], "i=0")
    assert texts(await writer.read(cursor=gone)) == ["one", "two"]


async def test_the_namespace_is_an_option_value(writer: Writer) -> None:
    bad = Journal(redact=str, directory=writer.host.journal_directory, namespace="--x")
    with pytest.raises(HostError) as caught:
        await journal_logs(journal=bad)
    assert caught.value.code == "bad_namespace"


async def test_a_root_folder_can_be_read(writer: Writer) -> None:
    writer.write("seen from outside")
    page = await journal_logs(writer.unit, journal=Journal(redact=str, root=writer.host.root))
    assert texts(page) == ["seen from outside"]


def children() -> set[str]:
    return set(Path("/proc/self/task", str(os.getpid()), "children").read_text().split())


async def test_cancelling_ends_the_child(writer: Writer) -> None:
    before = children()
    reading = asyncio.create_task(journal_logs(limit=1000, journal=writer.journal))
    async with asyncio.timeout(10):
        while children() == before:  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert children() == before


async def test_a_search_is_bounded_in_time(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    writer.write("x")
    monkeypatch.setattr(journal, "TIMEOUT_S", 0.0)
    try:
        page = await writer.read()
    except HostError as error:
        assert error.code == "timeout"
        assert "Narrow" in error.fix
    else:  # entries were there before the clock was looked at: a page, and it says so
        assert page.truncated_by == "time"
        assert page.next_cursor == page.entries[-1].cursor


async def test_a_user_who_may_not_read_is_told(writer: Writer) -> None:
    """journalctl says so in words that it keeps to itself while it writes JSON."""
    writer.write("secret")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "journal")
        shutil.copytree(writer.host.journal_directory, copy)
        for path in (Path(folder), copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o600)
        os.seteuid(65_534)
        try:
            with pytest.raises(HostError) as caught:
                await journal_logs(journal=Journal(redact=str, directory=copy))
        finally:
            os.seteuid(0)
    assert caught.value.code == "no_journal"
    assert "systemd-journal" in caught.value.fix
