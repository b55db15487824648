"""Conditions on arguments: no spelling of what is denied is let through, whatever else allows."""

from __future__ import annotations

import os
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hostwright_kit.policy import Effect, PolicyConfig, Rule, Subject, judge
from hostwright_kit.policy_arguments import ArgumentPath, Condition
from hostwright_kit.readings import folded

ALLOW = Rule(effect="allow")


def subject(folder: str = "/yard", **arguments: Any) -> Subject:
    return Subject(
        caller_names=("agent",),
        server="s",
        tool="t",
        effect=Effect.DESTRUCTIVE,
        arguments=arguments,
        folder=folder,
    )


def verdict(*rules: Rule, profile: Any = "standard", **more: Any) -> str:
    return judge(PolicyConfig(profile=profile, rules=rules), subject(**more)).verdict


def when(effect: Any, path: str = "value", **condition: Any) -> Rule:
    return Rule(effect=effect, arguments={path: Condition(**condition)})


# -- spellings -----------------------------------------------------------------------------------


def wide(text: str) -> str:
    """Full-width letters, which NFKC makes narrow."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" and c != "/" else c for c in text)


def percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


TEXT_TRICKS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper": str.upper,
    "swapped": str.swapcase,
    "nfd": lambda text: unicodedata.normalize("NFD", text),
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "wide": wide,
    "percent": percent,
    "percent twice": lambda text: percent(percent(text)),
    "zero width": "\u200b".join,
    "soft hyphen": lambda text: f"{text[:1]}\u00ad{text[1:]}",
    "blanks": lambda text: f" \t{text}\n",
    "bom": lambda text: f"\ufeff{text}",
}
PATH_TRICKS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "slashes": lambda path: path.replace("/", "//"),
    "dots": lambda path: path.replace("/", "/./"),
    "up and down": lambda path: f"/usr/..{path}",
    "below and up": lambda path: f"{path}/x/../",
    "relative": lambda path: os.path.relpath(path, "/yard"),
    "trailing": lambda path: f"{path}/",
    "percent": quote,
    "percent all": percent,
    "percent dots": lambda path: f"/yard/%2e%2e{path}",
    "percent slashes": lambda path: path.replace("/", "%2F"),
    "twice": lambda path: percent(percent(path)),
    "backslashes": lambda path: path.replace("/", "\\"),
    "file url": lambda path: f"file://{path}",
    "file url of a host": lambda path: f"FILE://localhost{path}",
    "case": str.upper,
    "wide": wide,
    "decomposed": lambda path: unicodedata.normalize("NFD", path),
    "nul": lambda path: f"{path}\0.txt",
}
HOST_TRICKS: dict[str, Callable[[str], str]] = {
    "bare": str,
    "port": lambda host: f"{host}:8443",
    "url": lambda host: f"https://{host}/x?y#z",
    "case": lambda host: f"HTTPS://{host.upper()}",
    "dot": lambda host: f"https://{host}./",
    "user": lambda host: f"https://good.example@{host}/",
    "two users": lambda host: f"https://a@good.example@{host}/",
    "backslash": lambda host: f"https://{host}\\@good.example/",
    "backslashes": lambda host: f"https:\\\\{host}\\x",
    "no scheme": lambda host: f"//{host}/x",
    "percent": lambda host: f"https://{percent(host)}/",
    "wide": lambda host: f"https://{wide(host)}/",
    "ideographic dot": lambda host: "https://" + host.replace(".", "\u3002"),
    "tab": lambda host: f"https://{host[:2]}\t{host[2:]}/",
    "below": lambda host: f"https://a.b.{host}/",
    "scp": lambda host: f"git@{host}:repo.git",
    "unicode": lambda host: f"https://{host.encode().decode('idna')}/",
}
WORDS = st.text(alphabet="abcdefgß日éz0123456789_-", min_size=1, max_size=12)


@given(WORDS, st.sampled_from(sorted(TEXT_TRICKS)), st.randoms())
def test_no_spelling_of_a_denied_text_is_let_through(
    word: str, trick: str, shuffler: random.Random
) -> None:
    spelt = TEXT_TRICKS[trick](word)
    for deny in (when("deny", equals=word), when("deny", glob=f"{word}*")):
        rules = [deny, ALLOW, when("allow", equals=spelt), when("allow", glob="*")]
        shuffler.shuffle(rules)
        assert verdict(*rules, value=spelt) == "deny"
        assert verdict(*rules, value=[["x", {"deep": spelt}]]) == "deny"


@given(
    st.lists(st.text(alphabet="abcé日", min_size=1, max_size=5), min_size=1, max_size=3),
    st.sampled_from(sorted(PATH_TRICKS)),
    st.booleans(),
    st.randoms(),
)
def test_no_spelling_of_a_denied_path_is_let_through(
    parts: list[str], trick: str, below: bool, shuffler: random.Random
) -> None:
    base = "/nowhere/" + "/".join(parts)
    spelt = PATH_TRICKS[trick](f"{base}/file" if below else base)
    rules = [when("deny", inside=base), ALLOW, when("allow", inside="/"), when("allow", glob="*")]
    shuffler.shuffle(rules)
    assert verdict(*rules, value=spelt) == "deny"


@given(
    st.sampled_from(["bad.example", "xn--bcher-kva.example", "strasse.example"]),
    st.sampled_from(sorted(HOST_TRICKS)),
    st.randoms(),
)
def test_no_spelling_of_a_denied_domain_is_let_through(
    host: str, trick: str, shuffler: random.Random
) -> None:
    rules = [
        when("deny", domain=host),
        ALLOW,
        when("allow", domain=["good.example", host]),
        when("allow", glob="*"),
    ]
    shuffler.shuffle(rules)
    assert verdict(*rules, value=HOST_TRICKS[trick](host)) == "deny"


@pytest.mark.parametrize(
    "spelt",
    [
        "http://127.0.0.1/", "http://127.1/", "http://2130706433", "http://0x7f000001/",
        "http://0177.0.0.1/", "http://0x7f.1", "http://[::ffff:127.0.0.1]/", "127.0.0.1:80",
        "http://[::ffff:7f00:1]/", "http://127.0.0.1./", "http://１２７.0.0.1/", "[2002:7f00:1::]",
        "http://a@127.1/", "http://%31%32%37.1/",
    ],
)  # fmt: skip
def test_an_address_is_denied_in_every_spelling(spelt: str) -> None:
    for deny in (when("deny", domain="127.0.0.1"), when("deny", domain="127.0.0.0/8")):
        assert verdict(deny, ALLOW, value=spelt) == "deny"


def test_links_lead_to_what_is_denied_and_not_to_what_is_allowed(tmp_path: Path) -> None:
    real = Path(os.path.realpath(tmp_path))
    secret, open_folder = real / "secret", real / "open"
    secret.mkdir()
    open_folder.mkdir()
    (open_folder / "link").symlink_to(secret)
    (real / "alias").symlink_to(real)
    deny, allow = when("deny", inside=str(secret)), when("allow", inside=str(open_folder))
    for path in ("open/link", "open/link/new", "alias/secret", "alias/open/link/../secret/x"):
        assert verdict(deny, ALLOW, folder=str(real), value=path) == "deny", path
        assert verdict(allow, folder=str(real), value=path) == "ask", path
    assert verdict(allow, folder=str(real), value="open/new") == "allow"
    assert verdict(when("deny", inside=str(real / "alias/secret")), value=str(secret)) == "deny"
    escape = when("allow", inside=str(open_folder))
    for path in ("open/../secret", "open/%2e%2e/secret", "openly", "open\0/../x", "~/open", ""):
        assert verdict(escape, folder=str(real), value=path) == "ask", path


def test_what_is_allowed_is_read_narrowly() -> None:
    assert verdict(when("allow", glob="build*"), value="build-1") == "allow"
    for text in ("Build-1", "ｂuild", "\u200bbuild", " build", ["build"], None, 1, {}):
        assert verdict(when("allow", glob="build*"), value=text) == "ask", text
    assert verdict(when("allow", glob="[!/]*"), value="a\uff0fb") == "allow"
    assert verdict(when("allow", regex="[^/]*"), value="a\uff0fb") == "ask"
    assert verdict(when("allow", domain="good.example"), value="https://good.example/x") == "allow"
    for text in (
        "https://good.example@bad.example", "https://bad.example\\@good.example", "//",
        "https://good.example.bad.example", "https://notgood.example", "",
    ):  # fmt: skip
        assert verdict(when("allow", domain="good.example"), value=text) == "ask", text
    assert verdict(when("allow", path="v[*]", glob="a*"), v=["a", "ab"]) == "allow"
    assert verdict(when("allow", path="v[*]", glob="a*"), v=["a", "b"]) == "ask"
    assert verdict(when("deny", path="v[*]", glob="b*"), ALLOW, v=["a", "b"]) == "deny"


def test_exact_rules_take_no_further_arguments() -> None:
    rule = Rule(effect="allow", arguments={"unit": Condition(equals="nginx")}, exact=True)
    assert verdict(rule, unit="nginx") == "allow"
    assert verdict(rule, unit="nginx", force=True) == "ask"
    assert verdict(rule) == "ask"


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.text(max_size=30))
def test_a_range_closes_for_what_is_no_number_and_opens_for_numbers_only(value: Any) -> None:
    outside = isinstance(value, int | float) and not 1 <= value <= 10
    if verdict(when("allow", min=1, max=10), value=value) == "allow":
        assert isinstance(value, int | float)
        assert 1 <= value <= 10
    if verdict(when("deny", min=1, max=10), ALLOW, value=value) == "allow":
        assert outside or isinstance(value, str)


@pytest.mark.parametrize("spelt", [500, 500.0, "500", "5e2", " 500 ", "0x1f4", "５００", "1_000"])
def test_a_number_is_out_of_range_in_every_spelling(spelt: Any) -> None:
    assert verdict(when("deny", min=101), ALLOW, value=spelt) == "deny"
    assert verdict(when("deny", min=101), ALLOW, value=100) == "allow"


def test_what_is_too_long_to_judge_is_closed() -> None:
    long = "x" * 100_000
    assert verdict(when("deny", glob="secret*"), ALLOW, value=long) == "deny"
    assert verdict(when("allow", glob="x*"), value=long) == "ask"
    deep: Any = "harmless"
    for _ in range(100):
        deep = [deep]
    assert verdict(when("deny", glob="secret*"), ALLOW, value=deep) == "deny"


@pytest.mark.parametrize("piece", ["a", "b", "ab", "aab", "é"])
def test_no_text_keeps_a_pattern_busy(piece: str) -> None:
    """RE2 takes linear time, and so do the globs; `re` would not come back from these."""
    rules = when("deny", regex="(a|a)*(a|b|ab)*c"), when("ask", glob="*a*b*a*b*c"), ALLOW
    assert verdict(*rules, value=piece * (60_000 // len(piece))) == "allow"


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("a", ("a",)),
        ("a.b", ("a", "b")),
        ("a[0]", ("a", 0)),
        ("a[*].b", ("a", None, "b")),
        ("a.*", ("a", None)),
        ('a["x.y"].z', ("a", "x.y", "z")),
    ],
)
def test_paths_are_taken_apart(path: str, steps: tuple[Any, ...]) -> None:
    assert ArgumentPath(text=path).steps == steps


def test_a_closing_rule_sees_a_member_under_another_spelling_of_its_name() -> None:
    deny = when("deny", path="path", inside="/etc")
    assert verdict(deny, ALLOW, PATH="/etc/passwd") == "deny"
    assert verdict(when("allow", path="path", inside="/srv"), PATH="/srv/x") == "ask"


@pytest.mark.parametrize(
    "bad",
    [
        {"arguments": {"": {"glob": "x"}}},
        {"arguments": {"a..b": {"glob": "x"}}},
        {"arguments": {"a[": {"glob": "x"}}},
        {"arguments": {"a": {}}},
        {"arguments": {"a": {"regex": "("}}},
        {"arguments": {"a": {"regex": "(?=x)"}}},
        {"arguments": {"a": {"inside": "relative"}}},
        {"arguments": {"a": {"domain": ""}}},
        {"arguments": {"a": {"globb": "x"}}},
        {"when": {"days": "funday"}},
        {"when": {"hours": "25:00-26:00"}},
        {"when": {"timezone": "Moon/Base"}},
        {"rate": {"calls": 0, "per": "1h"}},
        {"rate": {"calls": 1, "per": "soon"}},
        {"until": "2027-01-01T00:00:00"},
        {"exact": True, "effect": "deny"},
        {"via": "client", "effect": "deny"},
        {"effect": "always"},
    ],
)
def test_a_rule_that_makes_no_sense_is_an_error(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate({"effect": "allow", **bad})


@given(st.text(alphabet=st.characters(max_codepoint=0x7F), max_size=30))
def test_folding_plain_text_quickly_is_folding_it(text: str) -> None:
    # Letters beyond ASCII around it make it go the long way.
    assert folded("é" + text + "é")[1:-1].strip() == folded(text)
