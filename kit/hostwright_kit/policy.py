"""What may be done: three profiles and the owner's rules. Deny wins; the unknown is not allowed.

A call is judged by its effect (declared by the tool), its caller, server, tool, arguments and
folder, by the time and by how often it was made:

1. any matching `deny` rule → denied, whatever else matches and in whatever order;
2. else any matching `always` rule → allowed: the owner has approved it in advance, until a date;
3. else any matching `ask` rule → the owner is asked;
4. else any matching `allow` rule → allowed;
5. else the profile decides: `observe` allows reads and denies the rest; `standard` asks for what
   is destructive or reaches outside the machine; `autonomous` allows (ledger and limits hold).

Patterns of names are shell globs (`*`, `?`, `[…]`). What a condition on an argument means, and why
no spelling of it turns a denial into anything else: `policy_arguments.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, NamedTuple

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from hostwright_kit.canonical import digest
from hostwright_kit.policy_arguments import ArgumentPath, Condition
from hostwright_kit.policy_times import Rate, Window
from hostwright_kit.readings import folded

Profile = Literal["observe", "standard", "autonomous"]
Verdict = Literal["allow", "ask", "deny"]
RuleEffect = Literal["deny", "always", "ask", "allow"]
Channel = Literal["client", "terminal"]
MAX_NAMED = 4_000
ORDER: tuple[RuleEffect, ...] = ("deny", "always", "ask", "allow")


class Effect(StrEnum):
    """What a call can do, from harmless to grave."""

    READ = "read"
    CONTAINED = "contained"
    """Undone by another tool of the same server, or touches only what the agent itself started."""
    DESTRUCTIVE = "destructive"
    """Changes or ends something that was there before, or runs what the agent wrote."""


class Rule(BaseModel):
    """One rule. What is left out matches everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    effect: RuleEffect
    caller: str = Field(
        default="*", description="Glob over the client's name (claimed) or token:NAME (proven)."
    )
    server: str = "*"
    tool: str = "*"
    arguments: dict[str, Condition] = Field(default={}, description="Path → what stands there.")
    exact: bool = Field(
        default=False, description="No argument but those named (allow and always only)."
    )
    folder: str | None = Field(default=None, description="Working folder of the server.")
    call: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="The digest of exactly one call."
    )
    when: Window | None = None
    until: AwareDatetime | None = Field(default=None, description="The rule ends then.")
    rate: Rate | None = Field(
        default=None, description="allow, always: up to it. ask, deny: beyond it."
    )
    via: Channel | None = Field(
        default=None, description="Of ask: who may grant; terminal means the PIN alone."
    )
    comment: str = ""
    _place: str = PrivateAttr(default="")

    @field_validator("arguments")
    @classmethod
    def _known_paths(cls, value: dict[str, Condition]) -> dict[str, Condition]:
        for path in value:
            if not ArgumentPath(text=path).steps:
                raise ValueError(f"{path!r} names nothing")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Rule:
        if self.exact and not self.opens:
            raise ValueError("exact is for allow and always: it narrows what is opened")
        if self.via is not None and self.effect != "ask":
            raise ValueError("via is for ask: it says who may grant")
        if self.effect == "always" and self.until is None:
            raise ValueError("always needs until = 2027-01-31T00:00:00Z: nothing is for ever")
        return self

    @property
    def opens(self) -> bool:
        """Whether it lets something happen; then it is read narrowly, else widely."""
        return self.effect in ("allow", "always")

    @cached_property
    def paths(self) -> tuple[tuple[ArgumentPath, Condition], ...]:
        """Its conditions on arguments."""
        return tuple((ArgumentPath(text=path), one) for path, one in self.arguments.items())

    @property
    def is_plain(self) -> bool:
        """Whether names alone decide it, so that the same names get the same answer."""
        depends = (self.arguments, self.exact, self.folder, self.call, self.when, self.until)
        return not any(depends) and self.rate is None

    @property
    def asks_the_disk(self) -> bool:
        """Whether judging by it may take a moment."""
        return self.rate is not None or any(one.asks_the_disk for one in self.arguments.values())

    @cached_property
    def identity(self) -> str:
        """What its rate is counted under: the rule itself, wherever it stands."""
        return digest(self.model_dump(mode="json", exclude={"comment"}, exclude_defaults=True))

    @property
    def place(self) -> str:
        """Where it was written; empty for a rule of config.toml."""
        return self._place

    def placed(self, place: str) -> Rule:
        """The same, knowing where it was written."""
        rule = self.model_copy()
        rule._place = place
        return rule

    def ended(self) -> bool:
        """Whether its time is over."""
        return self.until is not None and self.until <= datetime.now(UTC)

    def names_it(self, call: Subject) -> bool:
        """Whether caller, server and tool match."""
        return (
            any(self._is_caller(name) for name in call.caller_names)
            and fnmatchcase(call.server, self.server)
            and fnmatchcase(call.tool, self.tool)
        )

    def fits(self, call: Subject) -> bool:
        """Whether this rule speaks about a call whose names match, its rate left aside."""
        return self._misses_call(call) is None

    def matches(self, call: Subject) -> bool:
        """Whether this rule speaks about the call, its rate left aside."""
        return self.misses(call) is None

    def misses(self, call: Subject) -> str | None:
        """Why it does not speak about the call; None when it does."""
        if not self.names_it(call):
            return "another caller, server or tool"
        return self._misses_call(call)

    def _misses_call(self, call: Subject) -> str | None:
        return self._misses_around(call) or self._misses_arguments(call.arguments, call.folder)

    def _misses_around(self, call: Subject) -> str | None:
        if self.until is not None and self.until <= call.now:
            return f"ended {self.until:%Y-%m-%d %H:%M %Z}"
        if self.when is not None and not self.when.contains(call.now):
            return "not at this time"
        if self.folder is not None and not self._is_folder(call.folder):
            return "another working folder"
        if self.call is not None and self.call != call.digest_of():
            return "another call"
        return None

    def _misses_arguments(self, arguments: Mapping[str, Any], folder: str) -> str | None:
        if self.exact and not set(arguments) <= {str(one.steps[0]) for one, _ in self.paths}:
            return "it has further arguments"
        for path, condition in self.paths:
            values = path.values(arguments, opens=self.opens)
            if not condition.holds(values, folder, opens=self.opens):
                return f"argument {path.text} does not match"
        return None

    def _is_caller(self, name: str) -> bool:
        if fnmatchcase(name, self.caller):
            return True
        return not self.opens and fnmatchcase(folded(name), folded(self.caller))

    def _is_folder(self, folder: str) -> bool:
        here, there = self.folder or "", folder
        if self.opens:
            return os.path.normpath(here) == there
        return os.path.realpath(here) == os.path.realpath(there)


class PolicyConfig(BaseModel):
    """`[policy]` of config.toml, or the whole of policy.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Profile = "standard"
    rules: tuple[Rule, ...] = ()
    _named: dict[tuple[object, ...], tuple[tuple[str, Rule], ...]] = PrivateAttr(
        default_factory=dict[tuple[object, ...], tuple[tuple[str, "Rule"], ...]]
    )

    def of(self, call: Subject) -> Iterator[Rule]:
        """The rules for this caller, server and tool."""
        return (rule for _, rule in self.named(call))

    def named(self, call: Subject) -> tuple[tuple[str, Rule], ...]:
        """The same, each with how the owner finds it. Remembered: names decide it, and no more."""
        names = (call.caller_names, call.server, call.tool)
        found = self._named.get(names)
        if found is None:
            if len(self._named) >= MAX_NAMED:
                self._named.clear()
            found = self._named[names] = tuple(
                (rule.place or f"rule {number}", rule)
                for number, rule in enumerate(self.rules, 1)
                if rule.names_it(call)
            )
        return found


class Subject(BaseModel, frozen=True):
    """What a policy looks at."""

    caller_names: tuple[str, ...]
    server: str
    tool: str
    effect: Effect
    open_world: bool = False
    safer: bool = False
    """It only stops things: a rule may forbid it, no profile does."""
    arguments: Mapping[str, Any] = {}
    folder: str = "/"
    digest_of: Callable[[], str] = lambda: ""
    """The digest of the call; made only where a rule is about one call."""
    now: datetime = Field(default_factory=lambda: datetime.now(UTC))


class Use(NamedTuple):
    """One call as a rate counts it."""

    rule: str
    key: str
    seconds: int
    calls: int


Spent = Callable[[Use], bool]
"""Whether so many calls were made already."""


class Judgement(BaseModel, frozen=True):
    """A verdict and the rule or profile that gave it."""

    verdict: Verdict
    reason: str
    via: Channel | None = Field(default=None, description="Of ask: who may grant, if a rule says.")
    uses: tuple[Use, ...] = Field(default=(), description="What the call will be counted under.")
    rule: str | None = Field(default=None, description="The place of the rule that decided.")


def judge(config: PolicyConfig, call: Subject, *, spent: Spent = lambda _: False) -> Judgement:
    """The verdict on one call. Pure but for what `spent` and links on the disk say."""
    matching = [(place, rule) for place, rule in config.named(call) if rule.fits(call)]
    full = {rule.identity for _, rule in matching if rule.rate and spent(_use(rule, call))}
    holding = [
        (place, rule)
        for place, rule in matching
        # What opens does so up to its rate; what closes, beyond it.
        if rule.rate is None or (rule.identity in full) is not rule.opens
    ]
    uses = tuple(
        _use(rule, call) for _, rule in matching if rule.rate and rule.identity not in full
    )
    for effect in ORDER:
        for place, rule in holding:
            if rule.effect != effect:
                continue
            note = f" ({rule.comment})" if rule.comment else ""
            return Judgement(
                verdict="allow" if effect in ("always", "allow") else effect,
                reason=f"{place}: {effect}{note}",
                via=_strictest(one for _, one in holding) if effect == "ask" else None,
                uses=uses,
                rule=place,
            )
    return Judgement(
        verdict=_profile_verdict(config.profile, call),
        reason=f"profile {config.profile}",
        uses=uses,
    )


def _use(rule: Rule, call: Subject) -> Use:
    rate = rule.rate
    if rate is None:
        raise ValueError("the rule counts nothing")
    keys = {"caller": call.caller_names[0], "tool": f"{call.server}.{call.tool}", "all": ""}
    return Use(rule.identity, keys[rate.by], rate.seconds, rate.calls)


def _strictest(rules: Iterable[Rule]) -> Channel | None:
    """What the rules that ask agree on: one that wants the terminal is enough."""
    asking = {rule.via for rule in rules if rule.effect == "ask"}
    if "terminal" in asking:
        return "terminal"
    return "client" if "client" in asking else None


def _profile_verdict(profile: Profile, call: Subject) -> Verdict:
    if call.effect is Effect.READ or call.safer:
        return "allow"
    if profile == "observe":
        return "deny"
    if profile == "autonomous":
        return "allow"
    grave = call.effect is Effect.DESTRUCTIVE or call.open_world
    return "ask" if grave else "allow"
