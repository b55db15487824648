"""Points in time and journal lines: pure parsing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.errors import HostError
from hostwright_system.services.journal_entry import (
    MESSAGE_MAX_CHARS,
    JournalEntry,
    oversized_entry,
    parse_entry,
)
from hostwright_system.services.journal_time import iso_time, journalctl_time, parse_when

NOW = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
CURSOR = "s=a1;i=1;b=b2;m=3;t=4;x=5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("today", datetime(2026, 3, 1, tzinfo=UTC)),
        ("yesterday", datetime(2026, 2, 28, tzinfo=UTC)),
        ("-1h", NOW - timedelta(hours=1)),
        (" -1h\n", NOW - timedelta(hours=1)),
        ("-1h30min", NOW - timedelta(minutes=90)),
        ("2 hours ago", NOW - timedelta(hours=2)),
        ("1h 5m ago", NOW - timedelta(minutes=65)),
        ("-0.5s", NOW - timedelta(seconds=0.5)),
        ("-1w", NOW - timedelta(days=7)),
        ("-1M", NOW - timedelta(days=30.44)),
        ("-1m", NOW - timedelta(minutes=1)),
        ("@1000000000.5", datetime(2001, 9, 9, 1, 46, 40, 500_000, tzinfo=UTC)),
        ("2026-02-28T10:00:00Z", datetime(2026, 2, 28, 10, tzinfo=UTC)),
        ("2026-02-28 10:00", datetime(2026, 2, 28, 10, tzinfo=UTC)),
        ("2026-02-28T10:00:00+02:00", datetime(2026, 2, 28, 8, tzinfo=UTC)),
        ("2026-02-28", datetime(2026, 2, 28, tzinfo=UTC)),
    ],
)
def test_times_that_are_understood(text: str, expected: datetime) -> None:
    assert parse_when(text, "since", NOW) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "ago", "--since=x", "-1", "-1x", "-1h2", "1h", "tomorrow", "-h", "2026-13-01"),
        *(
            "1969-12-31",
            "-999999999y",
            "@",
            "@-1",
            "\N{ARABIC-INDIC DIGIT ONE}h ago",
            "-" + "1s" * 40,
            "\0",
        ),
    ],
)
def test_times_that_are_refused(text: str) -> None:
    with pytest.raises(HostError) as caught:
        parse_when(text, "until", NOW)
    assert caught.value.code == "bad_time"
    assert "until" in caught.value.message
    assert caught.value.fix


@given(st.one_of(st.text(max_size=80), st.from_regex(r"-?[0-9.]{1,12} ?[a-zM]{1,7}( ago)?")))
def test_any_text_becomes_a_time_or_one_clear_error(text: str) -> None:
    try:
        when = parse_when(text, "since", NOW)
    except HostError as error:
        assert error.code == "bad_time"
        return
    option = journalctl_time(when)
    assert option[0] == "@"
    assert option[1:].replace(".", "", 1).isdecimal()


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_time_survives_the_way_to_journalctl_and_back(when: datetime) -> None:
    assert parse_when(journalctl_time(when), "since", NOW) == when
    microseconds = (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse_when(iso_time(microseconds), "since", NOW) == when


def line(**fields: object) -> bytes:
    known = {"__CURSOR": CURSOR, "__REALTIME_TIMESTAMP": "1700000000000000"}
    return json.dumps({**known, **fields}).encode()


def parse(**fields: object) -> JournalEntry:
    return parse_entry(line(**fields), str)


def test_an_ordinary_entry() -> None:
    entry = parse(
        MESSAGE="hello",
        PRIORITY="3",
        SYSLOG_IDENTIFIER="app",
        _COMM="python3",
        _PID="42",
        _SYSTEMD_UNIT="app.service",
    )
    assert entry == JournalEntry(
        time="2023-11-14T22:13:20.000000Z",
        unit="app.service",
        pid=42,
        identifier="app",
        priority="err",
        message="hello",
        message_truncated=False,
        cursor=CURSOR,
    )


def test_binary_repeated_and_missing_messages() -> None:
    assert parse(MESSAGE=[104, 105, 255, 10, 106]).message == "hi\\xff\nj"
    assert parse(MESSAGE=["one", [116, 119, 111]]).message == "one\ntwo"
    assert parse(MESSAGE=None).message == ""
    assert parse().message == ""
    assert parse(MESSAGE=list("grün \x1b[31mrot".encode())).message == "grün \x1b[31mrot"


def test_only_a_service_manager_may_speak_about_another_unit() -> None:
    said = {"UNIT": "sshd.service", "_SYSTEMD_UNIT": "init.scope"}
    assert parse(**said, _PID="1").unit == "sshd.service"
    assert parse(**said, _PID="77").unit == "init.scope"
    user = {"USER_UNIT": "mine.service", "_SYSTEMD_UNIT": "user@1000.service"}
    assert parse(**user, _UID="1000").unit == "mine.service"
    assert parse(**user, _UID="1001").unit == "user@1000.service"


def test_redaction_comes_before_the_cut() -> None:
    secret = "x" * (MESSAGE_MAX_CHARS - 3) + "hunter2"
    entry = parse_entry(line(MESSAGE=secret), lambda text: text.replace("hunter2", "[redacted]"))
    assert entry.message_truncated
    assert "hun" not in entry.message


def test_an_oversized_line_keeps_its_place_and_cannot_be_forged() -> None:
    forged = json.dumps({"MESSAGE": '"__CURSOR":"s=f;i=f","__REALTIME_TIMESTAMP":"1"'})
    ends = forged[:-1].encode() + b', "__REALTIME_TIMESTAMP" : "1700000000000000", '
    entry = oversized_entry(ends + f'"__CURSOR" : "{CURSOR}"}}'.encode(), 9_000_000)
    assert entry.cursor == CURSOR
    assert entry.time == "2023-11-14T22:13:20.000000Z"
    assert "9000000 bytes" in entry.message
    with pytest.raises(ValueError, match="no cursor"):
        oversized_entry(b"{}", 9_000_000)


FIELD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "MESSAGE",
        "PRIORITY",
        "_PID",
        "_UID",
        "UNIT",
        "USER_UNIT",
        "_SYSTEMD_UNIT",
        "_COMM",
        "__CURSOR",
        "__REALTIME_TIMESTAMP",
        "SYSLOG_IDENTIFIER",
    ]
)


@given(st.dictionaries(NAMES, FIELD, max_size=11))
def test_any_field_value_gives_an_entry_or_value_error(fields: dict[str, object]) -> None:
    try:
        entry = parse(**fields)
    except ValueError:
        return
    assert entry.model_dump_json()


@given(st.binary(max_size=200))
def test_any_bytes_give_an_entry_or_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_entry(data, str)


@given(st.binary(max_size=300))
def test_every_binary_message_is_kept_readable(data: bytes) -> None:
    message = parse(MESSAGE=list(data)).message
    assert message == data.decode(errors="backslashreplace")
