"""Promises with numbers: of 1,000 racing for one grant one gets it; no replay gets through."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from hostwright_kit.approvals import Approval, Approvals
from hostwright_kit.call import Call
from hostwright_kit.caller import Caller
from hostwright_kit.canonical import canonical
from hostwright_kit.clock import Instant, instant
from hostwright_kit.ledger import Ledger
from hostwright_kit.policy import Effect

from .kit_harness import Home

RACERS = 1_000
PROCESSES, THREADS = 4, 10

RACER = f"""
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from hostwright_kit.approvals import Approvals
from hostwright_kit.ledger import Ledger
folder = Path(sys.argv[1])
ledger = Ledger(folder / "ledger.db")
path = folder / "approvals.db"
# Each thread as a process of its own would: with its own connection.
stores = [Approvals(path, ledger, lifetime_seconds=600) for _ in range({THREADS})]
print("ready", flush=True)
sys.stdin.readline()
def take(number):
    return stores[number % {THREADS}].consume("the one") is not None
with ThreadPoolExecutor({THREADS}) as pool:
    won = sum(pool.map(take, range({RACERS // PROCESSES})))
print(won, flush=True)
"""


def test_of_a_thousand_racing_for_one_grant_exactly_one_gets_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.approvals() as approvals:
        wanted = grave().request("a test").model_copy(update={"digest": "the one"})
        approvals.grant(approvals.request(wanted).id, via="terminal", by="owner")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(home.state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert sum(int(racer.communicate(timeout=120)[0]) for racer in racers) == 1
    with home.approvals() as approvals:
        assert approvals.consume("the one") is None


def test_threads_of_one_process_race_for_each_grant_of_many(tmp_path: Path) -> None:
    with Home(tmp_path).approvals() as one, Home(tmp_path).approvals() as two:
        for number in range(20):
            wanted = grave().request("a test").model_copy(update={"digest": f"d{number}"})
            two.grant(one.request(wanted).id, via="terminal", by="owner")
        start = threading.Barrier(10)

        def take(number: int) -> int:
            start.wait()
            store = (one, two)[number % 2]
            return sum(store.consume(f"d{grant}") is not None for grant in range(20))

        with ThreadPoolExecutor(10) as pool:
            assert sum(pool.map(take, range(10))) == 20


# -- replays -------------------------------------------------------------------------------------

ARGUMENTS: dict[str, Any] = {
    "path": "/srv/www/index.html",
    "content": "Grüße",
    "mode": "644",
    "count": 5,
    "ratio": 0.5,
    "force": False,
    "tags": ["a", "b"],
    "options": {"depth": 1, "note": None},
}
CALLER = Caller(client="agent", version="1", uid=1000, transport="stdio", token=None)


def grave(caller: Caller = CALLER, folder: str = "/yard", **changed: Any) -> Call:
    made: dict[str, Any] = {
        "caller": caller,
        "server": "system",
        "tool": "file_write",
        "arguments": ARGUMENTS,
        "effect": Effect.DESTRUCTIVE,
        "folder": folder,
        **changed,
    }
    return Call(**made)


def _values(value: Any) -> Iterator[Any]:
    """What could be taken for a value and is another."""
    if isinstance(value, str):
        yield from (
            value.upper(), value.lower() + " ", f" {value}", value + "\0", value + "\n",
            f"./{value}", value.replace("/", "//"), value.replace("e", "\u0435"),
            value.replace("ü", "u\u0308"), value + "\u200b", value[::-1] + "x", "", [value],
            "".join(f"%{byte:02x}" for byte in value.encode()), None, {"value": value},
            value + "\ud800", value.replace("a", "\u0430"), f"{value}/..",
            value.encode().hex(), f'"{value}"', value * 2,
        )  # fmt: skip
    elif isinstance(value, bool):
        yield from (not value, int(value), str(value).lower(), None, [], "")
    elif isinstance(value, int):
        yield from (value + 1, -value, str(value), value + 0.5, [value], None, 10**30, 2**53 + 1)
    elif isinstance(value, float):
        yield from (value * 2, str(value), -value, value + 1e-12, float("nan"), float("inf"), None)
    elif isinstance(value, list):
        yield from ([], value[::-1], [*value, "c"], value[:1], [value], "a,b", {"0": "a"}, None)
    elif isinstance(value, dict):
        yield from (
            {}, {**value, "depth": 2}, {**value, "more": 1}, {"depth": 1}, [value], None, "{}",
            {**value, "note": ""}, {**value, "note": False}, {**value, "Depth": 1},
            {"$object": value},
        )  # fmt: skip


def altered() -> Iterator[Call]:
    """Calls that are not the one that was granted, each in one respect."""
    for name, value in ARGUMENTS.items():
        for other in _values(value):
            yield grave(arguments={**ARGUMENTS, name: other})
        yield grave(arguments={key: one for key, one in ARGUMENTS.items() if key != name})
        yield grave(arguments={**ARGUMENTS, name.upper(): value})
        yield grave(arguments={**ARGUMENTS, f"{name} ": value})
    renamed = [(f"{name}\u200b", name) for name in ARGUMENTS]
    for new, old in renamed:
        rest = {key: value for key, value in ARGUMENTS.items() if key != old}
        yield grave(arguments={**rest, new: ARGUMENTS[old]})
    for one, other in combinations(ARGUMENTS, 2):
        swapped = {one: ARGUMENTS[other], other: ARGUMENTS[one]}
        yield grave(arguments={**ARGUMENTS, **swapped})
        yield grave(arguments={k: v for k, v in ARGUMENTS.items() if k not in (one, other)})
    yield grave(arguments={})
    yield grave(arguments={"arguments": ARGUMENTS})
    for change in (
        {"client": "Agent"}, {"client": "agent "}, {"client": "other"}, {"client": "agent\u200b"},
        {"uid": 0}, {"uid": 1001}, {"uid": None}, {"transport": "http"}, {"transport": "socket"},
        {"transport": "terminal"}, {"token": "agent"}, {"token": ""}, {"client": "token:agent"},
        {"client": ""},
    ):  # fmt: skip
        yield grave(CALLER.model_copy(update=change))
    for folder in (
        "/",
        "/yard/",
        "/yard/.",
        "/Work",
        "/yard/x",
        "",
        "/yard ",
        "/wоrk",
        "(deleted)",
    ):
        yield grave(folder=folder)
    for tool in ("file_edit", "File_write", "file_write ", "file_write\0", "system.file_write", ""):
        yield grave(tool=tool)
    for server in ("System", "system2", "", "hostwright", "system\u200b"):
        yield grave(server=server)
    for path in ("/srv/www/index.html", "/srv/www"):
        yield grave(arguments={"path": path}, overwrites=("path",))


def test_no_altered_replay_of_a_granted_call_gets_through(tmp_path: Path) -> None:
    genuine = grave()

    def told(call: Call) -> bytes:
        return canonical({**call.model_dump(mode="python"), "secret_names": []})

    # Some changes change nothing (no `e` to be replaced); those are no altered replays.
    tries = {told(one): one for one in altered()}
    tries.pop(told(genuine), None)
    assert len(tries) >= 200
    with Home(tmp_path).approvals() as approvals:
        wanted = genuine.request("a test")
        approvals.grant(approvals.request(wanted).id, via="terminal", by="owner")
        passed = [one for one in tries.values() if approvals.consume(one.request("a test").digest)]
        assert passed == []
        assert approvals.consume(genuine.request("a test").digest) is not None
        assert approvals.consume(genuine.request("a test").digest) is None, "the same, repeated"


def test_what_is_the_same_call_is_granted_whatever_its_spelling() -> None:
    """Order of keys and spelling of numbers make no difference, nor does a client's update."""
    shuffled = dict(reversed(ARGUMENTS.items())) | {"count": 5.0}
    assert grave(arguments=shuffled).digest == grave().digest
    assert grave(CALLER.model_copy(update={"version": "2"})).digest == grave().digest
    assert grave(CALLER.model_copy(update={"via_gateway": True})).digest == grave().digest


# -- time ----------------------------------------------------------------------------------------


class Clock:
    """Both clocks, turned by hand."""

    def __init__(self) -> None:
        self.now = instant()._replace(boot="one", elapsed=10_000.0)

    def __call__(self) -> Instant:
        return self.now

    def moves(self, *, elapsed: float = 0, wall: float = 0, boot: str | None = None) -> None:
        self.now = Instant(
            boot or self.now.boot,
            elapsed if boot else self.now.elapsed + elapsed,
            self.now.wall + timedelta(seconds=wall),
        )


LIFETIME = 600
LATER: dict[str, tuple[Callable[[Clock], None], bool]] = {
    "in time": (lambda c: c.moves(elapsed=599, wall=599), True),
    "too late": (lambda c: c.moves(elapsed=600, wall=600), False),
    "wall clock far ahead": (lambda c: c.moves(elapsed=5, wall=1e6), True),
    "wall clock far back": (lambda c: c.moves(elapsed=5, wall=-1e6), True),
    "wall clock turned back to hide that time is over": (
        lambda c: c.moves(elapsed=700, wall=-1e6),
        False,
    ),
    "wall clock stopped": (lambda c: c.moves(elapsed=700), False),
    "rebooted, in time": (lambda c: c.moves(boot="two", elapsed=30, wall=100), True),
    "rebooted, too late": (lambda c: c.moves(boot="two", elapsed=30, wall=601), False),
    "rebooted, wall clock turned back": (
        lambda c: c.moves(boot="two", elapsed=30, wall=-10),
        False,
    ),
    "rebooted, up for longer than it was to last": (
        lambda c: c.moves(boot="two", elapsed=601, wall=100),
        False,
    ),
}


@pytest.mark.parametrize("when", sorted(LATER))
@pytest.mark.parametrize("state", ["pending", "granted"])
def test_time_runs_on_a_clock_that_nobody_can_set(tmp_path: Path, when: str, state: str) -> None:
    clock = Clock()
    ledger = Ledger(tmp_path / "ledger.db")

    def opened() -> Approvals:
        path = tmp_path / "approvals.db"
        return Approvals(path, ledger, lifetime_seconds=LIFETIME, clock=clock)

    approvals = opened()
    asked: Approval = approvals.request(grave().request("a test"))
    if state == "granted":
        approvals.grant(asked.id, via="terminal", by="owner")
    approvals.close()
    move, alive = LATER[when]
    move(clock)
    approvals = opened()
    assert approvals.get(asked.id).state == (state if alive else "expired")
    assert (asked.id in {one.id for one in approvals.pending()}) is (alive and state == "pending")
    assert (approvals.consume(asked.digest) is not None) is (alive and state == "granted")
    approvals.close()
    ledger.close()


def test_an_approval_of_an_older_database_is_read_as_it_was(tmp_path: Path) -> None:
    """The columns that came later have values that change nothing."""
    now = instant()
    old = Approval(
        id="AAAAAAAA", digest="d", caller="c", server="s", tool="t", arguments="{}", reason="r",
        state="granted", created=now.written, expires=now.written_in(60),
    )  # fmt: skip
    assert not old.is_over(now)
    assert old.is_over(now._replace(wall=now.wall + timedelta(seconds=61)))
