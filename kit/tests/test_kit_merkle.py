"""The Merkle tree against RFC 9162's own definition, and proofs that prove nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    consistent,
    included,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
)

LEAVES = [leaf_hash(bytes([number])) for number in range(70)]


def by_definition(leaves: Sequence[bytes]) -> bytes:
    """MTH of section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(by_definition(leaves[:half]), by_definition(leaves[half:]))


def subtree(start: int, end: int) -> bytes:
    return by_definition(LEAVES[start:end])


def test_known_roots() -> None:
    # The test vectors of the Certificate Transparency project.
    data = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    data.append("606162636465666768696a6b6c6d6e6f")
    leaves = [leaf_hash(bytes.fromhex(text)) for text in data]
    assert root_of(leaves[:1]).hex() == (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    assert root_of(leaves).hex() == (
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )
    assert root_of([]) == EMPTY_ROOT


@pytest.mark.parametrize("size", range(70))
def test_growing_leaf_by_leaf_gives_the_root_by_definition(size: int) -> None:
    frontier = Frontier()
    frontier.extend(LEAVES[:size])
    assert frontier.root() == by_definition(LEAVES[:size])
    again = Frontier(frontier.size, frontier.roots)
    again.add(LEAVES[size])
    assert again.root() == by_definition(LEAVES[: size + 1])


def test_a_frontier_that_does_not_fit_its_size_is_refused() -> None:
    with pytest.raises(ValueError, match="full subtrees"):
        Frontier(3, [LEAVES[0]])


@pytest.mark.parametrize("size", range(1, 34))
def test_every_inclusion_proof_holds_for_its_leaf_and_place_only(size: int) -> None:
    root = by_definition(LEAVES[:size])
    for index in range(size):
        proof = inclusion_proof(index, size, subtree)
        for other in range(size):
            assert included(LEAVES[index], other, size, proof, root) == (other == index)
            assert included(LEAVES[other], index, size, proof, root) == (other == index)
        assert not included(LEAVES[index], index, size, [*proof, LEAVES[0]], root)
        assert not proof or not included(LEAVES[index], index, size, proof[:-1], root)


@pytest.mark.parametrize("new", range(1, 34))
def test_every_consistency_proof_holds_for_its_two_trees_only(new: int) -> None:
    root = by_definition(LEAVES[:new])
    for old in range(1, new + 1):
        proof = consistency_proof(old, new, subtree)
        assert consistent(old, new, by_definition(LEAVES[:old]), root, proof)
        for other in range(1, new + 1):
            if other != old:
                assert not consistent(other, new, by_definition(LEAVES[:other]), root, proof)
                assert not consistent(old, new, by_definition(LEAVES[:other]), root, proof)


@given(st.data())
def test_no_changed_byte_passes(data: st.DataObject) -> None:
    new = data.draw(st.integers(2, 60))
    old = data.draw(st.integers(1, new - 1))
    proof = consistency_proof(old, new, subtree)
    assert len(proof) <= 2 * new.bit_length()
    place = data.draw(st.integers(0, len(proof) - 1))
    byte = data.draw(st.integers(0, 31))
    changed = bytearray(proof[place])
    changed[byte] ^= data.draw(st.integers(1, 255))
    forged = [*proof[:place], bytes(changed), *proof[place + 1 :]]
    roots = by_definition(LEAVES[:old]), by_definition(LEAVES[:new])
    assert consistent(old, new, *roots, proof)
    assert not consistent(old, new, *roots, forged)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_what_is_not_there_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_proof(index, size, subtree)
    assert not included(LEAVES[0], index, size, [], LEAVES[0])


def test_no_proof_leads_backwards_or_from_nothing() -> None:
    for old, new in ((3, 2), (0, 2)):
        with pytest.raises(ValueError, match="no proof"):
            consistency_proof(old, new, subtree)
        assert not consistent(old, new, LEAVES[0], LEAVES[1], [LEAVES[2]])
