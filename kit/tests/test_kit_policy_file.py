"""policy.toml: read with every error at once, taken over while servers run; windows and rates."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.clock import Instant
from hostwright_kit.config import load_kit_config, read_settings
from hostwright_kit.paths import Paths
from hostwright_kit.policy import Effect, PolicyConfig, Rule, Subject, Use, judge
from hostwright_kit.policy_file import PolicySource
from hostwright_kit.policy_rates import Rates
from hostwright_kit.policy_times import Window, seconds_of

CALL = Subject(caller_names=("me",), server="s", tool="t", effect=Effect.DESTRUCTIVE)
DENY = '[[rules]]\neffect = "deny"\n'
ALLOW = '[[rules]]\neffect = "allow"\n'


def put(file: Path, text: str) -> None:
    """As a careful editor does: a new file in place of the old."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def test_a_change_holds_from_the_next_call_on_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    source = PolicySource(PolicyConfig(), [file])
    assert judge(source.current(), CALL).verdict == "ask"
    put(file, DENY)
    found = judge(source.current(), CALL)
    assert (found.verdict, found.reason) == ("deny", "policy.toml:1: deny")
    put(file, ALLOW + "oops")
    assert judge(source.current(), CALL).verdict == "deny"
    assert len(source.problems) == 1
    put(file, ALLOW)
    assert (judge(source.current(), CALL).verdict, source.problems) == ("allow", ())
    file.unlink()
    assert judge(source.current(), CALL).verdict == "ask"


def test_everything_wrong_is_told_at_once_with_its_line_and_a_fix(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        'profile = "yolo"\n\n[[rules]]\neffect = "permit"\n\n[[rules]]\neffect = "deny"\n'
        'tol = "x"\n\n[[rules]]\neffect = "deny"\n[rules.arguments]\npath = { inside = "etc" }\n'
    )
    problems = PolicySource(PolicyConfig(), [file]).problems
    assert [(one.line, one.key) for one in problems] == [
        (1, "profile"),
        (4, "rules.0.effect"),
        (8, "rules.1.tol"),
        (13, "rules.2.arguments.path.inside"),
    ]
    assert all(one.source == str(file) and one.fix for one in problems)


def test_all_files_count_and_the_environment_has_the_last_word_on_the_profile(
    tmp_path: Path,
) -> None:
    paths = Paths(
        config_dir=tmp_path / "c", state_dir=tmp_path / "s", runtime_dir=tmp_path / "r"
    ).ensure()
    (paths.config_dir / "config.toml").write_text(
        '[policy]\nprofile = "observe"\nrules = [{effect = "deny", tool = "a"}]\n'
    )
    (paths.config_dir / "policy.toml").write_text(
        'profile = "autonomous"\n[[rules]]\neffect = "allow"\ntool = "*"\n'
        '[[rules]]\neffect = "deny"\ntool = "b"\n'
    )

    def verdicts(**env: str) -> tuple[str, ...]:
        settings = read_settings(paths, env=env)
        config = load_kit_config(settings)
        policy = PolicySource.of(config.policy, settings, paths).current()
        told = [judge(policy, CALL.model_copy(update={"tool": tool})).verdict for tool in "abc"]
        return (policy.profile, *told)

    assert verdicts() == ("autonomous", "deny", "deny", "allow")
    assert verdicts(HOSTWRIGHT_POLICY__PROFILE="standard")[0] == "standard"


@pytest.mark.parametrize(
    ("window", "moment", "inside"),
    [
        ({}, "2026-11-25T00:00", True),
        ({"days": "mon-fri"}, "2026-11-25T12:00", True),
        ({"days": "mon-fri"}, "2026-11-28T12:00", False),
        ({"days": "sat,sun"}, "2026-11-28T12:00", True),
        ({"days": "sat-mon"}, "2026-11-30T12:00", True),
        ({"days": "sat-mon"}, "2026-12-01T12:00", False),
        ({"hours": "08:00-18:00"}, "2026-11-25T08:00", True),
        ({"hours": "08:00-18:00"}, "2026-11-25T18:00", False),
        ({"hours": "22:00-06:00"}, "2026-11-25T05:59", True),
        ({"hours": "22:00-06:00", "days": "fri"}, "2026-11-28T05:00", True),
        ({"hours": "22:00-06:00", "days": "fri"}, "2026-11-27T05:00", False),
        ({"hours": "08:00-18:00", "timezone": "Asia/Tokyo"}, "2026-11-25T08:00", True),
    ],
)
def test_windows_of_time(window: dict[str, str], moment: str, inside: bool) -> None:
    zone = "Asia/Tokyo" if "timezone" in window else "UTC"
    offset = "+09:00" if zone == "Asia/Tokyo" else "+00:00"
    found = Window(**{"timezone": "UTC", **window})
    assert found.contains(datetime.fromisoformat(f"{moment}{offset}")) is inside


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("2h", 7_200), ("1w", 604_800)])
def test_durations(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@given(st.text(max_size=8))
def test_no_other_text_is_a_duration(text: str) -> None:
    try:
        assert seconds_of(text) > 0
    except ValueError as error:
        assert "duration" in str(error)


class Time:
    """A clock that is turned by hand; both of its faces can be set apart."""

    def __init__(self) -> None:
        self.boot, self.elapsed, self.wall = "b1", 1_000.0, datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> Instant:
        return Instant(self.boot, self.elapsed, self.wall)

    def passes(self, seconds: float) -> None:
        self.elapsed += seconds
        self.wall += timedelta(seconds=seconds)


def test_a_rate_counts_what_was_let_through_also_over_restarts_and_a_turned_clock(
    tmp_path: Path,
) -> None:
    time = Time()
    use = Use("rule", "me", seconds=60, calls=2)
    rates = Rates(tmp_path, time)
    assert rates.take([use])
    time.passes(30)
    assert rates.take([use])
    assert not rates.take([use])
    assert not rates.take([Use("other", "me", 60, 5), use])
    assert not rates.spent(Use("other", "me", 60, 1)), "what was refused counts nowhere"
    assert not rates.spent(Use("rule", "you", 60, 1))
    rates.close()
    rates = Rates(tmp_path, time)
    time.wall += timedelta(days=400)
    assert rates.spent(use), "the wall clock was set forward, not the boot's"
    time.wall -= timedelta(days=400)
    time.passes(31)
    assert not rates.spent(use)
    time.boot, time.elapsed = "b2", 5.0
    assert rates.spent(Use("rule", "me", 60, 1)), "after a reboot the wall clock tells"
    time.passes(60)
    assert not rates.spent(Use("rule", "me", 60, 1))
    rates.close()


def test_of_many_at_once_no_more_get_through_than_the_rate_allows(tmp_path: Path) -> None:
    both = [Rates(tmp_path), Rates(tmp_path)]
    use = Use("rule", "me", seconds=3_600, calls=7)

    def take(number: int) -> bool:
        return both[number % 2].take([use])

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, range(40)))
    assert sum(taken) == 7
    for one in both:
        one.close()


def rated(effect: Any, calls: int = 3) -> Rule:
    rate = {"calls": calls, "per": "1h"}
    return Rule.model_validate({"effect": effect, "rate": rate})


def test_what_opens_does_so_up_to_its_rate_and_what_closes_beyond_it() -> None:
    for spent, verdicts in ((False, ("allow", "allow")), (True, ("ask", "deny"))):
        opening = judge(PolicyConfig(rules=(rated("allow"),)), CALL, spent=lambda _, s=spent: s)
        closing = judge(
            PolicyConfig(rules=(rated("deny"), Rule(effect="allow"))),
            CALL,
            spent=lambda _, s=spent: s,
        )
        assert (opening.verdict, closing.verdict) == verdicts
        assert bool(opening.uses) is bool(closing.uses) is not spent


def test_always_beats_ask_until_it_ends_and_never_deny() -> None:
    later, ago = datetime.now(UTC) + timedelta(hours=1), datetime.now(UTC) - timedelta(hours=1)
    ask = Rule(effect="ask", via="terminal")

    def said(*rules: Rule) -> str:
        return judge(PolicyConfig(rules=rules), CALL).verdict

    assert said(ask, Rule(effect="always", until=later)) == "allow"
    assert said(ask, Rule(effect="always", until=ago)) == "ask"
    assert said(Rule(effect="always", until=later), Rule(effect="deny")) == "deny"
    assert judge(PolicyConfig(rules=(ask, Rule(effect="ask", via="client"))), CALL).via == (
        "terminal"
    )


def test_a_file_of_another_user_or_no_text_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    for content in (b"\xff\xfe", b"\0", b"a" * 5_000_000, b"[" * 5_000):
        file.write_bytes(content)
        os.utime(file, ns=(len(content), len(content)))
        assert PolicySource(PolicyConfig(), [file]).problems
