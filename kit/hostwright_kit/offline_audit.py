#!/usr/bin/env python3
"""Check what a Hostwright ledger claims, with Python alone and the host's public key.

    python3 -I FILE KEY proof PROOF…
    python3 -I FILE KEY export LEDGER.jsonl CHECKPOINTS…

FILE is this file. KEY is the line that `hostwright audit key` prints, or a file that holds it,
fetched once and kept. Nothing else is needed: no network, no ledger, nothing installed; Python 3.8
or newer. This file stands alone on purpose, so that whoever doubts the host can read all that
decides.

`proof`: what `hostwright audit prove` or `hostwright audit consistency` wrote. A proof of inclusion
(c2sp.org/tlog-proof@v1) shows that one entry was in the ledger when the checkpoint in it was
signed; a proof of consistency, that the ledger of the newer checkpoint begins with the whole of the
older one.

`export`: all entries, as `hostwright audit export` wrote them, against checkpoints that this host
signed and somebody kept (`hostwright audit checkpoint`, or the file that the host copies them to).

Exit code 0: all of it holds. 1: something does not; the line says what. 2: wrong usage.

Trees: RFC 9162. Signatures: Ed25519, RFC 8032 section 5.1.7. Checkpoints: c2sp.org/tlog-checkpoint.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

INCLUSION = "c2sp.org/tlog-proof@v1"
CONSISTENCY = "hostwright.dev/consistency-proof@v1"
MAX_DIGITS = 18

# The curve of RFC 8032: -x² + y² = 1 + d·x²·y² over the integers modulo P.
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)
# Not evaluated when this runs: the alias is newer than the oldest Python that may run it.
Point: TypeAlias = "tuple[int, int, int, int]"


class NotProvenError(Exception):
    """The proof does not hold."""


def add(one: Point, two: Point) -> Point:
    """The sum of two points, in extended coordinates (RFC 8032 section 5.1.4)."""
    a = (one[1] - one[0]) * (two[1] - two[0]) % P
    b = (one[1] + one[0]) * (two[1] + two[0]) % P
    c = 2 * one[3] * two[3] * D % P
    d = 2 * one[2] * two[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(factor: int, point: Point) -> Point:
    """A multiple of a point."""
    total: Point = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            total = add(total, point)
        point = add(point, point)
        factor >>= 1
    return total


def same(one: Point, two: Point) -> bool:
    """Whether two points are one."""
    across = (one[0] * two[2] - two[0] * one[2]) % P
    up = (one[1] * two[2] - two[1] * one[2]) % P
    return across == 0 and up == 0


def point_of(data: bytes) -> Point:
    """The point that 32 bytes stand for."""
    value = int.from_bytes(data, "little")
    sign, y = value >> 255, value & (2**255 - 1)
    if y >= P:
        raise NotProvenError("a point of the signature is not in its shortest form")
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_ONE % P
    if (x * x - square) % P or (x == 0 and sign):
        raise NotProvenError("a point of the signature is not on the curve")
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = point_of((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def check_signature(key: bytes, message: bytes, signature: bytes) -> None:
    """Raise unless this key made this signature of this message."""
    if len(key) != 32 or len(signature) != 64:
        raise NotProvenError("a key has 32 bytes and a signature 64")
    public, first = point_of(key), point_of(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if scalar >= ORDER:
        raise NotProvenError("the signature is not in its shortest form")
    digest = hashlib.sha512(signature[:32] + key + message).digest()
    challenge = int.from_bytes(digest, "little") % ORDER
    if not same(times(scalar, BASE), add(first, times(challenge, public))):
        raise NotProvenError("the signature of the checkpoint is not by this key")


class Key:
    """The host's public key: NAME+KEYID+BASE64(1 ‖ key)."""

    def __init__(self, line: str) -> None:
        self.name, _, rest = line.strip().partition("+")
        key_id, _, blob = rest.partition("+")
        raw = unbase64(blob)
        if len(raw) != 33 or raw[0] != 1:
            raise NotProvenError("the key is not a verifier key of an Ed25519 key")
        self.raw = raw[1:]
        self.id = hashlib.sha256(self.name.encode() + b"\n\x01" + self.raw).digest()[:4]
        if self.id.hex() != key_id:
            raise NotProvenError("the id in the key line is not that of its key")

    def open(self, note: str) -> tuple[int, bytes]:
        """The size and the root of a checkpoint that this key has signed."""
        text, _, signatures = note.rpartition("\n\n")
        text += "\n"
        for line in signatures.split("\n"):
            dash, _, rest = line.partition(" ")
            name, _, blob = rest.partition(" ")
            data = unbase64(blob)
            if dash == "—" and name == self.name and data[:4] == self.id:
                check_signature(self.raw, text.encode(), data[4:])
                lines = text.split("\n")
                if len(lines) < 3 or lines[0] != self.name:
                    raise NotProvenError("what is signed is not a checkpoint of this host")
                return number(lines[1]), unbase64(lines[2])
        raise NotProvenError(f"the checkpoint has no signature of {self.name}")


def unbase64(text: str) -> bytes:
    """Bytes of base64, strictly."""
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:
        raise NotProvenError("a part of it is not base64") from None
    if base64.b64encode(found).decode() != text:
        raise NotProvenError("a part of it is not base64 in its one form")
    return found


def number(text: str) -> int:
    """A number in decimal digits, bounded."""
    digits = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    if not digits or text != str(int(text)):
        raise NotProvenError("a number is missing where one must be")
    return int(text)


def leaf(data: bytes) -> bytes:
    """The hash of an entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_by_inclusion(entry: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """The root that follows from an entry and its proof (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        raise NotProvenError("the entry's number is not within the checkpoint")
    found, last = leaf(entry), size - 1
    for sibling in proof:
        if last == 0:
            raise NotProvenError("the proof is too long")
        if index & 1 or index == last:
            found = node(sibling, found)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            found = node(found, sibling)
        index, last = index >> 1, last >> 1
    if last:
        raise NotProvenError("the proof is too short")
    return found


def roots_by_consistency(
    old: int, new: int, old_root: bytes, proof: list[bytes]
) -> tuple[bytes, bytes]:
    """Both roots as they follow from a proof of consistency (RFC 9162 section 2.1.4.2)."""
    if old == new and not proof:
        return old_root, old_root
    if not 0 < old < new or not proof:
        raise NotProvenError("no such proof leads from one checkpoint to the other")
    hashes = list(proof) if old & (old - 1) else [old_root, *proof]
    index, last = old - 1, new - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    first = second = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise NotProvenError("the proof is too long")
        if index & 1 or index == last:
            first, second = node(sibling, first), node(sibling, second)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            second = node(second, sibling)
        index, last = index >> 1, last >> 1
    if last:
        raise NotProvenError("the proof is too short")
    return first, second


class Tree:
    """A Merkle tree that grows leaf by leaf: the roots of its full subtrees, largest first."""

    def __init__(self) -> None:
        self.size = 0
        self.roots: list[bytes] = []

    def add(self, entry: bytes) -> None:
        """Append an entry."""
        found, rest = leaf(entry), self.size
        while rest & 1:
            found, rest = node(self.roots.pop(), found), rest >> 1
        self.roots.append(found)
        self.size += 1

    def root(self) -> bytes:
        """The root over all of it."""
        if not self.roots:
            return hashlib.sha256().digest()
        found = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            found = node(left, found)
        return found


def number_of(entry: bytes) -> int:
    """The number that an entry says it has."""
    said = json.loads(entry)
    found = said.get("seq") if isinstance(said, dict) else None
    if not isinstance(found, int):
        raise NotProvenError("an entry has no number")
    return found


def check_inclusion(key: Key, text: str) -> str:
    """What a proof of inclusion proves, in words; raises when it proves nothing."""
    head, _, note = text.partition("\n\n")
    fields = head.split("\n")[1:]
    if len(fields) < 2 or not fields[0].startswith("extra ") or not fields[1].startswith("index "):
        raise NotProvenError("the lines `extra` (the entry) and `index` are missing")
    entry, index = unbase64(fields[0][6:]), number(fields[1][6:])
    size, root = key.open(note)
    proof = [unbase64(line) for line in fields[2:]]
    if root_by_inclusion(entry, index, size, proof) != root:
        raise NotProvenError("the entry is not in the ledger that was signed")
    if number_of(entry) != index + 1:
        raise NotProvenError("the entry's own number is another one")
    return f"entry {index + 1} of {size}, signed by {key.name}:\n{entry.decode()}"


def check_consistency(key: Key, text: str) -> str:
    """What a proof of consistency proves, in words; raises when it proves nothing."""
    head, *rest = text.strip("\n").split("\n\n")
    if len(rest) != 4:
        raise NotProvenError("the two checkpoints are missing")
    old, old_root = key.open(f"{rest[0]}\n\n{rest[1]}\n")
    new, new_root = key.open(f"{rest[2]}\n\n{rest[3]}\n")
    proof = [unbase64(line) for line in head.split("\n")[1:]]
    if roots_by_consistency(old, new, old_root, proof) != (old_root, new_root):
        raise NotProvenError("the newer ledger does not begin with the older one")
    return f"the ledger of {new} entries begins with all {old} of the older one, by {key.name}"


def check_proof(key: Key, text: str) -> str:
    """What a proof of either kind proves, in words."""
    kind = text.partition("\n")[0]
    if kind == INCLUSION:
        return check_inclusion(key, text)
    if kind == CONSISTENCY:
        return check_consistency(key, text)
    raise NotProvenError(f"the first line is neither {INCLUSION} nor {CONSISTENCY}")


def checkpoints_in(key: Key, texts: list[str]) -> dict[int, bytes]:
    """The roots in files of checkpoints, by size; every one must be signed."""
    found: dict[int, bytes] = {}
    for text in texts:
        parts = [part.strip("\n") for part in text.strip("\n").split("\n\n")]
        if len(parts) % 2:
            raise NotProvenError("this is not a file of signed checkpoints")
        for at in range(0, len(parts), 2):
            size, root = key.open(f"{parts[at]}\n\n{parts[at + 1]}\n")
            if found.setdefault(size, root) != root:
                raise NotProvenError(f"two checkpoints over {size} entries contradict each other")
    return found


def check_export(lines: Iterable[bytes], roots: dict[int, bytes]) -> str:
    """What an exported ledger and checkpoints prove together; raises when they do not fit."""
    tree, fitting, newest = Tree(), 0, 0
    if not roots:
        raise NotProvenError("there is no checkpoint to compare with")
    for line in lines:
        if not line.endswith(b"\n"):
            raise NotProvenError(f"line {tree.size + 1} is torn")
        entry = line[:-1]
        if number_of(entry) != tree.size + 1:
            raise NotProvenError(f"line {tree.size + 1} holds entry {number_of(entry)}")
        tree.add(entry)
        if tree.size in roots:
            if tree.root() != roots[tree.size]:
                raise NotProvenError(
                    f"the checkpoint over {tree.size} entries does not fit: one of entries "
                    f"{newest + 1} to {tree.size} is not what was signed"
                )
            fitting, newest = fitting + 1, tree.size
    beyond = max(roots)
    if beyond > tree.size:
        raise NotProvenError(
            f"a checkpoint covers {beyond} entries, {tree.size} are here: the rest was left out"
        )
    return (
        f"{tree.size} entries, {fitting} checkpoints fit; the first {newest} entries are what was "
        f"signed, the {tree.size - newest} after them no checkpoint covers"
    )


def read(name: str) -> str:
    """A file as text."""
    with open(name, encoding="utf-8") as file:  # noqa: PTH123 - stands alone
        return file.read()


def check(key: Key, kind: str, name: str, others: list[str]) -> str:
    """What one file proves, in words."""
    if kind == "proof":
        return check_proof(key, read(name))
    roots = checkpoints_in(key, [read(one) for one in others])
    with open(name, "rb") as file:  # noqa: PTH123
        return check_export(file, roots)


def run(key: Key, kind: str, names: list[str]) -> bool:
    """Say of each whether it holds; whether all do."""
    good = True
    for name in names if kind == "proof" else names[:1]:
        try:
            said = f"PROVEN  {name}: {check(key, kind, name, names[1:])}"
        except (NotProvenError, OSError, ValueError, RecursionError) as error:
            said, good = f"NOT PROVEN  {name}: {error}", False
        # What an entry says is somebody else's text: nothing in it may drive a terminal.
        sys.stdout.write(f"{said.encode('ascii', 'backslashreplace').decode()}\n")
    return good


def main(arguments: list[str]) -> int:
    """Check what the arguments name."""
    least = {"proof": 3, "export": 4}.get(arguments[1] if len(arguments) > 1 else "", 0)
    if not least or len(arguments) < least:
        sys.stderr.write(__doc__ or "")
        return 2
    try:
        key = Key(read(arguments[0]) if os.path.exists(arguments[0]) else arguments[0])  # noqa: PTH110
    except (NotProvenError, OSError, ValueError) as error:
        sys.stderr.write(f"the key cannot be used: {error}\n")
        return 2
    return 0 if run(key, arguments[1], arguments[2:]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
