"""Approvals: a state machine in which one grant is used once, by the call it was given for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from hostwright_kit.approvals import MAX_PENDING_PER_CALLER, Approval, Approvals, Request
from hostwright_kit.audit import EventFilter, list_events, verify
from hostwright_kit.clock import Instant
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Ledger

from .kit_harness import Home

LIFETIME = 600.0
BEGINNING = datetime(2025, 1, 1, tzinfo=UTC)


def wanted(digest: str, caller: str = "c") -> Request:
    return Request(
        digest=digest, caller=caller, server="s", tool="t", arguments={"a": 1}, reason="because"
    )


class Life(RuleBasedStateMachine):
    """Everything that can happen to approvals, against a model of a few lines.

    Two objects over the same files stand for two processes; time is moved by hand.
    """

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="approvals-"))
        self.now = BEGINNING
        self.state: dict[str, str] = {}
        self.expires: dict[str, datetime] = {}
        self.digest: dict[str, str] = {}
        self.granted = 0
        self.consumed = 0

    def clock(self) -> Instant:
        return Instant("boot", (self.now - BEGINNING).total_seconds(), self.now)

    @initialize()
    def open(self) -> None:
        self.ledger = Ledger(self.folder / "ledger.db")
        self.open_two()

    def open_two(self) -> None:
        path = self.folder / "approvals.db"
        self.two = [
            Approvals(path, self.ledger, lifetime_seconds=LIFETIME, clock=self.clock)
            for _ in range(2)
        ]

    def teardown(self) -> None:
        for one in self.two:
            one.close()
        self.ledger.close()
        events = list_events(self.folder / "ledger.db", EventFilter(), limit=500).events
        granted = [event for event in events if event.type == "approval.granted"]
        assert len(granted) == self.granted, "the ledger tells every grant, and no other"
        assert self.consumed <= self.granted
        assert verify(self.folder / "ledger.db").ok
        shutil.rmtree(self.folder)

    def expire(self) -> None:
        for name, state in self.state.items():
            if state in ("pending", "granted") and self.expires[name] <= self.now:
                self.state[name] = "expired"

    def open_question(self, digest: str) -> str | None:
        self.expire()
        waiting = [n for n, d in self.digest.items() if d == digest and self.state[n] == "pending"]
        assert len(waiting) <= 1
        return waiting[0] if waiting else None

    @rule(target=ids, who=st.integers(0, 1), digest=st.sampled_from("xyz"))
    def request(self, who: int, digest: str) -> object:
        waiting = self.open_question(digest)
        got = self.two[who].request(wanted(digest))
        assert got.state == "pending"
        if waiting is not None:
            assert got.id == waiting
            return multiple()
        assert got.id not in self.state
        self.state[got.id] = "pending"
        self.digest[got.id] = digest
        self.expires[got.id] = self.now + timedelta(seconds=LIFETIME)
        return got.id

    @rule(who=st.integers(0, 1), name=ids, verdict=st.sampled_from(["granted", "denied"]))
    def decide(self, who: int, name: str, verdict: str) -> None:
        self.expire()
        decide = self.two[who].grant if verdict == "granted" else self.two[who].deny
        if self.state[name] != "pending":
            with pytest.raises(HostError) as caught:
                decide(name, via="terminal", by="owner")
            assert caught.value.code == "approval_closed"
            return
        got = decide(f" {name.lower()} ", via="terminal", by="owner")
        assert (got.state, got.via) == (verdict, "terminal")
        self.state[name] = verdict
        self.expires[name] = self.now + timedelta(seconds=LIFETIME)
        self.granted += verdict == "granted"

    @rule(who=st.integers(0, 1), digest=st.sampled_from("xyzw"))
    def consume(self, who: int, digest: str) -> None:
        self.expire()
        usable = {n for n, d in self.digest.items() if d == digest and self.state[n] == "granted"}
        got = self.two[who].consume(digest)
        assert (got is not None) == bool(usable)
        if got is not None:
            assert got.id in usable
            self.state[got.id] = "consumed"
            self.consumed += 1

    @rule(seconds=st.sampled_from([1, 299, 600, 601, 5000]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def restart(self) -> None:
        for one in self.two:
            one.close()
        self.open_two()

    @invariant()
    def both_processes_see_the_same_states(self) -> None:
        self.expire()
        for one in getattr(self, "two", []):
            assert {name: one.get(name).state for name in self.state} == self.state
            pending = {name for name, state in self.state.items() if state == "pending"}
            assert {approval.id for approval in one.pending()} == pending


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_of_many_threads_and_processes_exactly_one_gets_the_grant(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.approvals() as one, home.approvals() as two:
        for turn in range(5):
            question = one.request(wanted(f"d{turn}"))
            two.grant(question.id, via="terminal", by="o")
            start = threading.Barrier(8)

            def take(
                number: int, digest: str = f"d{turn}", gate: threading.Barrier = start
            ) -> bool:
                gate.wait()
                return (one, two)[number % 2].consume(digest) is not None

            with ThreadPoolExecutor(8) as pool:
                assert sum(pool.map(take, range(8))) == 1


TAKER = """
import sys
from pathlib import Path
from hostwright_kit.approvals import Approvals
from hostwright_kit.ledger import Ledger
folder = Path(sys.argv[1])
approvals = Approvals(folder / "approvals.db", Ledger(folder / "ledger.db"), lifetime_seconds=600)
print("ready", flush=True)
sys.stdin.readline()
print(sum(approvals.consume(f"d{n}") is not None for n in range(40)), flush=True)
"""


def test_across_processes_each_grant_is_taken_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.approvals() as approvals:
        for number in range(40):
            question = approvals.request(wanted(f"d{number}"))
            approvals.grant(question.id, via="terminal", by="o")
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, str(home.state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for taker in takers:
        assert taker.stdout
        assert taker.stdout.readline() == "ready\n"
    for taker in takers:
        assert taker.stdin
        taker.stdin.write("go\n")
        taker.stdin.flush()
    assert sum(int(taker.communicate(timeout=30)[0]) for taker in takers) == 40


def test_two_owners_at_once_make_one_decision_and_the_ledger_tells_which(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.approvals() as one, home.approvals() as two:
        for turn in range(8):
            question = one.request(wanted(f"d{turn}"))
            start = threading.Barrier(2)

            def decide(
                yes: bool, name: str = question.id, gate: threading.Barrier = start
            ) -> Approval | None:
                gate.wait()
                try:
                    verb = one.grant if yes else two.deny
                    return verb(name, via="terminal", by="o")
                except HostError as error:
                    assert error.code == "approval_closed"
                    return None

            with ThreadPoolExecutor(2) as pool:
                decided = [got for got in pool.map(decide, (True, False)) if got]
            assert len(decided) == 1
            told = [e.type for e in home.events() if e.detail["approval"] == question.id]
            assert told == ["approval.requested", f"approval.{decided[0].state}"]


def test_a_grant_that_the_ledger_cannot_take_does_not_happen(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db")
    approvals = Approvals(tmp_path / "approvals.db", ledger, lifetime_seconds=600)
    question = approvals.request(wanted("d"))
    ledger.close()
    for act in (
        lambda: approvals.grant(question.id, via="terminal", by="o"),
        lambda: approvals.request(wanted("other")),
    ):
        with pytest.raises(HostError) as caught:
            act()
        assert caught.value.code == "ledger_unavailable"
    assert approvals.consume("d") is None
    assert [approval.id for approval in approvals.pending()] == [question.id]
    approvals.close()


def test_one_caller_cannot_bury_the_owner_in_questions(tmp_path: Path) -> None:
    with Home(tmp_path).approvals() as approvals:
        for number in range(MAX_PENDING_PER_CALLER):
            approvals.request(wanted(f"d{number}", "noisy"))
        with pytest.raises(HostError) as caught:
            approvals.request(wanted("more", "noisy"))
        assert caught.value.code == "too_many_pending"
        assert approvals.request(wanted("d0", "noisy")).digest == "d0"
        assert approvals.request(wanted("other", "quiet")).state == "pending"


@pytest.mark.parametrize("name", ["", "NOPE", "' OR 1=1 --", "%", "x" * 1000])
def test_an_unknown_id_is_an_error_with_a_fix(tmp_path: Path, name: str) -> None:
    with Home(tmp_path).approvals() as approvals:
        approvals.request(wanted("d"))
        for verb in (approvals.get, lambda i: approvals.grant(i, via="terminal", by="o")):  # pyright: ignore[reportUnknownLambdaType, reportUnknownVariableType]
            with pytest.raises(HostError) as caught:
                verb(name)
            assert caught.value.code == "not_found"
