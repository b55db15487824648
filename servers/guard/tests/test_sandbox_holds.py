"""What a sandbox holds against several runs, other mounts and paths that change under it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hostwright_guard.sandbox.capabilities import Wanted
from hostwright_guard.sandbox.made import Stream
from hostwright_guard.sandbox.mounts import kernel_mounts
from hostwright_guard.sandbox.places import Places, open_places
from hostwright_guard.sandbox.running import Command, Overlay, Sandboxes
from hostwright_guard.sandbox.warden import kernel
from hostwright_kit.errors import HostError


@asynccontextmanager
async def sandboxes(folder: Path) -> AsyncGenerator[Sandboxes]:
    (folder / "run").mkdir(exist_ok=True)
    made = Sandboxes(folder / "run")
    try:
        yield made
    finally:
        await made.close()


async def sh(
    made: Sandboxes, opened: Places, script: str, cwd: Path, overlay: Overlay | None = None
) -> str:
    said = bytearray()

    async def receive(data: bytes, _: Stream) -> None:
        said.extend(data)

    try:
        await made.run(
            Command("/bin/sh", ("sh", "-c", script), str(cwd)),
            Wanted(),
            opened,
            receive,
            overlay=overlay,
        )
    finally:
        opened.close()
    return said.decode()


async def test_what_is_hidden_cannot_be_moved_into_sight(tmp_path: Path) -> None:
    """One run would rename the folder above it, and the next would not find what to hide."""
    home = tmp_path / "home"
    (home / ".config/gcloud").mkdir(parents=True)
    (home / ".config/gcloud/key").write_text("the-key")
    (home / ".config/other").write_text("before")

    def show() -> Places:
        return open_places([], [str(home)], protected=[], homes=[home])

    async with sandboxes(tmp_path) as made:
        said = await sh(made, show(), "mv .config seen; echo after > .config/other", home)
        assert "busy" in said.lower()
        said = await sh(made, show(), "cat */gcloud/key .config/gcloud/key; ls -a", home)
    assert "the-key" not in said
    assert (home / ".config/gcloud/key").read_text() == "the-key"
    assert (home / ".config/other").read_text() == "after\n"


@pytest.fixture
def chroot(tmp_path: Path) -> Sequence[Path]:
    """A folder with a /proc of the machine's in it, as build roots have."""
    (tmp_path / "root/proc").mkdir(parents=True)
    (tmp_path / "root/file").write_text("plain")
    return tmp_path / "root", tmp_path / "root/proc"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
async def test_the_kernels_files_are_not_shown_at_other_places(
    tmp_path: Path, chroot: Sequence[Path]
) -> None:
    root, proc = chroot
    subprocess.run(["mount", "-t", "proc", "proc", str(proc)], check=True)
    try:
        with pytest.raises(HostError, match="kernel's own"):
            open_places([str(proc / "sys")], [], protected=[])
        async with sandboxes(tmp_path) as made:
            opened = open_places([], [str(root)], protected=[])
            said = await sh(made, opened, "cat file; ls proc; cat proc/version", root)
    finally:
        subprocess.run(["umount", str(proc)], check=True)
    assert said.startswith("plain")
    assert "sys" not in said and "Linux version" not in said


def test_kernel_mounts_are_read_in_every_spelling() -> None:
    text = (
        b"22 1 0:21 / /proc rw - proc proc rw\n"
        b"23 1 8:1 / / rw shared:1 - ext4 /dev/root rw\n"
        b"24 23 0:22 / /srv/a\\040b\\134c rw master:1 shared:2 - sysfs none rw\n"
        b"25 23 0:22 / /srv/\xc3\xa4 rw - cgroup2 none rw\n"
    )
    assert kernel_mounts(text) == ("/proc", "/srv/a b\\c", "/srv/ä")


async def test_a_dry_run_is_of_the_folder_that_was_judged(tmp_path: Path) -> None:
    """Between the judgement and the mount somebody puts a link in its place."""
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    for made in (folder, secret):
        made.mkdir()
    (secret / "key").write_text("the-key")
    for layer in ("upper", "work", "shown"):
        (tmp_path / layer).mkdir()
    overlay = Overlay(*(str(tmp_path / name) for name in ("folder", "upper", "work", "shown")))
    async with sandboxes(tmp_path) as made:
        for exchange in (lambda: folder.symlink_to(secret), lambda: secret.rename(folder)):
            opened = open_places([], [str(folder)], protected=[])
            folder.rename(tmp_path / "aside")
            exchange()
            with pytest.raises(HostError) as error:
                await sh(made, opened, "cat key", folder, overlay)
            assert error.value.code in ("conflict", "sandbox_unavailable")
            if folder.is_symlink():
                folder.unlink()
                (tmp_path / "aside").rename(folder)


def test_no_link_leads_out_of_a_sandbox_while_it_is_checked(tmp_path: Path) -> None:
    (tmp_path / "inside/etc").mkdir(parents=True)
    (tmp_path / "inside/link").symlink_to("/etc")
    (tmp_path / "inside/up").symlink_to("..")
    root = os.open(tmp_path / "inside", os.O_PATH)
    try:
        found = kernel.open_beneath(root, "/../etc")
        assert os.path.samestat(os.fstat(found), (tmp_path / "inside/etc").stat())
        os.close(found)
        for path in ("/link/passwd", "/up/inside"):
            with pytest.raises(OSError, match="Too many levels"):
                kernel.open_beneath(root, path)
    finally:
        os.close(root)


async def test_every_accounts_keys_are_kept_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of root's that is told to show all homes."""

    class Account:
        def __init__(self, home: Path) -> None:
            self.pw_dir = str(home)

    homes = [tmp_path / "homes" / name for name in ("ann", "bob")]
    for home in homes:
        (home / ".ssh").mkdir(parents=True)
    monkeypatch.setattr("pwd.getpwall", lambda: [*map(Account, homes), Account(Path("/"))])
    opened = open_places([str(tmp_path / "homes")], [], protected=[])
    assert set(opened.hidden_folders) == {str(home / ".ssh") for home in homes}
    opened.close()
