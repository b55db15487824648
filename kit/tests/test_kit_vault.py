"""The vault: what it keeps, for whom it opens, and what it survives."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyring
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keyring.backend import KeyringBackend
from keyring.backends import fail
from pydantic import SecretStr

from hostwright_kit.audit import EventFilter, list_events
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Ledger
from hostwright_kit.vault import VAULT_FILE, Vault
from hostwright_kit.vault_keys import CREDENTIAL, Keys, Layer
from hostwright_kit.vault_seal import BrokenSealError, Envelope, Label, new_key, seal, unseal

VALUE = "s3cret-Value-Xyzzy-1234"
PHRASE = "correct horse battery"


class Memory(KeyringBackend):
    """A keyring that answers."""

    priority = 5.0  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


class Broken(Memory):
    """A keyring that is installed and answers nothing (no session bus)."""

    def set_password(self, service: str, username: str, password: str) -> None:
        raise RuntimeError(f"no bus for {password}")


@pytest.fixture(autouse=True)
def no_real_keyring() -> Iterator[None]:
    """The tests never touch the keyring of whoever runs them."""
    before = keyring.get_keyring()
    keyring.set_keyring(fail.Keyring())
    yield
    keyring.set_keyring(before)


class Place:
    """One state folder; the vault in it can be opened again as another process would."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.environ = environ
        self.phrase: str | None = None
        self.ledger = Ledger(folder / "ledger.db")

    @property
    def file(self) -> Path:
        return self.folder / VAULT_FILE

    def open(self) -> Vault:
        phrase = self.phrase

        def ask(new: bool) -> str:
            return str(phrase)

        asks = ask if phrase is not None else None
        return Vault(self.file, self.ledger, Keys(self.folder, environ=self.environ, ask=asks))

    def events(self) -> list[tuple[str, Any, str | None]]:
        found = list_events(self.folder / "ledger.db", EventFilter(type="secret.*")).events[::-1]
        return [(one.type, one.detail.get("entry"), one.server) for one in found]

    def sql(self, statement: str, *values: object) -> None:
        db = sqlite3.connect(self.file)
        db.execute(statement, values)
        db.commit()
        db.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.ledger.close()


def refused(act: Any) -> HostError:
    with pytest.raises(HostError) as caught:
        act()
    assert caught.value.fix
    assert VALUE not in str(caught.value)
    return caught.value


def value(vault: Vault, name: str, server: str) -> str:
    return vault.open(name, server).get_secret_value()


def test_an_entry_opens_for_its_servers_and_for_no_other(place: Place) -> None:
    vault = place.open()
    made = vault.set("github", SecretStr(VALUE), servers=["github", "mirror"])
    assert (made.servers, made.version) == (("github", "mirror"), 1)
    assert value(vault, "github", "github") == value(vault, "github", "mirror") == VALUE
    assert refused(lambda: vault.open("github", "other")).code == "secret_denied"
    assert "hostwright secret set missing" in refused(lambda: vault.open("missing", "github")).fix
    assert place.events() == [
        ("secret.set", "github", None),
        ("secret.opened", "github", "github"),
        ("secret.opened", "github", "mirror"),
        ("secret.denied", "github", "other"),
    ]


def test_a_value_is_nowhere_but_in_its_envelope(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    vault = place.open()
    vault.set("a", SecretStr(VALUE), servers=["x"])
    opened = vault.open("a", "x")
    assert VALUE not in f"{vault!r} {opened!r} {opened} {vault.list()} {vault.status()}"
    assert VALUE not in caplog.text
    vault.close()
    place.ledger.close()
    for file in place.folder.iterdir():
        assert VALUE.encode() not in file.read_bytes(), file
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_values_are_replaced_and_deleted(place: Place) -> None:
    vault = place.open()
    vault.set("a", SecretStr("first value"), servers=["x"])
    assert vault.set("a", SecretStr("second value")).servers == ("x",)
    assert (value(vault, "a", "x"), vault.list()[0].version) == ("second value", 2)
    vault.set("a", SecretStr("third value"), servers=[])
    assert refused(lambda: vault.open("a", "x")).code == "secret_denied"
    vault.delete("a")
    assert vault.list() == []
    assert refused(lambda: vault.delete("a")).code == "not_found"
    # So that a row of before, put back, is not taken for a new one.
    assert vault.set("a", SecretStr("fourth value"), servers=["x"]).version == 4


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "é", "x" * 64, "a\n", "a}"])
def test_an_entry_has_a_plain_name(place: Place, name: str) -> None:
    assert refused(lambda: place.open().set(name, SecretStr(VALUE))).code == "bad_name"


@pytest.mark.parametrize("given_value", ["", "abc", "abc\0def", "x" * 65_537, "é" * 40_000])
def test_a_value_is_bounded(place: Place, given_value: str) -> None:
    vault = place.open()
    assert refused(lambda: vault.set("a", SecretStr(given_value))).code == "bad_value"
    assert vault.list() == []


# -- keys ----------------------------------------------------------------------------------------


def test_without_anything_better_the_key_is_a_private_file(place: Place) -> None:
    vault = place.open()
    assert vault.status().layer is None
    vault.set("a", SecretStr(VALUE), servers=["x"])
    assert vault.status().layer == "file"
    (file,) = place.folder.glob("vault-*.key")
    assert value(place.open(), "a", "x") == VALUE
    file.chmod(0o644)
    assert refused(lambda: place.open().open("a", "x")).code == "vault_key_exposed"
    file.chmod(0o600)
    kept = file.read_bytes()
    for wrong, code in ((b"", "vault_key_wrong"), (b"00" * 32, "vault_key_wrong")):
        file.write_bytes(wrong)
        assert refused(lambda: place.open().open("a", "x")).code == code
        assert refused(lambda: place.open().set("b", SecretStr(VALUE))).code == code
    file.unlink()
    assert refused(lambda: place.open().open("a", "x")).code == "vault_key_missing"
    file.touch(0o600)
    file.write_bytes(kept)
    assert value(place.open(), "a", "x") == VALUE


def test_a_keyring_that_answers_comes_first(place: Place) -> None:
    memory = Memory()
    keyring.set_keyring(memory)
    vault = place.open()
    vault.set("a", SecretStr(VALUE), servers=["x"])
    assert vault.status().layer == "keyring"
    assert len(memory.kept) == 1  # the probe is gone
    assert not list(place.folder.glob("*.key"))
    assert value(place.open(), "a", "x") == VALUE
    keyring.set_keyring(fail.Keyring())
    assert refused(lambda: place.open().open("a", "x")).code == "vault_key_unavailable"
    keyring.set_keyring(Memory())
    assert refused(lambda: place.open().open("a", "x")).code == "vault_key_missing"


def test_a_keyring_that_fails_is_none(place: Place) -> None:
    keyring.set_keyring(Broken())
    vault = place.open()
    vault.set("a", SecretStr(VALUE), servers=["x"])
    assert vault.status().layer == "file"


def test_a_systemd_credential(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / CREDENTIAL).write_bytes(b"0123456789abcdef0123456789abcdef")
    place = Place(tmp_path, CREDENTIALS_DIRECTORY=str(folder))
    place.open().set("a", SecretStr(VALUE), servers=["x"])
    assert place.open().status().layer == "systemd"
    assert value(place.open(), "a", "x") == VALUE
    (folder / CREDENTIAL).write_bytes(b"another credential, long enough")
    assert refused(lambda: place.open().open("a", "x")).code == "vault_key_wrong"
    (folder / CREDENTIAL).write_bytes(b"short")
    assert refused(lambda: place.open().open("a", "x")).code == "vault_key_weak"
    place.environ = {}
    assert refused(lambda: place.open().open("a", "x")).code == "vault_key_missing"
    place.ledger.close()


def test_a_passphrase_from_a_file_or_from_who_knows_it(tmp_path: Path) -> None:
    file = tmp_path / "phrase"
    file.write_text(f"{PHRASE}\n")
    file.chmod(0o600)
    place = Place(tmp_path, HOSTWRIGHT_VAULT_PASSPHRASE_FILE=str(file))
    place.open().set("a", SecretStr(VALUE), servers=["x"])
    assert place.open().status().layer == "passphrase"
    assert value(place.open(), "a", "x") == VALUE
    place.environ = {}
    assert refused(lambda: place.open().open("a", "x")).code == "vault_locked"
    place.phrase = PHRASE
    assert value(place.open(), "a", "x") == VALUE
    place.phrase = "wrong horse battery"
    error = refused(lambda: place.open().open("a", "x"))
    assert error.code == "vault_key_wrong"
    assert "wrong horse" not in str(error)
    assert len(place.open().list()) == 1  # names need no key
    place.ledger.close()


def test_a_short_passphrase_is_refused(place: Place) -> None:
    vault = place.open()
    vault.set("a", SecretStr(VALUE), servers=["x"])
    place.phrase = "short"
    assert refused(lambda: place.open().rotate("passphrase")).code == "vault_key_weak"
    assert value(vault, "a", "x") == VALUE


@pytest.mark.parametrize("layer", [None, "keyring", "passphrase"])
def test_a_rotation_wraps_everything_anew_and_forgets_the_old_key(
    place: Place, layer: Layer | None
) -> None:
    keyring.set_keyring(Memory())
    place.phrase = PHRASE
    keyring.set_keyring(fail.Keyring())
    vault, other = place.open(), place.open()
    for number in range(5):
        vault.set(f"e{number}", SecretStr(f"{VALUE}-{number}"), servers=["x"])
    assert value(other, "e0", "x") == f"{VALUE}-0"
    before = {file.name for file in place.folder.glob("*.key")}
    keyring.set_keyring(Memory())
    assert vault.rotate(layer).layer == (layer or "file")
    after = {file.name for file in place.folder.glob("*.key")}
    assert not before & after
    # Also through a vault that was open meanwhile, and holds the old key.
    for one in (vault, other, place.open()):
        for number in range(5):
            assert value(one, f"e{number}", "x") == f"{VALUE}-{number}"
    assert ("secret.rotated", None, None) in place.events()


def test_a_rotation_that_cannot_move_everything_moves_nothing(place: Place) -> None:
    vault = place.open()
    for name in ("a", "b", "c"):
        vault.set(name, SecretStr(f"{VALUE} {name}"), servers=["x"])
    place.sql("UPDATE entries SET sealed = x'00' WHERE name = 'b'")
    error = refused(vault.rotate)
    assert (error.code, "'b'" in error.message) == ("secret_damaged", True)
    assert [value(place.open(), name, "x") for name in ("a", "c")] == [f"{VALUE} a", f"{VALUE} c"]
    assert [(one.name, one.ok) for one in vault.test()] == [("a", True), ("b", False), ("c", True)]
    vault.delete("b")
    vault.rotate()
    assert all(one.ok for one in place.open().test())


def test_an_empty_vault_has_nothing_to_rotate(place: Place) -> None:
    assert refused(place.open().rotate).code == "vault_empty"
    assert place.open().test() == []


# -- what somebody else did to the file ------------------------------------------------------------

TAMPERING = {
    "another entry's envelope": "UPDATE entries SET (wrapped, sealed) = "
    "(SELECT wrapped, sealed FROM entries WHERE name = 'b') WHERE name = 'a'",
    "another entry's value": "UPDATE entries SET sealed = "
    "(SELECT sealed FROM entries WHERE name = 'b') WHERE name = 'a'",
    "one more server": "UPDATE entries SET servers = '[\"x\",\"y\"]' WHERE name = 'a'",
    "no list of servers": "UPDATE entries SET servers = 'x' WHERE name = 'a'",
    "another version": "UPDATE entries SET version = 7 WHERE name = 'a'",
    "another name": "UPDATE entries SET name = 'c' WHERE name = 'a'",
    "a cut value": "UPDATE entries SET sealed = substr(sealed, 1, 20) WHERE name = 'a'",
    "no envelope": "UPDATE entries SET wrapped = x'' WHERE name = 'a'",
}


@pytest.mark.parametrize("how", TAMPERING)
def test_a_changed_row_does_not_open_and_takes_no_other_with_it(place: Place, how: str) -> None:
    vault = place.open()
    vault.set("a", SecretStr(f"{VALUE} a"), servers=["x"])
    vault.set("b", SecretStr(f"{VALUE} b"), servers=["x"])
    place.sql(TAMPERING[how])
    name = "c" if how == "another name" else "a"
    error = refused(lambda: place.open().open(name, "x"))
    assert error.code in ("secret_damaged", "secret_denied")
    assert value(place.open(), "b", "x") == f"{VALUE} b"
    assert [one.ok for one in place.open().test()].count(False) == 1


@settings(deadline=None, max_examples=60)
@given(
    plain=st.binary(max_size=200),
    place_of=st.integers(min_value=0, max_value=400),
    bit=st.integers(min_value=0, max_value=7),
)
def test_every_flipped_bit_shows(plain: bytes, place_of: int, bit: int) -> None:
    kek, label = new_key(), Label(name="a", servers=("x",), version=1)
    envelope = seal(kek, label, plain)
    assert unseal(kek, label, envelope) == plain
    blob = bytearray(envelope.wrapped + envelope.sealed)
    blob[place_of % len(blob)] ^= 1 << bit
    cut = len(envelope.wrapped)
    changed = Envelope(wrapped=bytes(blob[:cut]), sealed=bytes(blob[cut:]))
    with pytest.raises(BrokenSealError):
        unseal(kek, label, changed)
    with pytest.raises(BrokenSealError):
        unseal(new_key(), label, envelope)


def test_nothing_opens_when_it_cannot_be_recorded(place: Place) -> None:
    vault = place.open()
    vault.set("a", SecretStr(VALUE), servers=["x"])
    place.ledger.close()
    assert refused(lambda: vault.open("a", "x"))
    assert refused(lambda: vault.delete("a"))
    assert len(vault.list()) == 1
