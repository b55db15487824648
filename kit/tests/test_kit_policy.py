"""Policy: deny wins in any order, and no profile gives the unknown more than it gives the grave."""

from __future__ import annotations

import random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hostwright_kit.caller import Caller
from hostwright_kit.policy import Effect, PolicyConfig, Profile, Rule, Subject, Verdict, judge
from hostwright_kit.served import ToolTraits

PROFILES: tuple[Profile, ...] = get_args(Profile)
NAMES = st.sampled_from(["laptop", "claude", "system", "file_read", "file_write", "[x", "*"])
PATTERNS = NAMES | st.sampled_from(["*", "file_*", "??????", "[!f]*", "claud[ef]", ""])
RULES = st.lists(
    st.builds(
        Rule,
        effect=st.sampled_from(get_args(Verdict)),
        caller=PATTERNS,
        server=PATTERNS,
        tool=PATTERNS,
    ),
    max_size=6,
)
SUBJECTS = st.builds(
    Subject,
    caller_names=st.lists(NAMES, min_size=1, max_size=2).map(tuple),
    server=NAMES,
    tool=NAMES,
    effect=st.sampled_from(Effect),
    open_world=st.booleans(),
)
GRAVITY = {"allow": 0, "ask": 1, "deny": 2}


@given(st.sampled_from(PROFILES), RULES, SUBJECTS, st.randoms())
def test_the_order_of_rules_never_matters(
    profile: Profile, rules: list[Rule], call: Subject, shuffler: random.Random
) -> None:
    shuffled = rules.copy()
    shuffler.shuffle(shuffled)
    first = judge(PolicyConfig(profile=profile, rules=tuple(rules)), call)
    second = judge(PolicyConfig(profile=profile, rules=tuple(shuffled)), call)
    assert first.verdict == second.verdict


@given(st.sampled_from(PROFILES), RULES, SUBJECTS)
def test_a_matching_deny_always_wins(profile: Profile, rules: list[Rule], call: Subject) -> None:
    denied = any(rule.effect == "deny" and rule.matches(call) for rule in rules)
    verdict = judge(PolicyConfig(profile=profile, rules=tuple(rules)), call).verdict
    assert verdict == "deny" if denied else verdict != "deny" or profile == "observe"


@given(st.sampled_from(PROFILES), RULES, SUBJECTS)
def test_a_further_deny_rule_never_opens_anything(
    profile: Profile, rules: list[Rule], call: Subject
) -> None:
    deny = Rule(effect="deny", tool=call.tool.replace("[", "[[]"))
    before = judge(PolicyConfig(profile=profile, rules=tuple(rules)), call).verdict
    after = judge(PolicyConfig(profile=profile, rules=(*rules, deny)), call).verdict
    assert GRAVITY[after] >= GRAVITY[before]
    assert after == "deny"


@given(st.sampled_from(PROFILES), SUBJECTS)
def test_the_undeclared_effect_is_never_judged_more_kindly(profile: Profile, call: Subject) -> None:
    traits = ToolTraits()
    unknown = call.model_copy(update={"effect": traits.effect, "open_world": traits.open_world})
    config = PolicyConfig(profile=profile)
    assert GRAVITY[judge(config, unknown).verdict] >= GRAVITY[judge(config, call).verdict]


@given(SUBJECTS)
def test_observe_acts_on_nothing_and_standard_asks_before_what_is_grave(call: Subject) -> None:
    observe = judge(PolicyConfig(profile="observe"), call).verdict
    standard = judge(PolicyConfig(profile="standard"), call).verdict
    if call.effect is Effect.READ:
        assert (observe, standard) == ("allow", "allow")
    else:
        grave = call.effect is Effect.DESTRUCTIVE or call.open_world
        assert (observe, standard) == ("deny", "ask" if grave else "allow")


@pytest.mark.parametrize("profile", PROFILES)
def test_the_reason_names_the_rule_or_the_profile(profile: Profile) -> None:
    call = Subject(caller_names=("me",), server="s", tool="t", effect=Effect.READ)
    rules = (Rule(effect="allow", tool="x"), Rule(effect="ask", tool="T*".lower(), comment="why"))
    assert judge(PolicyConfig(profile=profile, rules=rules), call).reason == "rule 2: ask (why)"
    assert judge(PolicyConfig(profile=profile), call).reason == f"profile {profile}"


def test_an_unknown_profile_effect_or_key_is_an_error_and_not_a_default() -> None:
    for bad in ({"profile": "yolo"}, {"rules": [{"effect": "permit"}]}, {"rule": []}):
        with pytest.raises(ValidationError):
            PolicyConfig.model_validate(bad)


def test_only_a_token_makes_a_caller_match_a_rule_for_that_token() -> None:
    rule = Rule(effect="allow", caller="token:ci")
    proven = Caller(client="anything", token="ci")
    for impostor in (Caller(client="token:ci"), Caller(client="Token:ci"), Caller(client="ci")):
        assert not rule.matches(subject_of(impostor))
    assert rule.matches(subject_of(proven))


def subject_of(caller: Caller) -> Subject:
    return Subject(caller_names=caller.names, server="s", tool="t", effect=Effect.DESTRUCTIVE)
