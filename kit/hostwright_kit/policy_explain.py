"""Why a call is judged as it is, rule by rule; and tables of calls with the verdicts expected."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from hostwright_kit.call import Call
from hostwright_kit.caller import TOKEN_PREFIX, Caller
from hostwright_kit.errors import HostError
from hostwright_kit.policy import Effect, Judgement, PolicyConfig, Spent, Subject, Verdict, judge
from hostwright_kit.served import ToolTraits

MAX_CALLS = 10_000


class Step(BaseModel, frozen=True):
    """One rule and what it has to do with the call."""

    place: str = Field(description="policy.toml:LINE, or `rule N` of config.toml's [policy].")
    effect: str
    matches: bool
    because: str = Field(description="Why it does not match; else empty.")
    decided: bool = Field(description="Whether this rule gave the verdict.")
    comment: str = ""


class Explanation(BaseModel, frozen=True):
    """A verdict and the way to it."""

    verdict: Verdict
    reason: str
    may_grant: Literal["owner's terminal", "client or terminal", "nobody need"] = Field(
        description="Of ask: who may say yes."
    )
    effect: Effect = Field(description="What the tool is taken to do.")
    open_world: bool
    known: bool = Field(description="Whether the tool's server has said so; else the worst.")
    profile: str
    rules: list[Step]


def call_of(
    server: str,
    tool: str,
    arguments: Mapping[str, Any],
    *,
    caller: str = "unknown",
    traits: ToolTraits,
    folder: str,
) -> Call:
    """A call that nobody made. `caller`: a client's name, or token:NAME."""
    token = caller.removeprefix(TOKEN_PREFIX) if caller.startswith(TOKEN_PREFIX) else None
    who = Caller(client="unknown", token=token) if token else Caller(client=caller)
    return Call(
        caller=who,
        server=server,
        tool=tool,
        arguments=arguments,
        effect=traits.effect_of(arguments),
        open_world=traits.open_world,
        secret_names=traits.secret_names,
        in_panic=traits.in_panic,
        folder=folder,
    )


def explain(
    policy: PolicyConfig,
    subject: Subject,
    *,
    known: bool = True,
    via_client: bool = True,
    spent: Spent = lambda _: False,
) -> Explanation:
    """What `judge` says, with every rule's part in it. Asks the disk, as judging does."""
    found = judge(policy, subject, spent=spent)
    steps = [
        Step(
            place=rule.place or f"rule {number}",
            effect=rule.effect,
            matches=(missed := rule.misses(subject)) is None,
            because=missed or "",
            decided=found.rule == (rule.place or f"rule {number}"),
            comment=rule.comment,
        )
        for number, rule in enumerate(policy.rules, 1)
    ]
    return Explanation(
        verdict=found.verdict,
        reason=found.reason,
        may_grant=_granters(found, via_client),
        effect=subject.effect,
        open_world=subject.open_world,
        known=known,
        profile=policy.profile,
        rules=steps,
    )


def _granters(
    found: Judgement, via_client: bool
) -> Literal["owner's terminal", "client or terminal", "nobody need"]:
    if found.verdict != "ask":
        return "nobody need"
    allowed = via_client if found.via is None else found.via == "client"
    return "client or terminal" if allowed else "owner's terminal"


class Expected(BaseModel):
    """One `[[calls]]` of a test file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    call: str = Field(pattern=r"^[a-z][a-z0-9-]*\.\S+$", description="SERVER.TOOL")
    arguments: dict[str, Any] = {}
    caller: str = "unknown"
    folder: str = "/"
    effect: Effect | None = Field(default=None, description="Default: what the server declared.")
    open_world: bool | None = None
    at: AwareDatetime | None = Field(default=None, description="As if it were then.")
    expect: Verdict
    because: str = Field(default="", description="What the reason must contain.")


class ExpectedFile(BaseModel):
    """A file for `hostwright policy test`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: tuple[Expected, ...] = Field(min_length=1, max_length=MAX_CALLS)


class Outcome(BaseModel, frozen=True):
    """One expectation and what the policy says."""

    number: int
    call: str
    caller: str
    expect: Verdict
    verdict: Verdict
    reason: str
    ok: bool


def read_expectations(file: Path) -> ExpectedFile:
    """The calls of a test file; everything wrong with it in one error."""
    try:
        return ExpectedFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise HostError(
            f"{file} cannot be read: {error}.",
            fix="Give a TOML file with [[calls]] tables (docs/policy.md).",
            code="bad_file",
        ) from error
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise HostError(
            f"{file} is not valid: {told}.",
            fix="Correct these keys; docs/policy.md has the format.",
            code="bad_file",
        ) from error


def check_expectations(
    policy: PolicyConfig,
    wanted: ExpectedFile,
    traits_of: Callable[[str, str], ToolTraits],
) -> list[Outcome]:
    """What the policy says about each call, rates left aside (nothing was called yet)."""
    found: list[Outcome] = []
    for number, one in enumerate(wanted.calls, 1):
        server, _, tool = one.call.partition(".")
        changed = {"effect": one.effect, "open_world": one.open_world}
        given = {key: value for key, value in changed.items() if value is not None}
        traits = traits_of(server, tool).model_copy(update=given)
        call = call_of(
            server, tool, one.arguments, caller=one.caller, traits=traits, folder=one.folder
        )
        subject = call.subject
        if one.at is not None:
            subject = subject.model_copy(update={"now": one.at})
        said = judge(policy, subject)
        ok = said.verdict == one.expect and one.because in said.reason
        found.append(
            Outcome(
                number=number,
                call=one.call,
                caller=one.caller,
                expect=one.expect,
                verdict=said.verdict,
                reason=said.reason,
                ok=ok,
            )
        )
    return found
