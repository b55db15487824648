"""Conditions on arguments: which values a path names, and whether they fit.

    [rules.arguments]
    path = { inside = "/srv/www" }
    "argv[0]" = { glob = ["git", "gh"] }
    "options.timeout" = { max = 60 }

A rule that closes (`deny`, `ask`) holds when any named value fits in any reading; one that opens
(`allow`, `always`) when there is a value and all of them fit in every reading (see `readings.py`).
What cannot be judged (a text that is too long, a list where a text is expected) closes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, cached_property
from itertools import chain
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hostwright_kit import readings
from hostwright_kit.canonical import canonical

MAX_DEPTH = 32
MAX_VALUES = 10_000
_STEP = re.compile(
    r"""\.?(?:(?P<name>[^.\[\]"']+)|\[(?:(?P<index>\d+)|(?P<all>\*)|"(?P<key>[^"]*)")\])"""
)

Step = str | int | None
"""A member, an index, or None: every member or item."""
Words = str | tuple[str, ...]


class Condition(BaseModel):
    """What a value must be. All that is given must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    equals: Any = Field(default=None, description="Exactly this value.")
    glob: Words | None = Field(default=None, description="Shell pattern or patterns.")
    regex: str | None = Field(default=None, description="RE2 pattern for the whole text.")
    min: float | None = Field(default=None, description="A number, at least this.")
    max: float | None = Field(default=None, description="A number, at most this.")
    inside: Words | None = Field(default=None, description="A path: this folder or below it.")
    touches: Words | None = Field(
        default=None, description="A path: this folder, below it, or above it."
    )
    domain: Words | None = Field(
        default=None, description="A URL or host: this domain and all below it, or a network."
    )
    given: bool | None = Field(default=None, description="Whether there is a value at all.")

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            _compiled(value)
        return value

    @field_validator("inside", "touches")
    @classmethod
    def _absolute(cls, value: Words | None) -> Words | None:
        for word in _words(value):
            if not word.startswith(("/", "~")):
                raise ValueError(f"{word!r} is not absolute; write it from / or ~")
        return value

    @field_validator("domain")
    @classmethod
    def _named(cls, value: Words | None) -> Words | None:
        for word in _words(value):
            if _network(word) is None and not readings.canonical_hosts(word.removeprefix("*.")):
                raise ValueError(f"{word!r} is no domain, address or network")
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Condition:
        if not self.model_fields_set:
            raise ValueError("says nothing; give equals, glob, regex, min, max, inside, … or given")
        return self

    @property
    def asks_the_disk(self) -> bool:
        """Whether it follows links, which can take a while."""
        return self.inside is not None or self.touches is not None

    def holds(self, values: Sequence[Any], folder: str, *, opens: bool) -> bool:
        """Whether it holds for the values that its path names (none, when there are none)."""
        if self.given is False:
            return not values
        if not values:
            return False
        if self.model_fields_set == {"given"}:
            return True
        if opens:
            return all(self._fits_surely(value, folder) for value in values)
        return any(self._may_fit(value, folder) for value in values)

    # -- one value -------------------------------------------------------------------------------

    def _fits_surely(self, value: Any, folder: str) -> bool:
        if "equals" in self.model_fields_set and not _same(value, self.equals):
            return False
        if (self.min is not None or self.max is not None) and not (
            not isinstance(value, str) and self._in_range(value)
        ):
            return False
        if not self._reads_text:
            return True
        text = _text(value)
        if text is None or len(text) > readings.MAX_TEXT_CHARS:
            return False
        return self._read(text, folder, all)

    def _may_fit(self, value: Any, folder: str) -> bool:
        if isinstance(value, Mapping | list) and not (
            "equals" in self.model_fields_set and _same(value, self.equals)
        ):
            return any(self._may_fit(one, folder) for one in _leaves(value))
        if "equals" in self.model_fields_set and not self._may_equal(value):
            return False
        # What is no number cannot be seen to be out of range.
        if (self.min is not None or self.max is not None) and not (
            readings.number(value) is None or self._in_range(value)
        ):
            return False
        text = _text(value)
        if not self._reads_text or text is None or len(text) > readings.MAX_TEXT_CHARS:
            return True
        return self._read(text, folder, any)

    def _may_equal(self, value: Any) -> bool:
        if _same(value, self.equals):
            return True
        text, wanted = _text(value), _text(self.equals)
        if text is None or wanted is None or len(text) > readings.MAX_TEXT_CHARS:
            return text is not None and wanted is not None and len(text) > readings.MAX_TEXT_CHARS
        one, other = readings.number(value), readings.number(self.equals)
        if one is not None and one == other:
            return True
        return not readings.texts(wanted).isdisjoint(readings.texts(text))

    def _in_range(self, value: Any) -> bool:
        found = readings.number(value)
        return (
            found is not None
            and (self.min is None or found >= self.min)
            and (self.max is None or found <= self.max)
        )

    @property
    def _reads_text(self) -> bool:
        told = (self.glob, self.regex, self.inside, self.touches, self.domain)
        return any(one is not None for one in told)

    def _read(self, text: str, folder: str, enough: Callable[[Iterator[bool]], bool]) -> bool:
        """Whether each matcher fits in enough of the readings: `any` of them, or `all`."""
        plain = readings.spellings(text)
        even = {readings.folded(one) for one in plain}
        if self.glob is not None:
            exact = (_globbed(one, _words(self.glob)) for one in plain)
            loose = (_globbed(one, self._folded_globs) for one in even)
            if not enough(chain(exact, loose)):
                return False
        if (pattern := self.regex) is not None:
            exact = (_matched(pattern, one, case=True) for one in plain)
            loose = (_matched(pattern, one, case=False) for one in even)
            if not enough(chain(exact, loose)):
                return False
        return self._read_places(text, folder, enough)

    def _read_places(
        self, text: str, folder: str, enough: Callable[[Iterator[bool]], bool]
    ) -> bool:
        # `all` of nothing is true, and no host at all is in no domain.
        if self.domain is not None:
            found = readings.hosts(text) or {""}
            if not enough(_of_domain(one, _words(self.domain)) for one in found):
                return False
        if not self.asks_the_disk:
            return True
        found = readings.paths(text, folder)
        if enough is any:
            found |= {readings.folded(one) for one in found}
        return (
            self.inside is None or enough(_is_inside(one, _words(self.inside)) for one in found)
        ) and (
            self.touches is None or enough(_is_touching(one, _words(self.touches)) for one in found)
        )

    @cached_property
    def _folded_globs(self) -> tuple[str, ...]:
        return tuple(readings.folded(glob) for glob in _words(self.glob))


class ArgumentPath(BaseModel, frozen=True):
    """`options.env.PATH`, `argv[0]`, `argv[*]`, `headers["x.y"]`."""

    text: str

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The path taken apart; raises `ValueError` when it is none."""
        found: list[Step] = []
        at = 0
        while at < len(self.text):
            step = _STEP.match(self.text, at)
            if step is None or (at == 0 and self.text[0] == "."):
                raise ValueError(
                    f"{self.text!r} is no path; write name, name.member, name[0], name[*] or "
                    'name["a.b"]'
                )
            if step["index"] is not None:
                found.append(int(step["index"]))
            else:
                name = step["key"] if step["key"] is not None else step["name"]
                found.append(None if step["all"] or step["name"] == "*" else name)
            at = step.end()
        if not found:
            raise ValueError("an empty path names nothing")
        return tuple(found)

    def values(self, arguments: Mapping[str, Any], *, opens: bool) -> list[Any]:
        """What it names in these arguments; null is as good as not given."""
        found: list[Any] = [arguments]
        for step in self.steps:
            found = [inner for one in found for inner in _members(one, step, opens=opens)]
            if len(found) > MAX_VALUES:
                # Whoever opens must see them all; whoever closes holds for what is too much.
                return [None] if opens else found[:MAX_VALUES]
        return [one for one in found if one is not None]


def _members(value: Any, step: Step, *, opens: bool) -> Iterator[Any]:
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        if step is None:
            yield from members.values()
        elif step in members:
            yield members[cast("str", step)]
        elif not opens and isinstance(step, str):
            wanted = readings.folded(step)
            yield from (one for key, one in members.items() if readings.folded(key) == wanted)
    elif isinstance(value, list):
        items = cast("list[Any]", value)
        if step is None:
            yield from items
        elif isinstance(step, int) and step < len(items):
            yield items[step]


def _leaves(value: Any, depth: int = 0) -> Iterator[Any]:
    """The texts and numbers in a value; a nest that is too deep is as good as too long a text."""
    if depth > MAX_DEPTH:
        yield " " * (readings.MAX_TEXT_CHARS + 1)
    elif isinstance(value, Mapping):
        for key, one in cast("Mapping[str, Any]", value).items():
            yield key
            yield from _leaves(one, depth + 1)
    elif isinstance(value, list):
        for one in cast("list[Any]", value):
            yield from _leaves(one, depth + 1)
    elif value is not None:
        yield value


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return canonical(value).decode()
    return None


def _same(value: Any, wanted: Any) -> bool:
    return canonical(value) == canonical(wanted)


def _words(value: Words | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


def _globbed(text: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(text, glob) for glob in globs)


def _matched(pattern: str, text: str, *, case: bool) -> bool:
    # A lone surrogate is no UTF-8; RE2 sees what stands for it.
    plain = text.encode("utf-8", "replace").decode()
    return _compiled(pattern, case=case).fullmatch(plain) is not None


def _bases(words: Sequence[str]) -> set[str]:
    found = {base for word in words for base in readings.bases(word)}
    return found | {readings.folded(base) for base in found}


def _is_inside(path: str, words: Sequence[str]) -> bool:
    return any(readings.is_inside(path, base) for base in _bases(words))


def _is_touching(path: str, words: Sequence[str]) -> bool:
    bases = _bases(words)
    return any(readings.is_inside(path, one) or readings.is_inside(one, path) for one in bases)


def _network(word: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(word, strict=False)
    except ValueError:
        return None


def _of_domain(host: str, words: Sequence[str]) -> bool:
    return any(_belongs(host, word) for word in words)


def _belongs(host: str, word: str) -> bool:
    if (network := _network(word)) is not None:
        try:
            return ipaddress.ip_address(host) in network
        except ValueError:
            return False
    below = word.startswith("*.")
    for domain in readings.canonical_hosts(word.removeprefix("*.")):
        if host.endswith(f".{domain}") or (host == domain and not below):
            return True
    return False


@cache
def _compiled(pattern: str, *, case: bool = True) -> Any:
    # Imported only where a rule uses one: most do not, and every server would pay for it.
    import re2  # noqa: PLC0415

    options = re2.Options()
    options.case_sensitive = case
    options.dot_nl = True
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        told = error.args[0] if error.args else error
        text = told.decode() if isinstance(told, bytes) else str(told)
        raise ValueError(f"{pattern!r} is no RE2 pattern: {text}") from None
