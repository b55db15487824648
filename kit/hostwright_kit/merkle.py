"""The Merkle tree of RFC 9162 (section 2.1, the same tree as RFC 6962) over SHA-256.

A leaf is hashed as SHA-256(0x00 ‖ data), an inner node as SHA-256(0x01 ‖ left ‖ right); the left
half of a tree of n leaves is the largest power of two below n. A root commits to every leaf and to
their order. An inclusion proof shows in log₂ n hashes that one leaf is in a tree with that root, a
consistency proof that a larger tree begins with the whole of a smaller one.

Pure: hashes in, hashes out. Where the leaves are kept is the caller's business (`Subtree`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()

Subtree = Callable[[int, int], bytes]
"""The root over the leaves from the first index up to, not including, the second."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of the node over two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """What must be remembered of a tree to go on growing it: the roots of its full subtrees.

    There is one for each bit that is set in the size, largest first, so at most 64.
    """

    def __init__(self, size: int = 0, roots: Sequence[bytes] = ()) -> None:
        if size < 0 or len(roots) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has not {len(roots)} full subtrees")
        self.size = size
        self.roots = list(roots)

    def add(self, leaf: bytes) -> None:
        """Append one leaf by its hash."""
        node, size = leaf, self.size
        while size & 1:
            node = node_hash(self.roots.pop(), node)
            size >>= 1
        self.roots.append(node)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append several."""
        for leaf in leaves:
            self.add(leaf)

    def root(self) -> bytes:
        """The root of the whole tree."""
        if not self.roots:
            return EMPTY_ROOT
        node = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            node = node_hash(left, node)
        return node


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over these leaf hashes."""
    level, sha256 = list(leaves), hashlib.sha256
    if not level:
        return EMPTY_ROOT
    # Level by level instead of leaf by leaf: this is done for every block of a walk.
    while len(level) > 1:
        odd = [level.pop()] if len(level) & 1 else []
        pairs = iter(level)
        # The iterator goes twice into zip, so that each pair is two neighbours.
        level = [
            sha256(b"\x01" + left + right).digest()
            for left, right in zip(pairs, pairs, strict=True)
        ]
        level += odd
    return level[0]


def inclusion_proof(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Proof that the leaf at `index` (from 0) is in the tree of the first `size` leaves."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _left_size(end - start)
        if index < middle:
            proof.append(subtree(middle, end))
            end = middle
        else:
            proof.append(subtree(start, middle))
            start = middle
    proof.reverse()
    return proof


def consistency_proof(old: int, new: int, subtree: Subtree) -> list[bytes]:
    """Proof that the tree of the first `new` leaves begins with the first `old` ones."""
    if not 0 < old <= new:
        raise ValueError(f"no proof leads from {old} leaves to {new}")
    proof: list[bytes] = []
    start, end, whole = 0, new, True
    while end != old:
        middle = start + _left_size(end - start)
        if old <= middle:
            proof.append(subtree(middle, end))
            end = middle
        else:
            proof.append(subtree(start, middle))
            start, whole = middle, False
    if not whole:
        # Otherwise the verifier holds it already: it is the old root.
        proof.append(subtree(start, end))
    proof.reverse()
    return proof


def included(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows the leaf at `index` in the tree of that size and root (2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, rest = leaf, size - 1, list(proof)
    while rest:
        if last == 0:
            return False
        sibling = rest.pop(0)
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        index, last = index >> 1, last >> 1
    return last == 0 and node == root


def consistent(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether `proof` shows that the tree of `new` leaves extends that of `old` (2.1.4.2)."""
    if old == new:
        return not proof and old_root == new_root
    if not 0 < old < new or not proof:
        return False
    rest = list(proof) if old & (old - 1) else [old_root, *proof]
    index, last = old - 1, new - 1
    while index & 1:
        index, last = index >> 1, last >> 1
    first = second = rest.pop(0)
    for sibling in rest:
        if last == 0:
            return False
        if index & 1 or index == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        index, last = index >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root


def _left_size(leaves: int) -> int:
    """How many leaves the left half of a tree has: the largest power of two below their number."""
    return 1 << ((leaves - 1).bit_length() - 1)
