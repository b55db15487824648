"""Signed notes and checkpoints, as C2SP writes them: text that a person can read and a key signed.

A note (c2sp.org/signed-note) is some lines of text, an empty line, and one line for each signature:
`— NAME BASE64(key id ‖ signature)`. A checkpoint (c2sp.org/tlog-checkpoint) is a note whose first
three lines are the log's name, the number of its entries and the root of its Merkle tree in base64.

Ed25519 (RFC 8032). A verifier key is one line too, `NAME+KEYID+BASE64(1 ‖ public key)`: all that
somebody needs to check our checkpoints elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, Field

from hostwright_kit.merkle import HASH_BYTES

ED25519 = 1
KEY_ID_BYTES = 4
MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
_NAME = re.compile(r"[^\s+]+\Z")
_SIGNATURE = re.compile("— (?P<name>[^\\s+]+) (?P<blob>[A-Za-z0-9+/]+={0,2})\\Z")
_SIZE = re.compile(r"(0|[1-9][0-9]{0,18})\Z", re.ASCII)


class NoteError(ValueError):
    """The note is malformed, or no signature of the wanted key holds."""


class Checkpoint(BaseModel, frozen=True):
    """What a log commits to at one moment."""

    origin: str = Field(description="The log's name; the same for its whole life.")
    size: int = Field(ge=0, description="Entries in the tree.")
    root: bytes = Field(min_length=HASH_BYTES, max_length=HASH_BYTES)
    extensions: tuple[str, ...] = Field(default=(), description="Further lines, also signed.")

    def text(self) -> str:
        """The lines that are signed."""
        lines = (self.origin, str(self.size), _encode(self.root), *self.extensions)
        if any("\n" in line or not line for line in lines):
            raise NoteError("a line of a checkpoint is empty or has a line break")
        return "".join(f"{line}\n" for line in lines)


class Verifier:
    """A public key under a name."""

    def __init__(self, name: str, key: Ed25519PublicKey) -> None:
        if not _NAME.match(name):
            raise NoteError(f"{name!r} cannot name a key: no white space, no plus")
        self.name = name
        self._key = key
        self._raw = key.public_bytes_raw()
        self.key_id = _key_id(name, self._raw)

    @classmethod
    def parse(cls, line: str) -> Verifier:
        """Read `NAME+KEYID+BASE64`."""
        name, _, rest = line.strip().partition("+")
        stated, _, blob = rest.partition("+")
        raw = _decode(blob)
        if len(raw) != 1 + 32 or raw[0] != ED25519:
            raise NoteError("this is not the verifier key of an Ed25519 key")
        verifier = cls(name, Ed25519PublicKey.from_public_bytes(raw[1:]))
        if verifier.key_id.hex() != stated:
            raise NoteError("the id in the verifier key is not that of its key")
        return verifier

    def line(self) -> str:
        """What to give to whoever shall check our notes."""
        return f"{self.name}+{self.key_id.hex()}+{_encode(bytes([ED25519]) + self._raw)}"

    def open(self, note: str) -> str:
        """The text of a note that this key has signed; raises `NoteError` otherwise."""
        text, signatures = _split(note)
        for name, blob in signatures:
            if name != self.name or blob[:KEY_ID_BYTES] != self.key_id:
                continue
            try:
                self._key.verify(blob[KEY_ID_BYTES:], text.encode())
            except InvalidSignature:
                # Another key may share name and id; a bad signature by ours does not pass for one.
                raise NoteError(f"the signature of {self.name} does not fit the text") from None
            return text
        raise NoteError(f"there is no signature of {self.name} ({self.key_id.hex()})")

    def open_checkpoint(self, note: str) -> Checkpoint:
        """The checkpoint in a note that this key has signed."""
        return parse_checkpoint(self.open(note))


class Signer:
    """A private key under a name."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verifier = Verifier(name, key.public_key())

    def sign(self, text: str) -> str:
        """The note: the text and our signature under it."""
        if not text.endswith("\n") or "\n\n" in text or _control(text):
            raise NoteError("a note ends with a line break and has no empty line or control")
        blob = self.verifier.key_id + self._key.sign(text.encode())
        return f"{text}\n— {self.verifier.name} {_encode(blob)}\n"


def split_notes(text: str) -> list[str]:
    """The notes in a file that holds several, one empty line between them."""
    notes: list[str] = []
    said = ""
    for paragraph in text.strip("\n").split("\n\n"):
        part = paragraph.strip("\n")
        if said and all(line.startswith("— ") for line in part.split("\n")):
            notes.append(f"{said}\n\n{part}\n")
            said = ""
        else:
            said = part
    return notes


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a checkpoint."""
    lines = text.splitlines()
    if len(lines) < 3 or not all(lines) or not _SIZE.match(lines[1]):
        raise NoteError("this is not a checkpoint: name, number of entries and root are missing")
    root = _decode(lines[2])
    if len(root) != HASH_BYTES:
        raise NoteError(f"the root of a checkpoint has {HASH_BYTES} bytes, not {len(root)}")
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root, extensions=tuple(lines[3:]))


def _split(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    if len(note) > MAX_NOTE_BYTES or _control(note):
        raise NoteError("the note is too long or has control characters")
    text, gap, tail = note.rpartition("\n\n")
    if not gap or not text or not tail.endswith("\n"):
        raise NoteError("the note has no signatures")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"the note has more than {MAX_SIGNATURES} signatures")
    found: list[tuple[str, bytes]] = []
    for line in lines:
        match = _SIGNATURE.match(line)
        if match is None:
            raise NoteError("a line below the text is no signature")
        found.append((match["name"], _decode(match["blob"])))
    return text + "\n", found


def _control(text: str) -> bool:
    return any(ord(char) < 0x20 and char != "\n" for char in text)


def _key_id(name: str, raw: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([ED25519]) + raw).digest()[:KEY_ID_BYTES]


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError("a part of it is not base64") from None
