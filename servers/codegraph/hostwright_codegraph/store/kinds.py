"""The small numbers in the index, and the words for them."""

from __future__ import annotations

from enum import IntEnum


class Edge(IntEnum):
    """What an edge says of its two ends."""

    CALLS = 1
    INSTANTIATES = 2
    IMPORTS = 3
    INHERITS = 4
    OVERRIDES = 5
    DECORATES = 6
    REFERENCES = 7
    TYPES = 8
    RAISES = 9


class Rule(IntEnum):
    """By what evidence an edge was made."""

    SCOPE = 1
    """Names and imports lead to the definition."""
    TYPE = 2
    """The type of the receiver was inferred, and its class has the method."""
    UNIQUE = 3
    """Nothing is known of the receiver; exactly one line of classes has a method of that name."""


CONFIDENCE: dict[int, float] = {Rule.SCOPE: 0.99, Rule.TYPE: 0.98, Rule.UNIQUE: 0.85}


class Kind(IntEnum):
    """What a symbol is."""

    MODULE = 0
    CLASS = 1
    FUNCTION = 2
    METHOD = 3
    VARIABLE = 4


KIND_WORDS: dict[int, str] = {kind.value: kind.name.lower() for kind in Kind}
EDGE_WORDS: dict[int, str] = {kind.value: kind.name.lower() for kind in Edge}
RULE_WORDS: dict[int, str] = {rule.value: rule.name.lower() for rule in Rule}

CALL_KINDS = (Edge.CALLS, Edge.INSTANTIATES)
