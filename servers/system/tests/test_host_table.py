"""Filters, order and cursors of host rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from hostwright_kit.errors import HostError
from hostwright_system.host import table


class Thing(BaseModel, frozen=True):
    id: int
    size: int | None
    name: str | None
    state: str = "on"
    ok: bool = True


TABLE: table.Table[Thing] = table.Table(
    kind="things",
    fields=(
        table.Field("id", "number"),
        table.Field("size", "number"),
        table.Field("name", "text"),
        table.Field("state", "choice", sortable=False),
        table.Field("ok", "flag"),
    ),
    identity=lambda row: f"{row.id:06d}",
    default_sort="size",
    default_order="desc",
)

things = st.lists(
    st.builds(
        Thing,
        id=st.integers(0, 9999),
        size=st.none() | st.integers(-3, 3),
        name=st.none() | st.text(max_size=3),
        ok=st.booleans(),
    ),
    max_size=40,
    unique_by=lambda thing: thing.id,
)


def ask(
    rows: list[Thing],
    *,
    sort: str | None = None,
    order: table.Order | None = None,
    filters: dict[str, table.FilterValue] | None = None,
    limit: int = 500,
    cursor: str | None = None,
) -> table.Page[Thing]:
    request = table.check_request(
        TABLE, sort=sort, order=order, filters=filters, limit=limit, cursor=cursor
    )
    return table.take_page(TABLE, rows, request)


@given(
    rows=things,
    sort=st.sampled_from(["id", "size", "name", "ok"]),
    order=st.sampled_from(["asc", "desc"]),
    limit=st.integers(1, 7),
)
def test_pages_together_are_the_whole_in_one_order(
    rows: list[Thing], sort: str, order: table.Order, limit: int
) -> None:
    whole = ask(rows, sort=sort, order=order).rows
    values = [getattr(row, sort) for row in whole]
    known = [v for v in values if v is not None]
    assert known == sorted(known, reverse=order == "desc")
    assert values[: len(known)] == known, "unknown values come last"
    walked: list[Thing] = []
    cursor: str | None = None
    for _ in range(len(rows) + 1):
        rows.reverse()  # the order in which they are read means nothing
        page = ask(rows, sort=sort, order=order, limit=limit, cursor=cursor)
        assert page.total == len(rows)
        walked += page.rows
        cursor = page.next_cursor
        if cursor is None:
            break
    assert tuple(walked) == whole


@given(rows=things, extra=things, gone=st.sets(st.integers(0, 9999)), limit=st.integers(1, 5))
def test_rows_that_come_and_go_neither_hide_nor_repeat_the_others(
    rows: list[Thing], extra: list[Thing], gone: set[int], limit: int
) -> None:
    first = ask(rows, sort="name", limit=limit)
    if first.next_cursor is None:
        return
    known = {row.id for row in rows}
    later = [r for r in rows if r.id not in gone] + [r for r in extra if r.id not in known]
    rest = ask(later, sort="name", cursor=first.next_cursor).rows
    seen = {row.id for row in first.rows}
    staying = {row.id for row in rows if row.id not in gone}
    assert not seen & {row.id for row in rest}
    assert staying - seen <= {row.id for row in rest}


ROWS = [
    Thing(id=1, size=10, name="Nginx", state="On"),
    Thing(id=2, size=20, name="nginx-helper", state="off", ok=False),
    Thing(id=3, size=None, name="redis", state="on"),
    Thing(id=10, size=30, name=None),
]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"id": 1}, [1]),
        ({"id": "1"}, [1]),
        ({"id": [1, 10]}, [1, 10]),
        ({"size": ">=20"}, [2, 10]),
        ({"size": "< 20"}, [1]),
        ({"size": 20.0}, [2]),
        ({"size": None}, [3]),
        ({"name": "nginx"}, [1, 2]),
        ({"name": "nginx*er"}, [2]),
        ({"name": "?edis"}, [3]),
        ({"name": "NGINX", "ok": True}, [1]),
        ({"state": "on"}, [1, 3, 10]),
        ({"state": "o"}, []),
        ({"ok": False}, [2]),
    ],
)
def test_filters_mean_what_is_written(
    filters: dict[str, table.FilterValue], expected: list[int]
) -> None:
    assert [row.id for row in ask(ROWS, sort="id", filters=filters).rows] == expected


@pytest.mark.parametrize(
    ("question", "code", "said"),
    [
        ({"sort": "colour"}, "invalid_sort", "id, size, name, ok"),
        ({"sort": "state"}, "invalid_sort", "id, size, name, ok"),
        ({"order": "up"}, "invalid_sort", "asc or desc"),
        ({"filters": {"colour": 1}}, "invalid_filter", "id, size, name, state, ok"),
        ({"filters": {"id": "one"}}, "invalid_filter", "Give a number"),
        ({"filters": {"id": True}}, "invalid_filter", "Give a number"),
        ({"filters": {"ok": "yes"}}, "invalid_filter", "true or false"),
        ({"filters": {"name": 5}}, "invalid_filter", "Give text"),
        ({"filters": {"name": ""}}, "invalid_filter", "Give text"),
        ({"filters": {"name": []}}, "invalid_filter", "1 to 50"),
        ({"limit": 0}, "invalid_limit", "1 to 500"),
        ({"limit": 501}, "invalid_limit", "1 to 500"),
        ({"cursor": "rubbish!"}, "invalid_cursor", "without a cursor"),
        ({"cursor": "W" * 5000}, "invalid_cursor", "without a cursor"),
    ],
)
def test_a_wrong_question_is_refused_with_the_choices(
    question: dict[str, object], code: str, said: str
) -> None:
    with pytest.raises(HostError) as caught:
        ask(ROWS, **question)  # pyright: ignore[reportArgumentType] - wrong types are the point
    assert caught.value.code == code
    assert said in caught.value.fix


def test_a_cursor_belongs_to_its_question() -> None:
    cursor = ask(ROWS, sort="name", limit=1).next_cursor
    assert cursor is not None
    for other in ({"sort": "id"}, {"sort": "name", "order": "desc"}):
        with pytest.raises(HostError, match="cursor"):
            ask(ROWS, cursor=cursor, **other)  # pyright: ignore[reportArgumentType]
    with pytest.raises(HostError, match="cursor"):
        ask(ROWS, sort="name", filters={"id": 1}, cursor=cursor)


@given(st.text(max_size=200))
def test_no_cursor_text_does_anything_but_work_or_be_refused(cursor: str) -> None:
    with pytest.raises(HostError):
        ask(ROWS, cursor=cursor)
