"""Tests, and code that nobody here wrote by hand."""

from __future__ import annotations

import re

from hostwright_codegraph.store.schema import GENERATED, TEST, VENDORED

_TEST = re.compile(
    r"(^|/)(tests?|__tests__|testing|spec)/|(^|/)(test_[^/]*|conftest)\.py$|_test\.\w+$|"
    r"\.(test|spec)\.\w+$"
)
_VENDORED = re.compile(r"(^|/)(vendor|vendored|_vendor|third_party|thirdparty|extern)/")
_GENERATED = re.compile(rb"@generated|DO NOT EDIT|[Gg]enerated by ", re.IGNORECASE)
_HEAD_BYTES = 1_000


def flags_of(path: str, source: bytes) -> int:
    """The bits of `file.flags`."""
    found = TEST if _TEST.search(path) else 0
    if _VENDORED.search(path):
        found |= VENDORED
    if _GENERATED.search(source[:_HEAD_BYTES]) or _is_minified(source):
        found |= GENERATED
    return found


def _is_minified(source: bytes) -> bool:
    return len(source) > 20_000 and len(source) / (source.count(b"\n") + 1) > 500
