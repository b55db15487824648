"""Standing rules: exactly the call that was asked about, and the owner's own text untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostwright.standing import write_standing_rule
from hostwright_kit.approvals import Approval, Approvals
from hostwright_kit.call import Call
from hostwright_kit.caller import Caller
from hostwright_kit.config import ConfigError
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Ledger
from hostwright_kit.ledger_file import CHECKPOINT_TYPE
from hostwright_kit.paths import Paths
from hostwright_kit.policy import Effect, PolicyConfig, judge
from hostwright_kit.policy_file import PolicySource

from .cli_world import PIN, World

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
OWNERS = """\
# A comment of the owner's
profile = "standard"   # kept

[[rules]]
effect = 'ask'
tool = "file_*"
# the end"""


class Place:
    """An installation without processes."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(
            config_dir=folder / "c", state_dir=folder / "s", runtime_dir=folder / "r"
        ).ensure()
        self.file = self.paths.config_dir / "policy.toml"
        self.ledger = Ledger(self.paths.state_dir / "ledger.db")
        self.approvals = Approvals(
            self.paths.state_dir / "approvals.db", self.ledger, lifetime_seconds=600
        )

    def ask(self, call: Call) -> Approval:
        return self.approvals.request(call.request("a test"))

    def write(self, call: Call, effect: Any = "always", seconds: int = 3_600) -> str:
        write_standing_rule(self.paths, self.ledger, self.ask(call), effect, seconds)
        return self.file.read_text()

    def verdict(self, call: Call) -> str:
        policy = PolicySource(PolicyConfig(), [self.file])
        assert policy.problems == ()
        return judge(policy.current(), call.subject).verdict

    def close(self) -> None:
        self.approvals.close()
        self.ledger.close()


@pytest.fixture
def place(tmp_path: Path) -> Any:
    found = Place(tmp_path)
    yield found
    found.close()


def call(caller: str = "agent", tool: str = "act", folder: str = "/w", **arguments: Any) -> Call:
    return Call(
        caller=Caller(client=caller),
        server="system",
        tool=tool,
        arguments=arguments,
        effect=Effect.DESTRUCTIVE,
        folder=folder,
    )


def test_the_owners_text_stays_and_only_that_call_is_let_through(place: Place) -> None:
    place.file.write_text(OWNERS)
    place.file.chmod(0o640)
    asked = call(tool="file_write", path="/srv/a", mode=None, edits=[{"old": 'x"\n', "n": 1}])
    text = place.write(asked)
    assert text.startswith(OWNERS)
    assert place.file.stat().st_mode & 0o777 == 0o640
    assert "# Always, until " in text
    assert "said with the PIN by" in text
    assert place.verdict(asked) == "allow", "although a rule of the owner's asks"
    given = dict(asked.arguments)
    for other in (
        call("other", "file_write", **given),
        call(tool="file_edit", **given),
        call(tool="file_write", folder="/w/x", **given),
        call(tool="file_write", **{**given, "path": "/srv/A"}),
        call(tool="file_write", **given, more=1),
        call(tool="file_write", **{**given, "mode": "600"}),
        call(tool="file_write", path="/srv/a"),
    ):
        assert place.verdict(other) == "ask"


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=10), JSON, max_size=4), st.text(min_size=1, max_size=12))
def test_whatever_the_arguments_the_rule_is_for_them_and_the_file_stays_sound(
    tmp_path_factory: pytest.TempPathFactory, arguments: dict[str, Any], name: str
) -> None:
    place = Place(tmp_path_factory.mktemp("place"))
    try:
        made = Call(
            caller=Caller(client=name),
            server="system",
            tool="act",
            arguments=arguments,
            effect=Effect.DESTRUCTIVE,
            folder="/w",
        )
        place.write(made)
        assert place.verdict(made) == "allow"
        assert place.verdict(made.model_copy(update={"arguments": {**arguments, "+": 0}})) == "ask"
        place.write(made, "deny")
        assert place.verdict(made) == "deny"
    finally:
        place.close()


def test_what_was_masked_is_named_by_its_digest_and_never_written(place: Place) -> None:
    asked = call(user="me", password="hunter2-hunter2")
    text = place.write(asked)
    assert "hunter2" not in text
    assert place.verdict(asked) == "allow"
    assert place.verdict(call(user="me", password="hunter3-hunter3")) == "ask"


def test_names_with_the_signs_of_patterns_mean_themselves(place: Place) -> None:
    place.write(call("agent*[x]"))
    assert place.verdict(call("agent*[x]")) == "allow"
    assert place.verdict(call("agentsx")) == "ask"


def test_a_file_that_is_wrong_or_cannot_take_a_rule_is_left_as_it_is(place: Place) -> None:
    for text, error in (
        ('profile = "yolo"\n', ConfigError),
        ("not toml", ConfigError),
        ('rules = [{effect = "deny"}]\n', HostError),
    ):
        place.file.write_text(text)
        with pytest.raises(error):
            place.write(call())
        assert place.file.read_text() == text
    assert [path.name for path in place.paths.config_dir.iterdir()] == ["policy.toml"]


def test_the_owner_says_always_on_the_terminal(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.set_pin()
    with world.approvals() as approvals:
        first = approvals.request(call(path="/srv/a").request("a test", why="because")).id
        second = approvals.request(call(path="/srv/b").request("a test")).id
    words = ("approve", first, "--always-for", "7d")
    wrong = world.at_terminal(*words, answers={"PIN: ": "guess"})
    assert wrong.code == 1
    assert not (world.config / "policy.toml").exists()
    done = world.at_terminal(*words, answers={"PIN: ": PIN})
    assert done.code == 0, done
    assert "It says: because" in done.out
    assert "In /w" in done.out
    assert "policy.toml:3" in done.out
    denied = world.at_terminal("deny", second, "--always-for", "1h", answers={"PIN: ": PIN})
    assert denied.code == 0, denied
    assert world.json("policy", "check")["rules"] == 2
    words = ("policy", "explain", "system.act", "--caller", "agent", "--folder", "/w")
    assert world.json(*words, "path=/srv/a")["verdict"] == "allow"
    assert world.json(*words, "path=/srv/b")["verdict"] == "deny"
    events = world.json("audit", "log")["events"]
    kinds = [event["type"] for event in events if event["type"] != CHECKPOINT_TYPE]
    assert kinds[:4] == ["approval.denied", "owner.policy", "approval.granted", "owner.policy"]
    bad = world.run("approve", first, "--always-for", "soon", "--json")
    assert bad.code == 2
