"""What a run may be shown, and what it says about its secrets."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_guard.sandbox.capabilities import (
    Injection,
    Limits,
    check_injection,
    check_variable,
)
from hostwright_guard.sandbox.hiding import MASK, Hiding
from hostwright_guard.sandbox.places import open_places
from hostwright_guard.sandbox.plan import make_plan, variables
from hostwright_guard.sandbox.skeleton import make_skeleton
from hostwright_kit.errors import HostError


def refused(read: list[str], write: list[str], **more: object) -> str:
    with pytest.raises(HostError) as error:
        open_places(read, write, protected=[], **more)  # type: ignore[arg-type]
    return error.value.code


def test_links_are_resolved_and_what_they_lead_to_is_judged(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "kernel").symlink_to("/proc")
    places = open_places([str(tmp_path / "link")], [], protected=[])
    assert [place.path for place in places.places] == [str(tmp_path.resolve() / "folder")]
    places.close()
    assert refused([str(tmp_path / "kernel")], []) == "denied"


@pytest.mark.parametrize("path", ["/", "/proc", "/proc/self", "/sys", "/dev", "/dev/null"])
def test_the_kernels_trees_are_not_given(path: str) -> None:
    assert refused([path], []) == "denied"
    assert refused([], [path]) == "denied"


@pytest.mark.parametrize("path", ["/usr", "/etc", "/var", "/usr/bin"])
def test_the_system_is_not_written(path: str) -> None:
    assert refused([], [path]) == "denied"


def test_what_is_no_file_or_folder_is_not_given(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refused([str(tmp_path / "pipe")], []) == "denied"
    assert refused([str(tmp_path / "missing")], []) == "not_found"
    assert refused(["relative"], []) == "invalid_argument"
    assert refused(["/tmp/a\0b"], []) == "invalid_argument"


def test_the_suites_own_folders_are_refused_or_hidden(tmp_path: Path) -> None:
    state = tmp_path / "work" / "state"
    state.mkdir(parents=True)
    with pytest.raises(HostError, match="own state"):
        open_places([str(state)], [], protected=[state])
    places = open_places([], [str(tmp_path / "work")], protected=[state])
    assert places.hidden_folders == (str(state),)
    places.close()


def test_keys_are_kept_back_unless_they_are_named(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".netrc").write_text("machine x")
    home = open_places([str(tmp_path)], [], protected=[], homes=[tmp_path])
    assert home.hidden_folders == (str(tmp_path / ".ssh"),)
    assert home.hidden_files == (str(tmp_path / ".netrc"),)
    home.close()
    named = open_places([str(tmp_path), str(tmp_path / ".ssh")], [], protected=[], homes=[tmp_path])
    assert named.hidden_folders == ()
    named.close()


def test_no_secret_stands_on_a_command_line(tmp_path: Path) -> None:
    etc = make_skeleton(tmp_path)
    places = open_places([], [], protected=[])
    plan = make_plan(
        places,
        Limits(),
        cwd="/tmp",
        secret_files={"name": b"the-secret"},
        names=("a.example",),
        etc=etc,
        as_root=False,
    )
    assert "the-secret" not in " ".join(plan.arguments)
    assert b"the-secret" in plan.data
    assert variables({"KEY": "the-secret"})["KEY"] == "the-secret"
    assert plan.arguments[-2:] == ("--chdir", "/tmp")
    assert "--unshare-net" in plan.arguments and "--share-net" not in plan.arguments


def test_the_skeleton_tells_nothing_of_this_machine(tmp_path: Path) -> None:
    etc = make_skeleton(tmp_path)
    assert (etc / "passwd").read_text().count("\n") == 1
    assert "nameserver 127.0.0.1" in (etc / "resolv.conf").read_text()
    for name in ("shadow", "hostname", "ssh", "fstab", "sudoers", "hostwright"):
        assert not (etc / name).exists()
    stale = tmp_path / "sandbox-etc-999999999-x"
    stale.mkdir()
    assert make_skeleton(tmp_path).exists() and etc.exists() and not stale.exists()


@pytest.mark.parametrize("name", ["PATH", "HOME", "LD_PRELOAD", "1A", "A-B", "A=B", "", "A\0"])
def test_variables_that_steer_the_sandbox_are_refused(name: str) -> None:
    with pytest.raises(HostError):
        check_variable(name)


@pytest.mark.parametrize(
    "header", ["Host", "content-length", "X\r\nY", "", "A B", "Transfer-Encoding"]
)
def test_a_credential_is_a_header_and_nothing_more(header: str) -> None:
    with pytest.raises((HostError, ValueError)):
        check_injection(Injection(domain="a.example", entry="key", header=header))
    with pytest.raises(ValueError, match="prefix"):
        Injection(domain="a.example", entry="key", prefix="a\r\nb")


SECRETS = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=4, max_size=20)


@given(
    value=SECRETS,
    around=st.tuples(st.binary(max_size=30), st.binary(max_size=30)),
    cuts=st.lists(st.integers(0, 90), max_size=6),
)
def test_a_secret_is_hidden_however_it_is_cut(
    value: str, around: tuple[bytes, bytes], cuts: list[int]
) -> None:
    data = around[0] + value.encode() + around[1]
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    hiding = Hiding([value])
    shown = b"".join(hiding.feed(data[start:end]) for start, end in itertools.pairwise(places))
    shown += hiding.rest()
    assert value.encode() not in shown.replace(MASK, b"")
    assert MASK in shown


@given(chunks=st.lists(st.binary(max_size=40), max_size=8))
def test_what_holds_no_secret_comes_through_whole(chunks: list[bytes]) -> None:
    hiding = Hiding(["a-secret-that-is-not-there"])
    assert b"".join(map(hiding.feed, chunks)) + hiding.rest() == b"".join(chunks)


def test_the_usual_encodings_are_hidden_too() -> None:
    hiding = Hiding(["p/ss word+1"])
    texts = (b"cC9zcyB3b3JkKzE=", b"702f737320776f72642b31", b"p%2Fss%20word%2B1")
    for text in texts:
        assert hiding.feed(text) + hiding.rest() == MASK
