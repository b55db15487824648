"""Signed notes: the example of the specification opens, and nothing that was changed does."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.signed_note import (
    Checkpoint,
    NoteError,
    Signer,
    Verifier,
    parse_checkpoint,
)

# The key and the note of golang.org/x/mod/sumdb/note, which the specification comes from.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfq"
    "dngotpRZb6KE6RyyBwJnAM=\n"
)
SIGNER = Signer("host.example/ledger", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
CHECKPOINT = Checkpoint(origin="host.example/ledger", size=17, root=bytes(range(32)))


def test_a_note_signed_by_another_implementation_opens() -> None:
    text = Verifier.parse(GO_KEY).open(GO_NOTE)
    assert text.startswith("If you think")
    assert text.endswith("problem is.\n")


def test_a_verifier_key_is_read_as_it_was_written() -> None:
    line = SIGNER.verifier.line()
    again = Verifier.parse(line)
    assert again.line() == line
    assert again.open(SIGNER.sign("text\n")) == "text\n"


def test_a_checkpoint_comes_back_as_it_was_signed() -> None:
    note = SIGNER.sign(CHECKPOINT.text())
    assert SIGNER.verifier.open_checkpoint(note) == CHECKPOINT
    assert note.splitlines()[:3] == [
        "host.example/ledger",
        "17",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    ]


@given(st.integers(0, 10_000), st.integers(0, 0x10FFFF))
def test_no_changed_character_passes(place: int, code: int) -> None:
    note = SIGNER.sign(CHECKPOINT.text())
    place %= len(note)
    changed = note[:place] + chr(code) + note[place + 1 :]
    if changed == note:
        return
    try:
        opened = SIGNER.verifier.open(changed)
    except (NoteError, UnicodeEncodeError):
        return
    # What is not signed may change (the padding bits of the last base64 character, if any did).
    assert opened == CHECKPOINT.text()


def test_another_key_under_the_same_name_does_not_pass() -> None:
    other = Signer(SIGNER.verifier.name, Ed25519PrivateKey.generate())
    with pytest.raises(NoteError, match="no signature"):
        SIGNER.verifier.open(other.sign("text\n"))


def test_a_note_with_witnesses_opens_by_each_of_them() -> None:
    witness = Signer("witness", Ed25519PrivateKey.generate())
    text = CHECKPOINT.text()
    both = SIGNER.sign(text) + witness.sign(text).split("\n\n")[1]
    assert SIGNER.verifier.open(both) == witness.verifier.open(both) == text


@pytest.mark.parametrize(
    "text",
    ["no end", "an empty line\n\nin it\n", "a tab\tin it\n", "", "return\r\n"],
)
def test_what_is_no_note_is_not_signed(text: str) -> None:
    with pytest.raises(NoteError):
        SIGNER.sign(text)


@pytest.mark.parametrize(
    "text",
    [
        "a\n1\n",
        "a\n01\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "a\n-1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "a\n²\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "a\n1\nAAEC\n",
        "a\n1\n!!\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "name+00000000+" + GO_KEY.rpartition("+")[2],
        "PeterNeumann+c74f20a3+AhBc",
        "na me+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_what_is_no_verifier_key_is_refused(line: str) -> None:
    with pytest.raises(NoteError):
        Verifier.parse(line)
