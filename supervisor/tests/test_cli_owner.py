"""The owner's commands through the front door: PIN, approvals, tokens, the ledger. No daemon."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright.cli.output import visible
from hostwright_kit.checkpoints import Checkpoints, Copy, to_file
from hostwright_kit.errors import HostError
from hostwright_kit.host_key import host_signer
from hostwright_kit.ledger import Entry, Ledger
from hostwright_kit.ledger_file import CHECKPOINT_TYPE
from hostwright_kit.operator_pin import FREE_TRIES, OperatorPin

from .cli_world import PIN, World

# ESC and C1 sequences move cursors and set titles; the others reverse, hide or break up text.
EVIL = "a\x1b[2J\x9b31mb\u202ec\u2066d\u200be\u2028f\x7fg\rh\x08"
OBEYED = ("\x1b", "\x9b", "\u202e", "\u2066", "\u200b", "\u2028", "\x7f", "\r", "\x08")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_pin_is_set_on_a_terminal_and_changed_only_with_the_old_one(world: World) -> None:
    first = {"New PIN": PIN, "The same again": PIN}
    short = world.at_terminal("init", answers={"New PIN": "abc", "The same again": "abc"})
    assert short.code == 1
    assert "3 characters" in short.out
    other = world.at_terminal("init", answers={"New PIN": PIN, "The same again": "other"})
    assert other.code == 1
    assert "differ" in other.out
    assert world.at_terminal("init", answers=first).code == 0
    stranger = world.at_terminal("init", answers={"Current PIN": "guess"})
    assert stranger.code == 1
    assert "PIN is wrong" in stranger.out
    changed = world.at_terminal(
        "init", answers={"Current PIN": PIN, "New PIN": "new-pin", "The same again": "new-pin"}
    )
    assert changed.code == 0
    assert PIN not in changed.out
    assert PIN not in (world.state / "operator.json").read_text()


def test_a_grant_needs_the_pin_and_wrong_ones_run_into_a_wait(world: World) -> None:
    world.set_pin()
    granted, denied = world.ask(path="/srv/a"), world.ask(path="/srv/b")
    wrong = world.at_terminal("approve", granted, answers={"PIN: ": "guess"})
    assert wrong.code == 1
    assert "/srv/a" in wrong.out, "the owner sees what is asked before the PIN"
    right = world.at_terminal("approve", granted.lower(), answers={"PIN: ": PIN})
    assert right.code == 0, right
    assert "runs once" in right.out
    assert world.at_terminal("deny", denied, answers={"PIN: ": PIN}).code == 0
    again = world.at_terminal("approve", denied, answers={"PIN: ": PIN})
    assert again.code == 1
    assert "denied already" in again.out
    events = world.json("audit", "log")["events"]
    types = [event["type"] for event in events if event["type"] != CHECKPOINT_TYPE]
    assert types[:2] == ["approval.denied", "approval.granted"]

    third = world.ask()
    for _ in range(FREE_TRIES - 1):
        with pytest.raises(HostError, match="wrong"):
            OperatorPin(world.state).verify("guess")
    last = world.at_terminal("approve", third, answers={"PIN: ": "guess"})
    assert "0 tries are left" in last.out
    locked = world.at_terminal("approve", third, answers={"PIN: ": PIN})
    assert locked.code == 1
    assert "next try is possible in" in locked.out
    assert [one["id"] for one in world.json("pending")] == [third]


def test_what_asks_on_the_terminal_still_prints_one_json_document(world: World) -> None:
    pins = {"New PIN": PIN, "The same again": PIN}
    made = world.at_terminal("init", "--json", answers=pins, piped=True)
    assert made.document == {"state_dir": str(world.state), "pin_set": True}
    for word, state in (("approve", "granted"), ("deny", "denied")):
        done = world.at_terminal(word, world.ask(), "--json", answers={"PIN: ": PIN}, piped=True)
        assert done.document["state"] == state
    wrong = world.at_terminal("deny", world.ask(), "--json", answers={"PIN: ": "x"}, piped=True)
    assert (wrong.code, wrong.error["code"]) == (1, "pin_wrong")


def test_no_terminal_no_pin_no_such_request(world: World) -> None:
    waiting = world.ask()
    for words in (("init",), ("approve", waiting), ("deny", waiting)):
        done = world.run(*words, "--json")
        assert done.code == 1
        assert done.error["code"] == "no_terminal"
    unset = world.at_terminal("approve", waiting, answers={"PIN: ": PIN})
    assert unset.code == 1
    assert "hostwright init" in unset.out
    assert world.run("approve", "NOPE", "--json").error["code"] == "not_found"
    assert [one["id"] for one in world.json("pending")] == [waiting]


def test_nothing_that_an_agent_wrote_drives_the_owners_terminal(world: World) -> None:
    world.set_pin()
    waiting = world.ask(caller=EVIL, tool=f"[red]{EVIL}", command=EVIL)
    shown = {
        "list": world.at_terminal("pending").out,
        "one": world.at_terminal("pending", waiting).out,
        "log": world.at_terminal("audit", "log").out,
        "error": world.at_terminal("pending", EVIL).out,
        "json": world.at_terminal("pending", "--json").out,
    }
    for name, text in shown.items():
        # The terminal's own line ends, and the colours that are ours.
        plain = text.replace("\r\n", "\n")
        for colour in ("\x1b[0m", "\x1b[1m", "\x1b[1;31m", "\x1b[31m", "\x1b[2m"):
            plain = plain.replace(colour, "")
        assert not [char for char in OBEYED if char in plain], (name, plain)
        assert "[red]" in plain or name == "error", "no markup either"
        assert "u202e" in plain, "nothing is dropped"
    assert json.loads(shown["json"])[0]["caller"] == EVIL
    assert r"a\x1b[2J\x9b31mb\u202ec" in shown["one"]
    approved = world.at_terminal("approve", waiting, answers={"PIN: ": PIN})
    assert approved.code == 0
    assert "\u202e" not in approved.out


@given(st.text())
def test_what_is_made_visible_is_printable_and_keeps_what_was(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text
    assert visible(text, lines=True).replace("\n", "").isprintable()


def test_tokens_are_shown_once_and_end_when_revoked(world: World) -> None:
    assert world.json("token") == []
    secret = world.ok("token", "laptop").out.strip()
    assert secret.startswith("hw_")
    assert world.run("token", "laptop", "--json").error["code"] == "exists"
    replaced = world.json("token", "laptop", "--replace")["token"]
    assert replaced != secret
    listed = world.run("token", "--list")
    assert "laptop" in listed.out
    assert secret not in listed.out
    assert [one["name"] for one in world.json("token", "--list")] == ["laptop"]
    assert world.json("token", "laptop", "--revoke") == {"revoked": "laptop"}
    assert world.run("token", "laptop", "--revoke", "--json").error["code"] == "not_found"
    assert world.run("token", "Not A Name", "--json").error["code"] == "bad_name"
    files = [path.read_bytes() for path in world.state.iterdir() if path.is_file()]
    assert not [content for content in files if secret.encode() in content]


def test_the_ledger_is_read_in_pages_and_filtered(world: World) -> None:
    for number in range(5):
        world.ask(caller=f"agent-{number % 2}", number=number)
    page = world.json("audit", "log", "--limit", "2")
    rest = world.json("audit", "log", "--limit", "9", "--cursor", page["next_cursor"])
    seqs = [event["seq"] for event in (*page["events"], *rest["events"])]
    assert seqs == [5, 4, 3, 2, 1]
    assert rest["next_cursor"] is None
    mine = world.json("audit", "log", "--caller", "agent-1", "--type", "approval.*")["events"]
    assert len(mine) == 2
    assert world.json("audit", "log", "--since", "2999-01-01")["events"] == []
    assert world.run("audit", "log", "--since", "soon", "--json").error["code"] == "bad_time"
    assert world.run("audit", "log", "--cursor", "x", "--json").error["code"] == "bad_cursor"
    assert "Older entries: --cursor 4" in world.ok("audit", "log", "--limit", "2").out


def test_a_changed_ledger_fails_and_names_the_first_bad_entry(world: World) -> None:
    for number in range(4):
        world.ask(number=number)
    good = world.json("audit", "verify")
    assert good["ok"]
    assert good["entries"] == 4
    assert "unbroken" in world.ok("audit", "verify").out
    with sqlite3.connect(world.ledger) as db:
        db.execute("DROP TRIGGER entries_no_update")
        db.execute("UPDATE entries SET caller = 'somebody else' WHERE seq = 3")
    db.close()
    bad = world.run("audit", "verify", "--json")
    assert bad.code == 1
    assert bad.document["first_broken_seq"] == 3
    told = world.run("audit", "verify")
    assert told.code == 1
    assert "broken at entry 3" in told.err
    assert "evidence" in told.err


def test_a_ledger_written_anew_fits_itself_but_not_a_checkpoint_kept_elsewhere(
    world: World,
) -> None:
    kept = world.folder / "elsewhere.txt"

    def write(caller: str, *copies: Copy) -> None:
        ledger = Ledger(world.ledger, Checkpoints(lambda: host_signer(world.state), copies))
        ledger.append(Entry(type="t", caller=caller))
        ledger.close()

    write("agent", to_file(kept))
    good = world.json("audit", "verify", "--against", kept)
    assert good["ok"]
    assert good["checkpoints"] == 2, "the one in the file, and the one kept"
    name = world.json("audit", "key")["name"]
    assert kept.read_text().startswith(f"{name}\n")
    for suffix in ("", "-wal", "-shm"):
        world.ledger.with_name(world.ledger.name + suffix).unlink(missing_ok=True)
    write("nobody")
    assert world.json("audit", "verify")["ok"]
    convicted = world.run("audit", "verify", "--against", kept)
    assert convicted.code == 1
    assert "the checkpoint over 1 entries does not fit" in convicted.err
    for text in ("nothing signed\n\n— x AAAA\n", ""):
        kept.write_text(text)
        odd = world.run("audit", "verify", "--against", kept, "--json")
        assert odd.error["code"] == "bad_checkpoints"


def test_without_any_ledger_that_is_what_is_said(world: World) -> None:
    for words in (("audit", "verify"), ("audit", "log")):
        done = world.run(*words, "--json")
        assert done.code == 1
        assert done.error["code"] == "not_found"
