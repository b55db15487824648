"""The owner's PIN gives no free guess, also not in a crash or in parallel; tokens open for one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostwright_kit.errors import HostError
from hostwright_kit.operator_pin import FREE_TRIES, OperatorPin
from hostwright_kit.tokens import PREFIX, Tokens

GUESS = """
import os, sys
from pathlib import Path
from hostwright_kit.errors import HostError
from hostwright_kit.operator_pin import OperatorPin
pin = OperatorPin(Path(sys.argv[1]))
if len(sys.argv) > 3:
    class Crash:
        def verify(self, *_):
            os._exit(9)
    pin._hasher = Crash()
try:
    pin.verify(sys.argv[2])
    print("ok")
except HostError as error:
    print(error.code)
"""


def code(pin: OperatorPin, guess: str) -> str:
    try:
        pin.verify(guess)
    except HostError as error:
        return error.code
    return "ok"


def record(folder: Path) -> dict[str, float]:
    return json.loads((folder / "operator.json").read_text())


def test_without_a_pin_nothing_is_right(tmp_path: Path) -> None:
    pin = OperatorPin(tmp_path)
    assert not pin.is_set()
    assert code(pin, "") == "pin_unset"


def test_the_right_pin_passes_and_forgives_what_was_wrong_before(tmp_path: Path) -> None:
    pin = OperatorPin(tmp_path)
    pin.set("1234")
    assert [code(pin, "0000") for _ in range(FREE_TRIES - 1)] == ["pin_wrong"] * (FREE_TRIES - 1)
    assert code(pin, "1234") == "ok"
    assert record(tmp_path)["failures"] == 0
    assert code(pin, "0000") == "pin_wrong"


def test_five_wrong_tries_lock_out_even_the_right_pin(tmp_path: Path) -> None:
    pin = OperatorPin(tmp_path)
    pin.set("1234")
    assert [code(pin, "0000") for _ in range(FREE_TRIES)] == ["pin_wrong"] * FREE_TRIES
    assert code(pin, "1234") == "pin_locked"
    assert code(OperatorPin(tmp_path), "1234") == "pin_locked", "a new process changes nothing"
    assert record(tmp_path)["failures"] == FREE_TRIES, "a try while locked is no try"


def test_each_further_wrong_try_waits_longer_up_to_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = OperatorPin(tmp_path)
    pin.set("1234")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    waits: list[float] = []
    for _ in range(FREE_TRIES + 9):
        assert code(pin, "0000") == "pin_wrong"
        waits.append(record(tmp_path)["wait_until"] - now if record(tmp_path)["wait_until"] else 0)
        now += max(waits[-1] - 0.5, 0)
        if waits[-1]:
            assert code(pin, "1234") == "pin_locked", "half a second too early is too early"
            now += 0.5
    rounded = [round(wait) for wait in waits]
    assert rounded[: FREE_TRIES - 1] == [0] * (FREE_TRIES - 1)
    assert rounded[FREE_TRIES - 1 :] == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert code(pin, "1234") == "ok"


def test_many_guesses_at_once_get_no_more_than_five_between_them(tmp_path: Path) -> None:
    OperatorPin(tmp_path).set("1234")
    guesses = [
        subprocess.Popen(
            [sys.executable, "-c", GUESS, str(tmp_path), f"{number:04}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    answers = sorted(guess.communicate(timeout=60)[0].strip() for guess in guesses)
    assert answers == ["pin_locked"] * 3 + ["pin_wrong"] * 5
    with ThreadPoolExecutor(8) as pool:
        one = OperatorPin(tmp_path)
        assert {*pool.map(code, [one] * 8, map(str, range(1000, 1008)))} == {"pin_locked"}


def test_a_crash_between_count_and_check_is_a_try_used_up(tmp_path: Path) -> None:
    OperatorPin(tmp_path).set("1234")
    for number in range(1, FREE_TRIES + 1):
        crashed = subprocess.run(
            [sys.executable, "-c", GUESS, str(tmp_path), "1234", "crash"], check=False
        )
        assert crashed.returncode == 9
        assert record(tmp_path)["failures"] == number
    assert code(OperatorPin(tmp_path), "1234") == "pin_locked"


def test_changing_the_pin_needs_the_one_that_holds_and_counts_as_a_try(tmp_path: Path) -> None:
    pin = OperatorPin(tmp_path)
    pin.set("1234")
    for current in (None, "0000"):
        with pytest.raises(HostError) as caught:
            pin.set("9999", current=current)
        assert caught.value.code == "pin_wrong"
    assert record(tmp_path)["failures"] == 2
    pin.set("9999", current="1234")
    assert (code(pin, "1234"), code(pin, "9999")) == ("pin_wrong", "ok")


def test_of_two_first_pins_at_once_one_is_taken(tmp_path: Path) -> None:
    def set_one(number: int) -> str:
        try:
            OperatorPin(tmp_path).set(f"pin-{number}")
        except HostError as error:
            return error.code
        return "ok"

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(set_one, range(3))) == ["ok", "pin_wrong", "pin_wrong"]


def test_a_short_pin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        OperatorPin(tmp_path).set("123")
    assert caught.value.code == "pin_too_short"
    assert not OperatorPin(tmp_path).is_set()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"hash": "x"}', '{"hash": 1}', "\x00"])
def test_a_damaged_record_opens_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "operator.json").write_text(content)
    for guess in ("", "x", "1234"):
        assert code(OperatorPin(tmp_path), guess) in ("pin_damaged", "pin_locked")
    with pytest.raises(HostError):
        OperatorPin(tmp_path).set("9999", current="x")


def test_the_pin_is_kept_as_a_private_hash_only(tmp_path: Path) -> None:
    OperatorPin(tmp_path).set("secret-pin-1234")
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
        assert b"secret-pin" not in file.read_bytes()
    assert str(record(tmp_path)["hash"]).startswith("$argon2id$")


def test_a_token_is_known_by_its_name_until_it_is_revoked(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.db")
    made = {name: tokens.create(name) for name in ("laptop", "phone", "a.b-c_9")}
    assert {name: tokens.verify(secret) for name, secret in made.items()} == {n: n for n in made}
    assert [info.name for info in tokens.list()] == sorted(made)
    tokens.revoke("phone")
    assert tokens.verify(made["phone"]) is None
    assert tokens.verify(made["laptop"]) == "laptop"
    replaced = tokens.create("laptop", replace=True)
    assert (tokens.verify(made["laptop"]), tokens.verify(replaced)) == (None, "laptop")
    for act in (lambda: tokens.create("laptop"), lambda: tokens.revoke("phone")):
        with pytest.raises(HostError):
            act()
    tokens.close()


def test_a_token_is_256_random_bits_and_never_on_disk(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.db")
    secrets = [tokens.create(f"t{number}") for number in range(50)]
    assert len(set(secrets)) == 50
    assert all(secret.startswith(PREFIX) and len(secret) >= 46 for secret in secrets)
    tokens.close()
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert not any(secret[3:20].encode() in content for secret in secrets), file
        assert file.stat().st_mode & 0o077 == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(guess=st.text(max_size=60))
def test_no_other_text_is_a_token(tmp_path: Path, guess: str) -> None:
    path = tmp_path / "tokens.db"
    fresh = not path.exists()
    tokens = Tokens(path)
    if fresh:
        tokens.create("laptop")
    assert tokens.verify(guess) is None
    tokens.close()


@pytest.mark.parametrize("name", ["", "A", "-x", "a b", "a/b", "é", "x" * 64, "a\n"])
def test_a_token_has_a_plain_name(tmp_path: Path, name: str) -> None:
    tokens = Tokens(tmp_path / "tokens.db")
    with pytest.raises(HostError) as caught:
        tokens.create(name)
    assert caught.value.code == "bad_name"
    tokens.close()


def test_lock_files_do_not_leak_descriptors(tmp_path: Path) -> None:
    pin = OperatorPin(tmp_path)
    pin.set("1234")
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for _ in range(3):
        code(pin, "0000")
    assert (len(list(Path("/proc/self/fd").iterdir())) if before else 0) == before


def test_a_change_by_another_process_is_seen_at_once_however_often_it_is_asked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "tokens.db"
    mine, other = Tokens(path), Tokens(path)
    assert mine.version() == mine.version()
    for number in range(60):
        before = mine.version()
        other.create(f"t{number}")
        after = mine.version()
        assert after != before
        if number % 20 == 0:
            # Long enough for the log's time to be trusted.
            time.sleep(0.12)
            assert mine.version() == after
            assert mine.version() == after
        other.revoke(f"t{number}")
        assert mine.version() != after
    other.close()
    mine.close()
