"""`hostwright policy` and rules that the owner makes with the PIN, through the front door."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostwright_kit.policy import Effect
from hostwright_kit.served import Served, ToolTraits, publish

from .cli_world import World

POLICY = """\
# What the owner wrote stays as it is.
profile = "standard"

[[rules]]
effect = "deny"   # never
tool = "file_*"
comment = "keys"
[rules.arguments]
path = { inside = "/srv/keys" }

[[rules]]
effect = "allow"
server = "system"
tool = "file_write"
[rules.arguments]
path = { inside = "/srv/www" }
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    (found.config / "policy.toml").write_text(POLICY)
    tools = {
        "file_write": ToolTraits(open_world=False, overwrites=("path",)),
        "look": ToolTraits(effect=Effect.READ, open_world=False),
    }
    publish(found.state, Served(server="system", folder="/srv/www", tools=tools))
    return found


def test_explain_says_which_rule_decides_and_why_the_others_do_not(world: World) -> None:
    def said(*words: str) -> tuple[str, str]:
        found = world.json("policy", "explain", *words)
        return found["verdict"], found["reason"]

    assert said("system.file_write", "path=index.html")[0] == "allow"
    assert said("system.file_write", "path=../keys/id") == ("deny", "policy.toml:4: deny (keys)")
    assert said("system.file_write", "path=/etc/x") == ("ask", "profile standard")
    assert said("system.look") == ("allow", "profile standard")
    found = world.json("policy", "explain", "nobody.knows")
    assert (found["verdict"], found["known"], found["effect"]) == ("ask", False, "destructive")
    shown = world.ok("policy", "explain", "system.file_write", "path=/srv/keys/id").out
    assert "decides" in shown
    assert "argument path does not match" in shown
    assert world.run("policy", "explain", "file_write", "--json").code == 2


def test_a_table_of_calls_is_compared_with_what_is_expected(world: World) -> None:
    file = world.work / "expected.toml"
    file.write_text(
        '[[calls]]\ncall = "system.file_write"\narguments = { path = "/srv/www/x" }\n'
        'expect = "allow"\n'
        '[[calls]]\ncall = "system.file_write"\narguments = { path = "/srv/www/../keys/x" }\n'
        'caller = "token:ci"\nexpect = "deny"\nbecause = "keys"\n'
    )
    assert world.json("policy", "test", str(file))["ok"]
    file.write_text(file.read_text().replace('"deny"', '"ask"'))
    wrong = world.run("policy", "test", str(file), "--json")
    assert wrong.code == 1
    assert [one["ok"] for one in wrong.document["calls"]] == [True, False]
    file.write_text('[[calls]]\ncall = "no dot"\nexpect = "maybe"\n')
    bad = world.run("policy", "test", str(file), "--json")
    assert bad.code == 1
    assert "calls.0.call" in bad.error["message"]
    assert "calls.0.expect" in bad.error["message"]


def test_check_names_everything_that_is_wrong(world: World) -> None:
    found = world.json("policy", "check")
    assert (found["ok"], found["rules"], found["profile"]) == (True, 2, "standard")
    (world.config / "policy.toml").write_text(POLICY + '\n[[rules]]\neffect = "maybe"\nx = 1\n')
    wrong = world.run("policy", "check", "--json")
    assert wrong.code == 1
    assert [one["line"] for one in wrong.document["problems"]] == [19, 20]
    everything = world.run("check", "--json")
    assert everything.code == 1
    assert "policy.toml" in everything.out
    assert world.run("policy", "explain", "system.look", "--json").code == 1
