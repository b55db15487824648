"""What may be done: three profiles and the owner's rules. Deny wins; the unknown is not allowed.

A call is judged by its effect (declared by the tool), its caller, server and tool:

1. any matching `deny` rule → denied, whatever else matches and in whatever order;
2. else any matching `ask` rule → the owner is asked;
3. else any matching `allow` rule → allowed;
4. else the profile decides: `observe` allows reads and denies the rest; `standard` asks for what
   is destructive or reaches outside the machine; `autonomous` allows (ledger and limits hold).

Patterns are shell globs (`*`, `?`, `[…]`), compared without case folding.
"""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Profile = Literal["observe", "standard", "autonomous"]
Verdict = Literal["allow", "ask", "deny"]


class Effect(StrEnum):
    """What a call can do, from harmless to grave."""

    READ = "read"
    CONTAINED = "contained"
    """Undone by another tool of the same server, or touches only what the agent itself started."""
    DESTRUCTIVE = "destructive"
    """Changes or ends something that was there before, or runs what the agent wrote."""


class Rule(BaseModel):
    """One `[[policy.rules]]` entry. What is left out matches everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    effect: Verdict
    caller: str = Field(
        default="*", description="Glob over the client's name (claimed) or token:NAME (proven)."
    )
    server: str = "*"
    tool: str = "*"
    comment: str = ""

    def matches(self, call: Subject) -> bool:
        """Whether this rule speaks about the call."""
        return (
            any(fnmatchcase(name, self.caller) for name in call.caller_names)
            and fnmatchcase(call.server, self.server)
            and fnmatchcase(call.tool, self.tool)
        )


class PolicyConfig(BaseModel):
    """`[policy]` of the configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Profile = "standard"
    rules: tuple[Rule, ...] = ()


class Subject(BaseModel, frozen=True):
    """What a policy looks at."""

    caller_names: tuple[str, ...]
    server: str
    tool: str
    effect: Effect
    open_world: bool = False


class Judgement(BaseModel, frozen=True):
    """A verdict and the rule or profile that gave it."""

    verdict: Verdict
    reason: str


def judge(config: PolicyConfig, call: Subject) -> Judgement:
    """The verdict on one call. Pure: the same input gives the same answer."""
    for verdict in ("deny", "ask", "allow"):
        for number, rule in enumerate(config.rules, 1):
            if rule.effect == verdict and rule.matches(call):
                note = f" ({rule.comment})" if rule.comment else ""
                return Judgement(verdict=verdict, reason=f"rule {number}: {verdict}{note}")
    return Judgement(
        verdict=_profile_verdict(config.profile, call), reason=f"profile {config.profile}"
    )


def _profile_verdict(profile: Profile, call: Subject) -> Verdict:
    if call.effect is Effect.READ:
        return "allow"
    if profile == "observe":
        return "deny"
    if profile == "autonomous":
        return "allow"
    grave = call.effect is Effect.DESTRUCTIVE or call.open_world
    return "ask" if grave else "allow"
