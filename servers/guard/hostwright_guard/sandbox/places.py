"""The files and folders that a run declares: resolved, judged, and held open.

Each is opened once (O_PATH), and that descriptor is what counts from then on: the warden compares
it with what the sandbox shows, so that a path which is exchanged between here and there is found.
Touches nothing: it only looks and opens.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hostwright_guard.sandbox.capabilities import within
from hostwright_guard.sandbox.mounts import kernel_mounts
from hostwright_kit.errors import HostError

# The kernel's own trees: what is in them is not files, and each sandbox has its own.
KERNEL_TREES = ("/proc", "/sys", "/dev")
# Already in every sandbox.
BASE = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Where programs keep what opens other doors. A folder that was declared does not hand them out
# along the way; who means one of them names it.
KEPT_BACK = (
    ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".netrc", ".git-credentials", ".npmrc",
    ".pypirc", ".password-store", ".config/gcloud", ".config/gh", ".config/hub", ".vault-token",
    ".local/share/keyrings", ".mozilla", ".config/google-chrome", ".config/chromium",
)  # fmt: skip


class Place(NamedTuple):
    """One declared file or folder."""

    path: str
    descriptor: int
    writable: bool
    folder: bool


@dataclass
class Places:
    """All that a run declares, parents before children; close it when the run has begun."""

    places: tuple[Place, ...]
    hidden_folders: tuple[str, ...] = ()
    hidden_files: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    """Folders on the way to what is hidden, which may be written but must not be renamed: the next
    run would look for what is hidden at its old name, and show it at its new one."""

    def close(self) -> None:
        for place in self.places:
            os.close(place.descriptor)
        self.places = ()


def open_places(
    read: Sequence[str],
    write: Sequence[str],
    *,
    protected: Sequence[Path],
    homes: Iterable[Path] | None = None,
) -> Places:
    """Resolve, judge and open; raises `HostError`. Blocking.

    `homes`: folders in which keys are kept back; by default those of every account.
    """
    chosen = {resolve(path): False for path in read} | {resolve(path): True for path in write}
    refuse_kernel_trees(chosen)
    guarded = [os.path.realpath(folder) for folder in protected]
    for path in chosen:
        if within(path, guarded):
            raise HostError(
                f"{path} holds Hostwright's own state, which no sandbox sees.",
                fix="Choose another folder.",
                code="denied",
            )
    if not chosen:
        return Places(())
    kernels = kernel_mounts()
    for path in chosen:
        if within(path, kernels):
            raise _kernels_own(path)
    opened: list[Place] = []
    try:
        for path, writable in sorted(chosen.items()):
            if not writable and within(path, BASE):
                continue
            opened.append(_open(path, writable))
    except BaseException:
        Places(tuple(opened)).close()
        raise
    kept = [*guarded, *kernels, *_kept_back(list(chosen), homes or _all_homes())]
    hidden = [
        path
        for path in dict.fromkeys(kept)
        if any(place.folder and within(path, (place.path,)) for place in opened)
    ]
    return Places(
        tuple(opened),
        tuple(path for path in hidden if Path(path).is_dir()),
        tuple(path for path in hidden if Path(path).is_file()),
        _ways(hidden, opened),
    )


def resolve(path: str) -> str:
    """The path without links and dots; raises `HostError` when there is nothing."""
    if path == "~" or path.startswith("~/"):
        path = str(Path.home()) + path[1:]
    if not path.startswith("/") or "\0" in path:
        raise HostError(
            f"{path[:200]!r} is not an absolute path.",
            fix="Give it from /, or from the home folder as ~/….",
            code="invalid_argument",
        )
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        raise HostError(
            f"{path[:200]} cannot be used: {error.strerror}.",
            fix="Name a file or folder that exists; create a folder to write to first.",
            code="not_found" if isinstance(error, FileNotFoundError) else "denied",
        ) from error


def refuse_kernel_trees(chosen: dict[str, bool]) -> None:
    """Raise for what no sandbox is given; the value says whether it is to be written."""
    for path, writable in chosen.items():
        if path == "/" or within(path, KERNEL_TREES):
            raise _kernels_own(path)
        if writable and (within(path, BASE, ("/etc", "/boot")) or path in ("/var", "/run")):
            raise HostError(
                f"{path} belongs to the system and cannot be written from a sandbox.",
                fix="Let the command write to a folder of its own, then look at what it made.",
                code="denied",
            )


def _open(path: str, writable: bool) -> Place:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"{path} cannot be opened: {error.strerror}.", fix="Try again.", code="denied"
        ) from error
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        os.close(descriptor)
        raise HostError(
            f"{path} is neither a file nor a folder.",
            fix="A socket, pipe, link or device cannot be given to a sandbox.",
            code="denied",
        )
    return Place(path, descriptor, writable, stat.S_ISDIR(mode))


def _kernels_own(path: str) -> HostError:
    return HostError(
        f"{path} cannot be given to a sandbox: it leads to the kernel's own files.",
        fix="Name the folders that are needed, one by one.",
        code="denied",
    )


def _kept_back(chosen: list[str], homes: Iterable[Path]) -> list[str]:
    found: list[str] = []
    for home in homes:
        # Another account's home counts only where something of it is shown.
        if not any(within(str(home), (one,)) or within(one, (str(home),)) for one in chosen):
            continue
        for name in KEPT_BACK:
            path = os.path.realpath(home / name)
            named = any(within(one, (path,)) for one in chosen)
            if not named and Path(path).exists():
                found.append(path)
    return found


def _all_homes() -> list[Path]:
    """The home folders of all accounts; a server that runs as root may be told to show /home."""
    named = [entry.pw_dir for entry in pwd.getpwall()]
    real = (os.path.realpath(home) for home in (str(Path.home()), *named) if home.strip("/"))
    return [Path(home) for home in dict.fromkeys(real)]


def _ways(hidden: Sequence[str], opened: Sequence[Place]) -> tuple[str, ...]:
    """The folders between a place that may be written and what is hidden in it, from the top."""
    found: set[str] = set()
    for path in hidden:
        # Parents stand before children: the last one that contains it is what shows it.
        shown_by = [place for place in opened if place.folder and within(path, (place.path,))][-1]
        if shown_by.writable:
            above = Path(path).parents
            found.update(str(one) for one in above if within(str(one), (shown_by.path,)))
            found.discard(shown_by.path)
    return tuple(sorted(found))
