"""What `top` makes of events, without a screen."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright.events.client import Happened
from hostwright.keeper.machine import State
from hostwright.top import cells
from hostwright.top.dialogs import readable
from hostwright.top.model import RATE_SECONDS, WINDOW_SECONDS, Model, percentile
from hostwright_kit.clock import instant


def event(kind: str, *, ago: float = 0.0, **fields: Any) -> Happened:
    return Happened("1-1-1", kind, instant().written_in(-ago), fields)


def test_calls_are_in_flight_until_they_end() -> None:
    model = Model()
    model.happened(event("request.accepted", id="1", server="a", tool="t", caller="c", ago=5))
    model.happened(event("request.progress", id="1", progress=2, total=4))
    model.happened(event("request.progress", id="2", server="b", tool="u", progress=1))
    first, second = model.calls()
    assert (first.server, first.progress, first.total) == ("a", 2, 4)
    assert second.tool == "u", "a call whose beginning was missed is known from its progress"
    model.happened(event("request.completed", id="1", server="a", duration_ms=10, outcome="ok"))
    model.happened(event("request.failed", id="2", server="b", duration_ms=10, outcome="failed"))
    assert model.calls() == []
    assert model.figures("b", time.time()).failed == 1


def test_what_ended_unseen_does_not_stay_for_ever() -> None:
    for end in (event("events.gap", reason="overrun"), None):
        model = Model()
        model.happened(event("request.accepted", id="1"))
        if end is None:
            model.lost("it was killed")
            assert model.away == "it was killed"
        else:
            model.happened(end)
        assert model.calls() == []


def test_figures_are_of_the_last_minute() -> None:
    model, now = Model(), time.time()
    for number in range(100):
        model.happened(
            event("request.completed", id=str(number), server="a", duration_ms=number + 1.0)
        )
    old = event("request.completed", id="x", server="b", duration_ms=1, ago=WINDOW_SECONDS + 5)
    model.happened(old)
    figures = model.figures("a", now + 1)
    assert (figures.p50_ms, figures.p95_ms) == (50, 95)
    assert figures.calls_per_second == 100 / RATE_SECONDS
    assert model.figures("b", now + 1).p50_ms is None
    assert model.figures("a", now + WINDOW_SECONDS + 5).p50_ms is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_the_smallest_value_with_that_share_below(
    values: list[float], share: float
) -> None:
    found = percentile(sorted(values), share)
    assert found in values
    assert sum(1 for one in values if one <= found) / len(values) >= share - 1e-9
    smaller = [one for one in values if one < found]
    assert len(smaller) / len(values) < share + 1e-9


def test_arguments_cannot_hide_anything() -> None:
    shown = readable('{"path":"a\\u202eb\\u001b[2J","x":"[red]y[/]"}')
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[red]y[/]" in shown
    with pytest.raises(ValueError, match="Expecting"):
        readable("{")


@pytest.mark.parametrize("columns", [cells.SERVERS, cells.CALLS, cells.APPROVALS])
def test_every_table_fits_into_80_columns_beside_a_scroll_bar(
    columns: tuple[cells.Column, ...],
) -> None:
    assert sum(column.width + 1 for column in columns) <= 78
    assert all(len(column.name) <= column.width for column in columns)


@given(st.floats(0, 1e12))
def test_a_figure_has_five_places(value: float) -> None:
    assert len(cells._short(value)) <= 5


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_sign_and_fits_its_column(state: State) -> None:
    sign, _ = cells.SIGNS.get(state, ("○", ""))
    assert len(f"{sign} {state}") <= cells.SERVERS[1].width
