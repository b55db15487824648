"""The table of a server's life, and the back-off: properties over every order of inputs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hostwright.keeper.backoff import Backoff
from hostwright.keeper.machine import (
    AT_REST,
    COMMANDS,
    HOLDABLE,
    SETTLED,
    TABLE,
    WITH_PROCESS,
    ImpossibleInput,
    Input,
    Output,
    State,
    step,
)
from hostwright.manifest import RestartRules

OUTCOMES = [Input.RETRY, Input.RETRY_NOW, Input.GIVE_UP, Input.LEAVE]


class Life(RuleBasedStateMachine):
    """A server beside the table: a process, an ending in progress and a timer that obey outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.STOPPED
        self.process = "none"  # none | coming | runs | dead, not yet cleaned up
        self.ending = False
        self.timer = False

    def feed(self, event: Input) -> None:
        self.state, outputs = step(self.state, event)
        for output in outputs:
            match output:
                case Output.SPAWN:
                    assert self.process == "none", "two processes of one server"
                    assert not self.timer, "a timer would start a second one"
                    self.process = "coming"
                case Output.END:
                    assert not self.ending, "ended twice"
                    assert self.process != "none"
                    self.ending = True
                case Output.WAIT:
                    assert not self.timer
                    self.timer = True
                case Output.CANCEL_WAIT:
                    assert self.timer
                    self.timer = False
                case Output.TELL_READY:
                    assert self.state is State.READY
                case Output.TELL_BROKEN:
                    assert self.state is State.BROKEN
                case Output.TELL_STOPPED:
                    assert self.state is State.STOPPED
                case Output.TELL_HIBERNATED:
                    assert self.state is State.HIBERNATED
                case Output.TELL_WAITING:
                    assert self.state is State.WAITING
                case _:
                    pass

    @rule(event=st.sampled_from(sorted(COMMANDS)))
    def owner(self, event: Input) -> None:
        self.feed(event)

    @precondition(lambda self: self.process == "coming" and not self.ending)
    @rule(works=st.booleans())
    def comes(self, works: bool) -> None:
        if works:
            self.process = "runs"
        else:
            self.feed(Input.NOT_STARTABLE)

    @precondition(
        lambda self: self.process == "coming" and not self.ending and self.state is State.STARTING
    )
    @rule(event=st.sampled_from([Input.UNMET, Input.BLOCKED]))
    def may_not_start(self, event: Input) -> None:
        self.process = "none"
        self.feed(event)

    @precondition(lambda self: self.state in (State.WAITING, State.HOLDING))
    @rule()
    def what_it_needs_runs(self) -> None:
        self.feed(Input.UNBLOCKED)

    @precondition(lambda self: self.state in HOLDABLE)
    @rule()
    def what_it_needs_is_gone(self) -> None:
        self.feed(Input.HOLD)

    @precondition(lambda self: self.state is State.READY)
    @rule()
    def falls_asleep(self) -> None:
        self.feed(Input.SLEEP)

    @precondition(lambda self: self.state in (State.HIBERNATED, State.HIBERNATING))
    @rule()
    def somebody_calls(self) -> None:
        before = self.state
        self.feed(Input.WAKE)
        # A call that comes while it falls asleep starts it again as soon as it is gone.
        assert self.state is (State.STARTING if before is State.HIBERNATED else State.RESTARTING)

    @precondition(
        lambda self: self.process == "runs" and not self.ending and self.state is State.STARTING
    )
    @rule(event=st.sampled_from([Input.ANSWERED, Input.UNANSWERED]))
    def first_check(self, event: Input) -> None:
        self.feed(event)

    @precondition(lambda self: self.state in (State.READY, State.UNHEALTHY) and not self.ending)
    @rule(event=st.sampled_from([Input.ANSWERED, Input.MISSED, Input.UNANSWERED]))
    def check(self, event: Input) -> None:
        self.feed(event)

    @precondition(lambda self: self.process == "runs")
    @rule()
    def exits(self) -> None:
        self.process = "dead"
        self.feed(Input.EXITED)

    @precondition(lambda self: self.ending)
    @rule(outcome=st.sampled_from(OUTCOMES))
    def ended(self, outcome: Input) -> None:
        self.ending, self.process = False, "none"
        self.feed(outcome if self.state is State.FAILING else Input.ENDED)

    @precondition(lambda self: self.timer)
    @rule()
    def time_is_up(self) -> None:
        self.timer = False
        self.feed(Input.RETRY_DUE)

    @invariant()
    def a_process_only_where_one_may_be(self) -> None:
        assert (self.process != "none") == (self.state in WITH_PROCESS)

    @invariant()
    def whoever_is_not_settled_is_on_the_way(self) -> None:
        assert self.state in SETTLED or self.ending or self.process in ("coming", "runs")

    @invariant()
    def at_rest_nothing_runs_and_nothing_is_due(self) -> None:
        if self.state in AT_REST:
            assert (self.process, self.ending, self.timer) == ("none", False, False)

    @invariant()
    def the_timer_runs_while_backing_off(self) -> None:
        assert self.timer == (self.state is State.BACKING_OFF)


TestLife = Life.TestCase


def test_every_command_is_possible_in_every_state_and_stop_always_leads_to_rest() -> None:
    for state in State:
        for command in COMMANDS:
            step(state, command)
        after, _ = step(state, Input.STOP)
        if after is State.STOPPING:
            after, _ = step(after, Input.ENDED)
        assert after in (State.STOPPED, State.DISABLED)


def test_every_state_can_be_reached_and_every_input_matters() -> None:
    assert {after for after, _ in TABLE.values()} == set(State)
    assert {event for _, event in TABLE} == set(Input)
    assert {output for _, outputs in TABLE.values() for output in outputs} == set(Output)


def test_an_impossible_input_is_an_error_not_a_shrug() -> None:
    with pytest.raises(ImpossibleInput, match="answered cannot happen in stopped"):
        step(State.STOPPED, Input.ANSWERED)


rules = st.builds(
    RestartRules,
    first_delay_seconds=st.floats(0.01, 10),
    max_delay_seconds=st.floats(10, 3_000),
    jitter=st.floats(0, 0.9),
    breaker_failures=st.integers(1, 20),
    breaker_window_seconds=st.floats(1, 600),
)


@given(rules, st.integers(0, 2**32), st.integers(1, 200))
def test_delays_grow_to_the_maximum_and_stay_within_the_jitter(
    given_rules: RestartRules, seed: int, count: int
) -> None:
    backoff = Backoff(given_rules, random.Random(seed))  # noqa: S311 - a test
    plain = given_rules.first_delay_seconds
    for _ in range(count):
        delay = backoff.next_delay_seconds()
        low, high = plain * (1 - given_rules.jitter), plain * (1 + given_rules.jitter)
        assert low * 0.999 <= delay <= min(high, given_rules.max_delay_seconds) * 1.001
        plain = min(plain * 2, given_rules.max_delay_seconds)
    backoff.healthy(given_rules.breaker_window_seconds)
    high = given_rules.first_delay_seconds * (1 + given_rules.jitter)
    assert backoff.next_delay_seconds() <= high * 1.001


@given(rules, st.lists(st.floats(0, 100), min_size=1, max_size=60))
def test_the_breaker_opens_at_exactly_n_failures_within_the_window(
    given_rules: RestartRules, gaps: list[float]
) -> None:
    backoff, now, times = Backoff(given_rules), 0.0, list[float]()
    for gap in gaps:
        now += gap
        times.append(now)
        backoff.failed(now)
        within = [t for t in times if t >= now - given_rules.breaker_window_seconds]
        assert backoff.open(now) == (len(within) >= given_rules.breaker_failures)
    backoff.forgive()
    assert backoff.failures == 0
    assert not backoff.open(now)


def test_jitter_spreads_and_a_short_healthy_time_forgives_nothing() -> None:
    some = RestartRules(first_delay_seconds=1, max_delay_seconds=1, jitter=0.5)
    dice = random.Random(0)  # noqa: S311 - a test
    delays = {Backoff(some, dice).next_delay_seconds() for _ in range(50)}
    assert len(delays) > 20
    backoff = Backoff(RestartRules(jitter=0))
    first = backoff.next_delay_seconds()
    backoff.healthy(59)
    assert backoff.next_delay_seconds() == 2 * first


def test_the_first_start_after_a_crash_is_at_once_and_again_after_a_steady_run() -> None:
    backoff = Backoff(RestartRules())
    assert not backoff.at_once(None)  # it had not been ready
    assert backoff.at_once(0.1)
    assert not backoff.at_once(0.1)
    backoff.next_delay_seconds()
    assert not backoff.at_once(4)
    assert backoff.at_once(5)
    backoff.forgive()
    assert backoff.at_once(0.1)
    backoff.forgive()
    backoff.next_delay_seconds()  # it failed to start meanwhile
    assert not backoff.at_once(0.1)
