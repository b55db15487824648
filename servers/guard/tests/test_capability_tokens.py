"""Tokens: nobody widens one, nobody uses one more often than it says, the revoked are dead."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_guard.sandbox import tokens
from hostwright_guard.sandbox.capabilities import Grant, Limits, SecretUse, Wanted, refusals
from hostwright_guard.sandbox.gate.rules import Allowance, RefusedError
from hostwright_guard.sandbox.token_store import TokenHolder, TokenStore
from hostwright_guard.sandbox.tokens import Caveat
from hostwright_kit.errors import HostError

ANN = TokenHolder("ann", '{"client":"ann"}')
BOB = TokenHolder("bob", '{"client":"bob"}')

PATHS = st.lists(st.sampled_from(["/a", "/a/b", "/a/b/c", "/ab", "/d"]), max_size=3).map(tuple)
DOMAINS = st.lists(
    st.sampled_from(["x.example", "*.x.example", "y.x.example", "x.example:443"]), max_size=3
).map(tuple)
GRANTS = st.builds(
    Grant,
    read=PATHS,
    write=PATHS,
    domains=DOMAINS,
    vault=st.lists(st.sampled_from(["k1", "k2"]), max_size=2).map(tuple),
    memory_mb=st.sampled_from([64, 1024]),
    seconds=st.sampled_from([5.0, 300.0]),
    programs=st.sampled_from([None, ("/bin/a",), ()]),
)
WANTED = st.builds(
    Wanted,
    read=PATHS,
    write=PATHS,
    domains=DOMAINS,
    vault=st.lists(st.builds(SecretUse, name=st.sampled_from(["k1", "k2"])), max_size=1).map(tuple),
    limits=st.builds(Limits, memory_mb=st.sampled_from([64, 512])),
    seconds=st.sampled_from([1.0, 100.0]),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TokenStore]:
    opened = TokenStore(tmp_path)
    yield opened
    opened.close()


def mint(store: TokenStore, uses: int = 1, seconds: float = 60, **grant: object) -> str:
    text, _ = store.mint(
        Grant.model_validate(grant), holder=ANN, note="", uses=uses, seconds=seconds
    )
    return text


@given(caveats=st.lists(GRANTS, min_size=1, max_size=3), wanted=WANTED)
def test_every_narrowing_counts(caveats: list[Grant], wanted: Wanted) -> None:
    key = tokens.new_key()
    text = tokens.write(key, tokens.new_id())
    for caveat in caveats:
        text = tokens.narrow(text, Caveat(grant=caveat))
    proven = tokens.proven(tokens.read(text), key)
    assert [one.grant for one in proven] == caveats
    refused = any(refusals(one.grant, wanted, "/bin/a", ()) for one in proven)
    widest = Grant(
        read=("/",),
        write=("/",),
        domains=("*.x.example", "x.example"),
        vault=("k1", "k2"),
        memory_mb=4096,
        seconds=9_999,
    )
    assert refusals(widest, wanted, "/bin/a", ()) == []
    if any(caveat.programs == () for caveat in caveats):
        assert refused


def test_a_caveat_cannot_be_taken_off_or_put_before_another() -> None:
    key, token_id = tokens.new_key(), tokens.new_id()
    first = tokens.write(key, token_id)
    one = tokens.narrow(first, Caveat(grant=Grant(read=("/a",))))
    two = tokens.narrow(one, Caveat(grant=Grant(read=("/b",))))
    taken = tokens.read(two)
    for caveats in ((), taken.caveats[:1], taken.caveats[1:], taken.caveats[::-1]):
        forged = taken.model_copy(update={"caveats": caveats})
        with pytest.raises(HostError):
            tokens.proven(forged, key)
    assert len(tokens.proven(taken, key)) == 2
    with pytest.raises(HostError):
        tokens.proven(taken, tokens.new_key())


@given(data=st.data())
def test_a_changed_character_makes_it_worthless(data: st.DataObject) -> None:
    key = tokens.new_key()
    text = tokens.narrow(tokens.write(key, tokens.new_id()), Caveat(grant=Grant()))
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(
        st.sampled_from("abcdefghijABCDEFGHIJ0123456789-_.=+/ ").filter(lambda c: c != text[at])
    )
    with pytest.raises(HostError):
        tokens.proven(tokens.read(text[:at] + other + text[at + 1 :]), key)


@given(text=st.text(max_size=200))
def test_noise_is_no_token(text: str) -> None:
    with pytest.raises(HostError):
        tokens.read(text)


def test_a_caveat_that_is_not_understood_allows_nothing() -> None:
    key, token_id = tokens.new_key(), tokens.new_id()
    token = tokens.read(tokens.write(key, token_id))
    strange = json.dumps({"grant": {}, "more": 1})
    signature = tokens._link(token.signature, strange)
    forged = token.model_copy(update={"caveats": (strange,), "signature": signature})
    with pytest.raises(HostError):
        tokens.proven(forged, key)


def test_it_is_narrowed_a_bounded_number_of_times() -> None:
    text = tokens.write(tokens.new_key(), tokens.new_id())
    for _ in range(tokens.MAX_CAVEATS):
        text = tokens.narrow(text, Caveat(grant=Grant()))
    with pytest.raises(HostError):
        tokens.narrow(text, Caveat(grant=Grant()))


def test_a_use_is_counted_on_disk(store: TokenStore, tmp_path: Path) -> None:
    text = mint(store, uses=2)
    store.use(text, ANN)
    again = TokenStore(tmp_path)
    again.use(text, ANN)
    again.close()
    with pytest.raises(HostError) as error:
        store.use(text, ANN)
    assert error.value.code == "token_used_up"


def test_of_many_that_race_exactly_as_many_win_as_there_are_uses(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    text = mint(store, uses=5)
    wins: list[int] = []
    barrier = threading.Barrier(8)

    def race() -> None:
        mine = TokenStore(tmp_path)
        barrier.wait()
        for _ in range(20):
            try:
                mine.use(text, ANN)
            except HostError:
                continue
            wins.append(1)
        mine.close()

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 5
    assert store.list()[0].uses_left == 0
    store.close()


RACER = """
import sys
from pathlib import Path
from hostwright_guard.sandbox.gate.rules import Allowance, RefusedError
from hostwright_guard.sandbox.token_store import TokenHolder, TokenStore
from hostwright_kit.errors import HostError
store = TokenStore(Path(sys.argv[1]))
won = 0
sys.stdin.readline()
for _ in range(50):
    try:
        store.use(sys.argv[2], TokenHolder("ann", '{"client":"ann"}')); won += 1
    except HostError: pass
print(won)
"""


def test_processes_that_race_for_a_use_do_not_share_it(store: TokenStore, tmp_path: Path) -> None:
    text = mint(store, uses=7)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    won = [int(racer.communicate("\n", timeout=60)[0]) for racer in racers]
    assert sum(won) == 7


def test_it_is_good_for_whom_it_was_given_to(store: TokenStore) -> None:
    text = mint(store)
    with pytest.raises(HostError, match="given to ann"):
        store.use(text, BOB)
    with pytest.raises(HostError, match="no token"):
        store.revoke(store.list()[0].id, BOB)
    assert store.list(BOB) == []
    assert store.list(ANN)[0].state == "usable"


def test_what_is_revoked_or_expired_is_dead_at_once(store: TokenStore) -> None:
    text = mint(store, uses=9)
    store.use(text, ANN)
    token_id = store.list()[0].id
    store.revoke(token_id, ANN)
    for attempt in (store.use, store.look):
        with pytest.raises(HostError) as error:
            attempt(text, ANN)
        assert error.value.code == "token_revoked"
    assert not store.good(token_id)
    short = mint(store, seconds=0.05)
    time.sleep(0.1)
    with pytest.raises(HostError) as error:
        store.use(short, ANN)
    assert error.value.code == "token_expired"


def test_a_caveat_expires_on_its_own(store: TokenStore) -> None:
    text = mint(store, uses=9)
    ended = tokens.narrow(text, Caveat(grant=Grant(), expires=time.time() - 1))
    with pytest.raises(HostError) as error:
        store.use(ended, ANN)
    assert error.value.code == "token_expired"
    lasting = tokens.narrow(text, Caveat(grant=Grant(), expires=time.time() + 5))
    assert store.use(lasting, ANN).seconds_left <= 5


def test_what_the_network_may_still_carry_is_shared_by_all_runs(store: TokenStore) -> None:
    text = mint(store, uses=3, network_mb=1, requests=10)
    first, second = store.use(text, ANN), store.use(text, ANN)
    assert store.reserve(first, 4, 1000) == (4, 1000)
    assert store.reserve(second, 99, 2**30) == (6, 2**20 - 1000)
    assert store.reserve(first, 1, 1) == (0, 0)
    store.give_back(second, 5, 500)
    assert store.reserve(store.use(text, ANN), 99, 2**30) == (5, 500)
    (shown,) = store.list(ANN)
    assert (shown.requests_left, shown.bytes_left) == (0, 0)


def test_a_narrower_token_has_a_smaller_budget_for_all_its_runs(store: TokenStore) -> None:
    text = mint(store, uses=9, network_mb=1, requests=10)
    narrower = tokens.narrow(text, Caveat(grant=Grant(network_mb=1, requests=3)))
    narrowest = tokens.narrow(narrower, Caveat(grant=Grant(network_mb=1, requests=2)))
    assert store.reserve(store.use(narrowest, ANN), 9, 0) == (2, 0)
    assert store.reserve(store.use(narrowest, ANN), 9, 0) == (0, 0)
    assert store.reserve(store.use(narrower, ANN), 9, 0) == (1, 0)
    assert store.reserve(store.use(text, ANN), 9, 0) == (7, 0)


def test_nothing_more_is_given_to_those_who_run_with_a_revoked_token(store: TokenStore) -> None:
    use = store.use(mint(store, requests=10), ANN)
    store.revoke(use.id, ANN)
    assert store.reserve(use, 5, 5) == (0, 0)


async def test_runs_beside_each_other_never_do_more_than_the_token_says(store: TokenStore) -> None:
    text = mint(store, uses=8, network_mb=1, requests=40)
    done: list[int] = []

    async def run() -> None:
        use = store.use(text, ANN)

        async def reserve(requests: int, count: int) -> tuple[int, int]:
            return await asyncio.to_thread(store.reserve, use, requests, count)

        allowance = Allowance(40, 2**20, reserve)
        with pytest.raises(RefusedError):
            while True:
                await asyncio.gather(allowance.take_request(), allowance.take_bytes(9_000))
                done.append(9_000)
        store.give_back(use, *allowance.rest())

    await asyncio.gather(*(run() for _ in range(8)))
    assert len(done) <= 40 and sum(done) <= 2**20
    assert len(done) >= 32
    (shown,) = store.list(ANN)
    assert shown.requests_left <= 40 - len(done)


def test_variables_do_not_go_round_a_fixed_command() -> None:
    fixed = Grant(programs=("/bin/bash",), arguments=("-c", "true"))
    wanted = Wanted()
    assert refusals(fixed, wanted, "/bin/bash", ("-c", "true"), ()) == []
    assert refusals(fixed, wanted, "/bin/bash", ("-c", "true"), ("BASH_ENV",)) == [
        "the variable BASH_ENV"
    ]
    named = fixed.model_copy(update={"variables": ("CI",)})
    assert refusals(named, wanted, "/bin/bash", ("-c", "true"), ("CI",)) == []
    assert refusals(Grant(), wanted, "/bin/bash", (), ("ANY",)) == []


def test_scratch_is_memory() -> None:
    wanted = Wanted(limits=Limits(scratch_mb=4_096))
    found = refusals(Grant(memory_mb=512), wanted, "/bin/ls", ())
    assert found == ["scratch_mb 4096 (at most 512)"]


def test_the_token_itself_is_not_on_disk(store: TokenStore, tmp_path: Path) -> None:
    text = mint(store)
    store.use(text, ANN)
    signature = base64.urlsafe_b64decode(text.rsplit(".", 1)[1] + "=")
    for file in tmp_path.glob("capabilities.db*"):
        data = file.read_bytes()
        assert signature not in data and text.encode() not in data
        assert file.stat().st_mode & 0o077 == 0


def test_a_grant_refuses_what_it_does_not_name() -> None:
    grant = Grant(read=("/a",), write=("/w",), domains=("x.example",), arguments=("-l",))
    allowed = Wanted(read=("/a/b", "/w"), write=("/w/x",), domains=("x.example:443",))
    assert refusals(grant, allowed, "/bin/ls", ("-l",)) == []
    assert refusals(grant, Wanted(read=("/ab",)), "/bin/ls", ("-l",)) == ["reading /ab"]
    assert refusals(grant, Wanted(write=("/a",)), "/bin/ls", ("-l",)) == ["writing /a"]
    assert refusals(grant, Wanted(domains=("*.x.example",)), "/bin/ls", ("-l",))
    assert refusals(grant, Wanted(seconds=999), "/bin/ls", ("-l",))
    assert refusals(grant, Wanted(), "/bin/ls", ("-a",)) == ["these arguments"]
