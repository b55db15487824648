"""The way in: whatever the spelling, nothing outside a root or behind a deny rule is opened."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostwright_kit.errors import HostError
from hostwright_system.files import Roots, default_roots, directory_list, file_read, file_write
from hostwright_system.files import openat2 as calls
from hostwright_system.files.deny import DenyRules, folded

from .files_world import World, refused, world_in


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    with world_in(tmp_path) as made:
        yield made


@pytest.fixture(params=["openat2", "walk"])
def either_call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with the system call and with the portable walk."""
    if request.param == "walk":
        monkeypatch.setattr(calls, "has_openat2", lambda: False)
    elif not calls.has_openat2():
        assert sys.platform != "linux", "this kernel should have openat2"
    return request.param


def text_of(world: World, path: str) -> str | None:
    return file_read(world.roots, path).text


def test_spellings_of_a_file_inside(world: World, either_call: str) -> None:
    (world.root / "a" / "b").mkdir(parents=True)
    (world.root / "a" / "b" / "f").write_text("inside")
    for path in (
        "a/b/f",
        "./a//b/./f",
        "a/../a/b/f",
        "~/a/b/f",
        f"{world.root}/a/b/f",
        f"{world.root}/../root/a/b/f",
        f"//{world.root}/a/b/../b/f",
    ):
        assert text_of(world, path) == "inside", (either_call, path)


def test_links_inside_work_and_links_outside_do_not(world: World, either_call: str) -> None:
    (world.root / "real").mkdir()
    (world.root / "real" / "f").write_text("inside")
    (world.root / "relative").symlink_to("real")
    (world.root / "absolute").symlink_to(world.root / "real")
    (world.root / "chain").symlink_to("absolute/f")
    for path in ("relative/f", "absolute/f", "chain"):
        assert text_of(world, path) == "inside", either_call
    (world.root / "out_relative").symlink_to("../outside")
    (world.root / "out_absolute").symlink_to(world.outside)
    (world.root / "out_file").symlink_to(world.outside / "secret")
    for path in ("out_relative/secret", "out_absolute/secret", "out_file", "../outside/secret"):
        with refused("outside_roots"):
            file_read(world.roots, path)
        with refused("outside_roots"):
            file_write(world.space, path, "overwritten")
    assert (world.outside / "secret").read_text() == "SECRET"


def test_a_folder_with_the_roots_name_as_prefix_is_outside(world: World) -> None:
    sibling = world.root.with_name("root2")
    sibling.mkdir()
    (sibling / "f").write_text("SECRET")
    with refused("outside_roots"):
        file_read(world.roots, str(sibling / "f"))


@pytest.mark.skipif(sys.platform != "linux", reason="magic links are a thing of Linux' /proc")
def test_magic_links_lead_nowhere(world: World) -> None:
    fd = os.open(world.outside / "secret", os.O_RDONLY)
    try:
        for target in ("/proc/self/root", f"/proc/self/fd/{fd}", "/proc/self/cwd"):
            (world.root / "magic").symlink_to(target)
            suffix = f"{world.outside}/secret" if target.endswith("root") else ""
            with pytest.raises(HostError) as caught:
                file_read(world.roots, f"magic{suffix}")
            assert caught.value.code in {"outside_roots", "is_a_folder"}
            (world.root / "magic").unlink()
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "a/\ud800"])
def test_unusable_paths(world: World, path: str) -> None:
    with refused("bad_path"):
        file_read(world.roots, path)


def test_special_files_are_refused_without_waiting(world: World) -> None:
    os.mkfifo(world.root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(".", os.O_RDONLY)
        os.chdir(world.root)  # a socket's path is short
        try:
            listener.bind("socket")
        finally:
            os.fchdir(here)
            os.close(here)
        for name in ("fifo", "socket"):
            with refused("not_a_regular_file"):
                file_read(world.roots, name)
            with refused("not_a_regular_file"):
                file_write(world.space, name, "x")
    with refused("is_a_folder"):
        file_read(world.roots, ".state")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_devices_are_refused(world: World) -> None:
    os.mknod(world.root / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    with refused("not_a_regular_file"):
        file_read(world.roots, "zero")


@pytest.mark.parametrize(
    "name",
    [
        ".ssh/id_ed25519",
        ".ssh/work_laptop",
        ".SSH/Id_Rsa",
        ".s\u200csh/work_laptop",
        ".ssh./work_laptop",
        "\uff0essh/work_laptop",
        "tls/server.key",
        "tls/SERVER.PEM",
        "tls/server.pem ",
        ".aws/credentials",
        ".kube/config",
        ".netrc",
        ".pgpass",
        ".gnupg/private-keys-v1.d/AB.key",
        ".config/google-chrome/Default/Cookies",
        ".config/opencode/opencode.jsonc",
        "project/opencode.json",
        "project/.vscode/mcp.json",
        ".claude.json.hostwright-backup-20261125T000000.000000Z",
        "x.toml.hostwright-backup-20261125T000000.000000Z",
        ".state/suite/ledger.db",
        ".STATE/Suite/ledger.db",
    ],
)
def test_closed_names(world: World, name: str) -> None:
    path = world.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("SECRET")
    for spelled in (name, f"./{name}", f"x/../{name}"):
        with refused("denied") as caught:
            file_read(world.roots, spelled)
        assert "SECRET" not in str(caught[0])
    (world.root / "alias").symlink_to(path)
    (world.root / "folder_alias").symlink_to(path.parent)
    for spelled in ("alias", f"folder_alias/{path.name}"):
        with refused("denied"):
            file_read(world.roots, spelled)
        with refused("denied"):
            file_write(world.space, spelled, "x")
    assert path.read_text() == "SECRET"


@pytest.mark.parametrize(
    "name",
    [".ssh/config", ".ssh/id_rsa.pub", ".ssh/known_hosts", ".env", "keys.py", "monkey", "a.pem.md"],
)
def test_open_names(world: World, name: str) -> None:
    file_write(world.space, name, "content", create_parents=True)
    assert text_of(world, name) == "content"


def test_the_owner_may_open_what_a_rule_closes_but_not_the_suites_own_folders(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    roots = Roots([tmp_path], protected=[state], allow=["*.pem", "state/**"])
    for name in ("cert.pem", "state/x.pem"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("content")
    assert file_read(roots, str(tmp_path / "cert.pem")).text == "content"
    with refused("denied"):
        file_read(roots, str(tmp_path / "state" / "x.pem"))


def test_account_files_by_rule() -> None:
    rules = DenyRules()
    for path in (
        "/etc/shadow",
        "/etc/shadow-",
        "/etc/gshadow",
        "/etc/SHADOW",
        "/etc/ssl/private/x",
    ):
        assert rules.why(path) is not None, path
    assert rules.why("/etc/passwd") is None
    assert rules.why("/home/u/etc/shadow") is None


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/etc/shadow").exists(), reason="needs root and /etc/shadow"
)
def test_the_real_shadow_file_stays_closed(tmp_path: Path) -> None:
    roots = Roots([Path("/etc"), tmp_path], working_folder=tmp_path)
    (tmp_path / "link").symlink_to("/etc/shadow")
    for path in ("/etc/shadow", "/etc/../etc/shadow", "/etc//./shadow", "link"):
        with refused("denied"):
            file_read(roots, path)
    assert "root" in (file_read(roots, "/etc/passwd").text or "")


def test_the_owner_may_allow_a_key_and_close_more(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("certificate")
    (tmp_path / "notes.txt").write_text("private")
    roots = Roots([tmp_path], allow=["ca.pem"], deny=["notes.*"], working_folder=tmp_path)
    assert file_read(roots, "ca.pem").text == "certificate"
    with refused("denied"):
        file_read(roots, "notes.txt")


def test_allow_does_not_open_protected_state(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.db").write_text("x")
    roots = Roots([tmp_path], protected=[tmp_path / "state"], allow=["**"])
    with refused("denied"):
        file_read(roots, str(tmp_path / "state" / "ledger.db"))
    with refused("denied"):
        directory_list(roots, str(tmp_path / "state"))


@pytest.mark.parametrize(
    "content",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk",
        "\n-----BEGIN RSA PRIVATE KEY-----\n",
        "\ufeff-----BEGIN PRIVATE KEY-----\n",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\n",
        "PuTTY-User-Key-File-3: ssh-ed25519\n",
    ],
)
def test_a_key_under_another_name_is_still_a_key(world: World, content: str) -> None:
    (world.root / "notes.txt").write_text(content)
    with refused("denied"):
        file_read(world.roots, "notes.txt")
    (world.root / "doc.md").write_text(f"A key begins like this:\n\n{content}")
    assert content.strip("\n\ufeff") in (text_of(world, "doc.md") or "")


def test_a_hard_link_to_a_closed_file_is_closed(world: World) -> None:
    for closed in (".ssh/work", ".state/suite/ledger.db", ".aws/credentials"):
        path = world.root / closed
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("SECRET")
        alias = world.root / "innocent.txt"
        alias.hardlink_to(path)
        for read in (lambda: file_read(world.roots, "innocent.txt"),):
            with refused("denied") as caught:
                read()
            assert "hard link" in str(caught[0])
        with refused("denied"):
            file_write(world.space, "innocent.txt", "x")
        alias.unlink()


def test_hard_links_of_open_files_stay_open(world: World) -> None:
    (world.root / "cache").mkdir()
    (world.root / "cache" / "package.py").write_text("shared")
    (world.root / "package.py").hardlink_to(world.root / "cache" / "package.py")
    assert text_of(world, "package.py") == "shared"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of two owners")
def test_a_hard_link_to_another_owners_file_is_closed(world: World) -> None:
    theirs = world.root / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    (theirs / "x").hardlink_to(world.outside / "secret")
    with refused("denied"):
        file_read(world.roots, "theirs/x")


@pytest.mark.skipif(sys.platform != "linux", reason="bind mounts")
def test_state_behind_a_bind_mount_is_closed_by_inode(tmp_path: Path) -> None:
    """The path says nothing, the inode does. In a mount namespace of its own; needs root there."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a mount namespace")
    program = f"""
import subprocess, sys
from pathlib import Path
from hostwright_kit.errors import HostError
from hostwright_system.files import Roots, file_read
base = Path({str(tmp_path)!r})
(base / "root/alias").mkdir(parents=True); (base / "state/sub").mkdir(parents=True)
(base / "state/sub/db").write_text("SECRET")
subprocess.run(["mount", "--bind", str(base / "state"), str(base / "root/alias")], check=True)
roots = Roots([base / "root"], protected=[base / "state"])
assert (base / "root/alias/sub/db").read_text() == "SECRET"
try:
    file_read(roots, str(base / "root/alias/sub/db"))
except HostError as error:
    sys.exit(0 if error.code == "denied" else 3)
sys.exit(4)
"""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_roots_by_default(tmp_path: Path) -> None:
    roots = default_roots(tmp_path, tmp_path / "work")
    assert roots[:2] == [tmp_path, tmp_path / "work"]
    assert (Path("/etc") in roots) == (os.geteuid() == 0)
    assert Path("/") not in default_roots(tmp_path, Path("/"))


def test_parents_are_created_inside_only(world: World) -> None:
    file_write(world.space, "new/deep/f", "x", create_parents=True)
    assert (world.root / "new/deep/f").read_text() == "x"
    with refused("not_found"):
        file_write(world.space, "other/f", "x")
    (world.root / "out").symlink_to(world.outside)
    with refused("outside_roots"):
        file_write(world.space, "out/made/f", "x", create_parents=True)
    with refused("denied"):
        file_write(world.space, ".state/suite/made/f", "x", create_parents=True)
    assert not (world.outside / "made").exists()


_PARTS = st.sampled_from(
    [
        "..",
        ".",
        "",
        "a",
        "b",
        "up",
        "out",
        "abs",
        "loop",
        "secret",
        "outside",
        "root",
        ".state",
        "suite",
        ".STATE",
        "SUITE",
        "ledger.db",
        "f",
        "~",
        "proc",
        "self",
        "a\u0301",
        "...",
    ]
)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(parts=st.lists(_PARTS, min_size=1, max_size=9), absolute=st.booleans())
def test_no_spelling_escapes(world: World, parts: list[str], absolute: bool) -> None:
    """Whatever the path: what is read says “inside”, what is written lies inside."""
    root = world.root
    if not (root / "a").exists():
        (root / "a" / "b").mkdir(parents=True)
        (root / "a" / "b" / "f").write_text("inside")
        (root / "f").write_text("inside")
        (root / "a" / "up").symlink_to("../..")
        (root / "out").symlink_to(world.outside)
        (root / "abs").symlink_to(root / "a")
        (root / "loop").symlink_to("loop")
        (world.state / "ledger.db").write_text("SECRET")
    path = "/".join(([str(root)] if absolute else []) + parts)
    try:
        assert file_read(world.roots, path).text in {"inside", ""}
    except HostError as error:
        assert error.fix
    before = sorted(world.outside.iterdir())
    try:
        file_write(world.space, path, "inside", without_backup=True)
    except HostError as error:
        assert error.fix
    assert sorted(world.outside.iterdir()) == before
    assert (world.outside / "secret").read_text() == "SECRET"
    assert (world.state / "ledger.db").read_text() == "SECRET"


@given(st.text(max_size=40))
def test_folding_is_stable_and_keeps_components(path: str) -> None:
    once = folded(path)
    assert folded(once) == once
    assert once.count("/") == path.count("/")
