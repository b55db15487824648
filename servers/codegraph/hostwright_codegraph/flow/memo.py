"""Evaluation that always gives the same, whatever was evaluated before.

Recursion is cut by *fuel*, which every step into another definition uses up, and not by what
happens to be on the stack. A result is thus a function of its question and the fuel alone, so the
order of the files cannot change it: that is why a partial index can equal a full one.

A result that never ran out of fuel holds for any larger amount as well, and is kept with the depth
that it needed; one that ran out is kept for exactly that amount.

Each result also knows which facts it was read from (`touch`), those of the results inside it too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast
from zlib import crc32

FUEL = 9

Given = ParamSpec("Given")
Result = TypeVar("Result")


def fact_key(file: str, qual: str, what: str) -> int:
    """The name of one fact, as it is kept: two facts may share one, which costs work, not truth."""
    return crc32(f"{file}\0{qual}\0{what}".encode("utf-8", "surrogateescape"))


class Memo:
    """Results by question, and the facts behind them."""

    def __init__(self) -> None:
        self.facts_read: set[int] = set()
        self._whole: dict[Any, tuple[Any, int, frozenset[int]]] = {}
        self._cut: dict[Any, tuple[Any, frozenset[int]]] = {}
        self._low = FUEL
        self._keys: dict[tuple[str, str, str], int] = {}

    def touch(self, file: str, qual: str, what: str) -> None:
        """Say that this fact was read."""
        key = self._keys.get((file, qual, what))
        if key is None:
            key = self._keys[file, qual, what] = fact_key(file, qual, what)
        self.facts_read.add(key)

    def forget(self) -> None:
        """Drop all results: what they were read from has changed."""
        self._whole.clear()
        self._cut.clear()

    def recall(
        self, key: Any, fuel: int, compute: Callable[..., Result], *arguments: Any
    ) -> Result | tuple[()]:
        """The result of `compute(*arguments, fuel - 1)`, computed once; empty without fuel."""
        if fuel <= 0:
            self._low = -1
            return ()
        whole = self._whole.get(key)
        if whole is not None and whole[1] <= fuel:
            self._low = min(self._low, fuel - whole[1])
            self.facts_read |= whole[2]
            return cast("Result", whole[0])
        cut = self._cut.get((key, fuel))
        if cut is not None:
            self._low = -1
            self.facts_read |= cut[1]
            return cast("Result", cut[0])
        low, read = self._low, self.facts_read
        own: set[int] = set()
        self._low, self.facts_read = fuel, own
        result = compute(*arguments, fuel - 1)
        if self._low >= 0:
            self._whole[key] = (result, fuel - self._low, frozenset(own))
        else:
            self._cut[key, fuel] = (result, frozenset(own))
        self._low = min(low, self._low)
        read |= own
        self.facts_read = read
        return result
