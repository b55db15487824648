"""Evidence through the front door, and a third party that checks it with Python and the key alone.

The script runs outside of our environment (`python3 -I`), on what the commands wrote and on what a
forger made of it.
"""

from __future__ import annotations

import base64
import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostwright_kit import offline_audit
from hostwright_kit.archives import FOLDER
from hostwright_kit.host_key import host_signer
from hostwright_kit.ledger_file import CHECKPOINT_TYPE

from .cli_world import PROGRAM
from .evidence_world import ENTRIES, SIGNED, Evidence


@pytest.fixture
def world(tmp_path: Path) -> Evidence:
    found = Evidence(tmp_path)
    found.append(ENTRIES)
    return found


def test_a_third_party_checks_proofs_and_an_export_with_python_and_the_key_alone(
    world: Evidence,
) -> None:
    world.hand_over()
    first = world.their / "first"
    first.write_text(world.notes()[0])
    for seq in (1, ENTRIES):
        world.ok("audit", "prove", str(seq), "--out", world.their / f"{seq}.proof")
    world.ok("audit", "consistency", first, "--out", world.their / "grown.proof")
    proven = world.check("proof", "1.proof", f"{ENTRIES}.proof", "grown.proof")
    assert proven.code == 0, proven
    assert proven.out.count("PROVEN") == 3
    assert '"n":0' in proven.out
    assert "begins with all 300 of the older one" in proven.out

    world.ok("audit", "rotate", "--keep", "200")
    assert list(world.state.joinpath(FOLDER).iterdir())
    (world.their / "now").write_text(world.ok("audit", "checkpoint").out)
    world.ok("audit", "export", "--out", world.their / "all.jsonl")
    whole = world.check("export", "all.jsonl", "first", "now", world.kept)
    assert whole.code == 0, whole
    # By the line instead of a file; and the proofs of before still hold.
    line = (world.their / "key").read_text().strip()
    assert world.check("proof", "1.proof", key=line).code == 0
    moved = world.their / "moved.proof"
    moved.write_text(world.ok("audit", "prove", "1").out)
    assert world.check("proof", moved).code == 0
    assert moved.read_text() == (world.their / "1.proof").read_text()


def _other(text: str, line: int, change: Callable[[str], str]) -> str:
    lines = text.split("\n")
    lines[line] = change(lines[line])
    return "\n".join(lines)


def _entry(change: bytes, into: bytes) -> Callable[[str], str]:
    def changed(line: str) -> str:
        word, _, blob = line.partition(" ")
        body = base64.b64decode(blob)
        assert change in body
        return f"{word} {base64.b64encode(body.replace(change, into)).decode()}"

    return changed


def _flipped(blob: str) -> str:
    data = bytearray(base64.b64decode(blob))
    data[0] ^= 1
    return base64.b64encode(data).decode()


FORGED_INCLUSION: dict[str, Callable[[str], str]] = {
    "another entry": lambda t: _other(t, 1, _entry(b'"n":299', b'"n":298')),
    "another number": lambda t: _other(t, 1, _entry(b'"seq":300', b'"seq":299')),
    "another place": lambda t: t.replace("index 299", "index 298"),
    "a place beyond the end": lambda t: t.replace("index 299", "index 300"),
    "a place that is none": lambda t: t.replace("index 299", "index -1"),
    "a hash changed": lambda t: _other(t, 3, _flipped),
    "a hash left out": lambda t: t.replace(t.split("\n")[3] + "\n", ""),
    "a hash too many": lambda t: _other(t, 3, lambda line: f"{line}\n{line}"),
    "two hashes swapped": lambda t: _swapped(t, 3, 4),
    "no hash": lambda t: "\n".join([*t.split("\n")[:3], t[t.index("\n\n") :].lstrip("\n")]),
    "another size": lambda t: t.replace("\n300\n", "\n301\n"),
    "another root": lambda t: t.replace(_root(t), _flipped(_root(t))),
    "another signature": lambda t: t.replace(_signature(t), _flipped_signature(t)),
    "no signature": lambda t: t[: t.index("—")],
    "nothing": lambda _: "",
    "not base64": lambda t: _other(t, 3, lambda line: "*" + line[1:]),
    "another kind": lambda t: t.replace("tlog-proof@v1", "tlog-proof@v2"),
}


def _parts(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"


def _swapped(text: str, one: int, two: int) -> str:
    lines = text.split("\n")
    lines[one], lines[two] = lines[two], lines[one]
    return "\n".join(lines)


def _root(text: str) -> str:
    return text[text.index("\n\n") + 2 :].split("\n")[2]


def _signature(text: str) -> str:
    return text[text.rindex(" ") + 1 :].strip()


def _flipped_signature(text: str) -> str:
    data = bytearray(base64.b64decode(_signature(text)))
    data[40] ^= 1
    return base64.b64encode(data).decode()


def test_every_forged_proof_is_refused(world: Evidence, tmp_path: Path) -> None:
    world.hand_over()
    good = world.ok("audit", "prove", "300").out
    # The news of the first checkpoint is an entry as well.
    grown = world.ok("audit", "consistency", str(SIGNED), str(2 * SIGNED + 1)).out
    (world.their / "good").write_text(good)
    (world.their / "grown").write_text(grown)
    assert world.check("proof", "good", "grown").code == 0
    forged = {name: change(good) for name, change in FORGED_INCLUSION.items()}
    head, one, by_one, two, by_two = grown.strip("\n").split("\n\n")
    forged |= {
        "grown: a hash changed": _other(grown, 1, _flipped),
        "grown: a hash left out": grown.replace(grown.split("\n")[1] + "\n", ""),
        "grown: a hash too many": _other(grown, 1, lambda line: f"{line}\n{line}"),
        "grown: the wrong way round": _parts(head, two, by_two, one, by_one),
        "grown: twice the same": _parts(head, one, by_one, one, by_one),
        "grown: no newer one": _parts(head, one, by_one),
        "grown: a signature of the other": _parts(head, one, by_two, two, by_one),
        "grown: an older root": grown.replace(_root(grown), _flipped(_root(grown))),
    }
    # By a key of the same name, which the forger has made.
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    other = host_signer(stranger)
    text = good[good.index("\n\n") + 2 : good.rindex("\n\n")] + "\n"
    forged["another key"] = good[: good.index("\n\n") + 2] + other.sign(text)
    unchanged = [name for name, proof in forged.items() if proof in (good, grown)]
    assert not unchanged
    names = [f"{number}.forged" for number in range(len(forged))]
    for name, proof in zip(names, forged.values(), strict=True):
        (world.their / name).write_text(proof)
    done = world.check("proof", *names, "good")
    assert done.code == 1
    verdicts = [line.startswith("NOT PROVEN") for line in done.out.splitlines() if "PROVEN" in line]
    accepted = [name for name, refused in zip(forged, verdicts, strict=False) if not refused]
    assert not accepted
    assert verdicts == [True] * len(forged) + [False]
    assert world.check("proof", "good", key=other.verifier.line()).code == 1
    assert world.check("proof", "good", key="nonsense").code == 2
    assert world.check("judge", "good").code == 2


@settings(max_examples=100, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), char=st.characters(exclude_categories=["Cs"]))
def test_no_single_character_of_a_proof_can_be_another(place: float, char: str) -> None:
    for proof in _made().proofs:
        at = int(place * len(proof))
        if proof[at] != char:
            with pytest.raises((offline_audit.NotProvenError, ValueError)):
                offline_audit.check_proof(_made().key, proof[:at] + char + proof[at + 1 :])


class _Made:
    """Proofs that are made once for many examples."""

    def __init__(self, folder: Path) -> None:
        world = Evidence(folder)
        world.append(2 * SIGNED)
        self.key = offline_audit.Key(world.ok("audit", "key").out)
        self.proofs = [
            world.ok("audit", "prove", "77").out,
            world.ok("audit", "consistency", str(SIGNED)).out,
        ]


_kept: list[_Made] = []


@pytest.fixture(scope="module", autouse=True)
def made(tmp_path_factory: pytest.TempPathFactory) -> None:
    _kept[:] = [_Made(tmp_path_factory.mktemp("made"))]


def _made() -> _Made:
    return _kept[0]


Lines = list[bytes]


def _rewritten(lines: Lines) -> Lines:
    return [line.replace(b'"caller":"agent"', b'"caller":"other"') for line in lines]


def _deleted(lines: Lines) -> Lines:
    rest = lines[:8] + lines[9:]
    return [
        line.replace(b'"seq":%d,' % (n + 1 if n > 8 else n), b'"seq":%d,' % n)
        for n, line in enumerate(rest, 1)
    ]


FORGED_EXPORT: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "edited": (
        lambda ls: [ls[0].replace(b'"n":0', b'"n":1'), *ls[1:]],
        "entries 1 to 300",
    ),
    "edited later": (
        lambda ls: [*ls[:400], ls[400].replace(b'"n":', b'"m":'), *ls[401:]],
        "entries 301 to",
    ),
    "deleted": (lambda ls: ls[:8] + ls[9:], "line 9 holds entry 10"),
    "deleted and numbered anew": (_deleted, "entries 1 to 300"),
    "reordered": (lambda ls: [ls[1], ls[0], *ls[2:]], "line 1 holds entry 2"),
    "reordered and numbered anew": (
        lambda ls: [
            ls[1].replace(b'"seq":2,', b'"seq":1,'),
            ls[0].replace(b'"seq":1,', b'"seq":2,'),
            *ls[2:],
        ],
        "entries 1 to 300",
    ),
    "cut": (lambda ls: ls[:-3], "the rest was left out"),
    "cut before the first checkpoint": (lambda ls: ls[:290], "the rest was left out"),
    "torn": (lambda ls: [*ls[:-1], ls[-1].rstrip(b"\n")], "is torn"),
    "written anew": (_rewritten, "entries 1 to 300"),
    "one twice": (lambda ls: [*ls, ls[-1]], "holds entry"),
    "one without a number": (lambda ls: [b"{}\n", *ls], "has no number"),
    "one that is no entry": (lambda ls: [b"[]\n", *ls], "has no number"),
    "one that is no JSON": (lambda ls: [b"x\n", *ls], "Expecting value"),
    "nothing": (lambda _: [], "the rest was left out"),
}


@pytest.mark.parametrize("how", FORGED_EXPORT)
def test_a_forged_export_does_not_fit_the_checkpoints(
    forged_from: tuple[Evidence, Lines], how: str
) -> None:
    world, lines = forged_from
    forge, why = FORGED_EXPORT[how]
    forged = forge(lines)
    assert forged != lines
    (world.their / "forged.jsonl").write_bytes(b"".join(forged))
    done = world.check("export", "forged.jsonl", "checkpoints")
    assert done.code == 1
    assert why in done.out


@pytest.fixture(scope="module")
def forged_from(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evidence, Lines]:
    world = Evidence(tmp_path_factory.mktemp("export"))
    world.append(ENTRIES)
    world.hand_over()
    world.ok("audit", "export", "--out", world.their / "good.jsonl")
    lines = (world.their / "good.jsonl").read_bytes().splitlines(keepends=True)
    checkpoints = world.their / "checkpoints"
    checkpoints.write_text(world.kept.read_text())
    good = world.check("export", "good.jsonl", "checkpoints")
    assert good.code == 0, good
    return world, lines


def test_checkpoints_that_contradict_each_other_prove_nothing(
    forged_from: tuple[Evidence, Lines],
) -> None:
    world, _ = forged_from
    signer = host_signer(world.state)
    one = signer.verifier.open_checkpoint(world.notes()[0])
    (world.their / "other").write_text(
        signer.sign(one.model_copy(update={"root": bytes(32)}).text())
    )
    (world.their / "empty").write_text("")
    for files in (("checkpoints", "other"), ("other",), ("empty",), ("good.jsonl",), ("nowhere",)):
        done = world.check("export", "good.jsonl", *files)
        assert done.code == 1, files
    assert "contradict" in world.check("export", "good.jsonl", "checkpoints", "other").out


def test_a_checkpoint_is_signed_now_and_only_when_there_is_something(world: Evidence) -> None:
    (world.config / "config.toml").write_text(f'[ledger]\ncheckpoint_file = "{world.kept}"\n')
    before = world.notes()
    same = world.json("audit", "checkpoint")
    assert same["note"].strip() == before[-1].strip(), "all was signed when the ledger was closed"
    world.append(5)
    count = len(world.notes())
    assert world.ask()
    found = world.json("audit", "checkpoint")
    assert found["size"] > same["size"]
    assert world.notes()[-1].strip() == found["note"].strip()
    assert len(world.notes()) == count + 1
    assert world.ok("audit", "checkpoint").out.strip() == found["note"].strip()
    told = world.json("audit", "log", "--type", CHECKPOINT_TYPE)["events"][0]
    assert (told["detail"]["size"], told["detail"]["root"]) == (found["size"], found["root"])
    assert world.json("audit", "verify", "--against", world.kept)["ok"]


def test_what_cannot_be_proven_says_what_to_do(world: Evidence) -> None:
    def refused(*words: str | Path) -> tuple[str, str]:
        done = world.run("audit", *words, "--json")
        assert done.code == 1, done
        return done.error["code"], done.error["message"] + done.error["fix"]

    assert refused("prove", "nonsense")[0] == "not_found"
    waiting = world.ask()
    assert waiting
    last = world.json("audit", "log", "--limit", "1")["events"][0]
    code, told = refused("prove", last["id"])
    assert (code, "hostwright audit checkpoint" in told) == ("not_covered", True)
    assert refused("consistency", "17")[0] == "not_covered"
    assert refused("consistency", world.kept)[0] == "bad_checkpoints"
    assert f"{world.kept}@SIZE" in refused("consistency", world.kept)[1]
    assert world.json("audit", "consistency", f"{world.kept}@{SIGNED}")["old_size"] == SIGNED
    assert refused("consistency", world.folder / "nowhere")[0] == "bad_checkpoints"
    assert refused("consistency", str(2 * SIGNED + 1), str(SIGNED))[0] == "not_consistent"
    assert world.run("audit", "export", "--format", "csv", "--json").code == 2
    assert world.run("audit", "export", "--out", world.state, "--json").code == 2
    assert world.run("audit", "rotate", "--keep", "0", "--json").code == 2
    assert refused("export", "--since", "soon", "--out", world.folder / "x")[0] == "bad_time"
    assert not (world.folder / "x").exists()


def test_exports_hold_what_the_filters_say(world: Evidence) -> None:
    world.append(3, caller='=HYPERLINK("x")')
    target = world.folder / "out"
    target.write_text("before")
    done = world.json("audit", "export", "--caller", "agent", "--out", target)
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert (done["entries"], done["whole"]) == (ENTRIES, False)
    assert (done["first"], done["last"]) == (1, lines[-1]["seq"])
    assert [one["detail"]["n"] for one in lines] == list(range(ENTRIES))
    assert target.stat().st_mode & 0o777 == 0o600
    assert world.ok("audit", "export", "--caller", "agent").out == target.read_text()
    world.ok("audit", "rotate", "--keep", "100")
    assert world.ok("audit", "export", "--caller", "agent").out == target.read_text()
    world.ok("audit", "export", "--format", "csv", "--type", "t", "--out", target)
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == ENTRIES + 3
    assert json.loads(rows[5]["detail"]) == {"n": 5}
    assert rows[-1]["caller"] == '\'=HYPERLINK("x")', "no formula in a spreadsheet"
    assert len(rows[0]["hash"]) == 64


def test_an_archive_that_is_elsewhere_is_told(world: Evidence) -> None:
    moved = world.json("audit", "rotate", "--keep", "200")
    assert moved["first"] == 1
    archive = Path(moved["file"])
    archive.rename(world.folder / "cold.db")
    failed = world.run("audit", "export", "--out", world.folder / "x", "--json")
    assert failed.error["code"] == "archive_missing"
    assert not (world.folder / "x").exists()
    assert world.run("audit", "verify").code == 1
    known = world.json("audit", "verify", "--without-archives", "--against", world.kept)
    assert (known["ok"], known["not_here"]) == (True, moved["entries"])
    page = world.json("audit", "log", "--limit", "500")
    assert archive.name in page["missing"]
    (world.folder / "cold.db").rename(archive)
    assert world.json("audit", "verify")["not_here"] == 0


FULL = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_an_export_that_finds_no_room_leaves_what_was_there(world: Evidence) -> None:
    target = world.folder / "out"
    target.write_text("before")
    # The limit on a file's size stands in for a full disk.
    argv = [sys.executable, "-c", FULL, PROGRAM, "audit", "export", "--out", target, "--json"]
    full = subprocess.run(
        argv, env=world.env(), cwd=world.work, capture_output=True, text=True, check=False
    )
    assert full.returncode == 1, full
    assert json.loads(full.stdout)["error"]["code"] == "not_written"
    assert target.read_text() == "before"
    assert not list(world.folder.glob(".*.tmp"))
    assert world.json("audit", "export", "--out", target)["bytes"] == target.stat().st_size
