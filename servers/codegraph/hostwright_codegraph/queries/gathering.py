"""What matters for a task: found by its words, weighed by what hangs together."""

from __future__ import annotations

import re
from collections import defaultdict

from hostwright_codegraph.indexing.symbols import split_words
from hostwright_codegraph.queries.calling import CALLING
from hostwright_codegraph.queries.reader import Index, Symbol
from hostwright_codegraph.store.kinds import Kind
from hostwright_codegraph.store.schema import GENERATED, VENDORED

MOST_TERMS = 24
MOST_CANDIDATES = 300
MOST_RESULTS = 60
PASSED_ON = 0.25
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{2,}")
_EMPTY = frozenset(
    (
        *("the", "and", "for", "with", "that", "this", "from", "into", "when", "what", "how"),
        *("why", "does", "are", "was", "not", "but", "can", "should", "would", "could", "add"),
        *("fix", "bug", "make", "use", "using", "need", "change", "new", "all", "any", "get"),
        *("set", "where", "which", "who", "has", "have", "had", "its", "our", "your", "their"),
        *("there", "here", "also", "only", "some", "more", "than", "then", "them", "they", "you"),
        *("it", "is", "in", "of", "to", "on", "at", "by", "be", "as", "an", "or", "if", "so", "do"),
    )
)


def gather(index: Index, task: str) -> list[tuple[Symbol, float]]:
    """The definitions that a task is about, best first."""
    scores: dict[int, float] = defaultdict(float)
    known: dict[int, Symbol] = {}
    terms = [one for one in dict.fromkeys(split_words(task).split()) if one not in _EMPTY]
    terms = [one for one in terms if len(one) > 1][:MOST_TERMS]
    if terms:
        match = " OR ".join(f'"{one}"' for one in terms)
        rows = index.rows(
            "SELECT rowid, bm25(words) FROM words WHERE words MATCH ? ORDER BY 2 LIMIT ?",
            *(match, MOST_CANDIDATES),
        )
        ranked = {row[0]: row[1] for row in rows}
        known |= index.by_id(ranked)
        for number, symbol in known.items():
            scores[number] += -ranked[number] * _weight(symbol, terms)
    _spelled_out(index, task, terms, scores, known)
    _pass_on(index, scores, known)
    order = sorted(scores, key=lambda one: (-scores[one], one))
    return [(known[one], scores[one]) for one in order if one in known][:MOST_RESULTS]


def _spelled_out(
    index: Index,
    task: str,
    terms: list[str],
    scores: dict[int, float],
    known: dict[int, Symbol],
) -> None:
    """Names that stand in the task as they stand in the code."""
    top = max(scores.values(), default=1.0)
    for name in dict.fromkeys(_IDENTIFIER.findall(task)):
        last = name.rpartition(".")[2]
        if last.lower() in _EMPTY:
            continue
        # What is spelled as only code is spelled is what the task says outright.
        spelled = "_" in last or "." in name or last != last.lower()
        for symbol in index.symbols("symbol.name=?", last, limit=20):
            if f".{symbol.full}".endswith(f".{name}"):
                known[symbol.id] = symbol
                scores[symbol.id] += top * (1.5 if spelled else 0.5) * _weight(symbol, terms)


def _weight(symbol: Symbol, terms: list[str]) -> float:
    own = split_words(symbol.qual or symbol.name).split()
    share = sum(word in terms for word in own) / max(len(own), 1)
    weight = 0.4 + share
    if symbol.is_test:
        weight *= 0.4
    if symbol.flags & (GENERATED | VENDORED):
        weight *= 0.3
    if symbol.kind in (Kind.VARIABLE, Kind.MODULE):
        weight *= 0.6
    return weight


def _pass_on(index: Index, scores: dict[int, float], known: dict[int, Symbol]) -> None:
    """A part of each score goes to what calls it and what it calls: it stands in the same story."""
    best = sorted(scores, key=lambda one: -scores[one])[:40]
    given: dict[int, float] = defaultdict(float)
    for rows, here, there in (
        (index.edges_out(best, CALLING), "src", "dst"),
        (index.edges_in(best, CALLING), "dst", "src"),
    ):
        each: dict[int, set[int]] = defaultdict(set)
        for row in rows:
            each[row[here]].add(row[there])
        for number, others in each.items():
            for other in others:
                given[other] += scores[number] * PASSED_ON / max(len(others), 3)
    known |= index.by_id(set(given) - known.keys())
    for number, score in given.items():
        if number in known:
            scores[number] += score * (0.4 if known[number].is_test else 1.0)
