"""Where state, configuration and sockets live, and that nobody else can read them.

root: /var/lib/hostwright, /etc/hostwright, /run/hostwright; everybody else: the XDG folders.
`HOSTWRIGHT_STATE_DIR`, `HOSTWRIGHT_CONFIG_DIR` and `HOSTWRIGHT_RUNTIME_DIR` override each.
Folders are 0700 and owned by the user who runs us; one that belongs to somebody else is refused,
because whoever owns it could replace the ledger and the policy. Few imports: a start in the
background waits for them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hostwright_kit.errors import HostError


@dataclass(frozen=True)
class Paths:
    """The three folders of one installation."""

    config_dir: Path
    state_dir: Path
    runtime_dir: Path

    @property
    def protected(self) -> tuple[Path, ...]:
        """What no file tool may touch."""
        return (self.config_dir, self.state_dir, self.runtime_dir)

    def ensure(self) -> Paths:
        """Create what is missing, check owner and mode of what is there."""
        for folder in self.protected:
            ensure_private(folder)
        return self


def resolve_paths(env: Mapping[str, str] | None = None, *, uid: int | None = None) -> Paths:
    """The folders for this user; nothing is created."""
    env = os.environ if env is None else env
    uid = os.getuid() if uid is None else uid
    if uid == 0:
        config, state, runtime = (
            Path("/etc/hostwright"),
            Path("/var/lib/hostwright"),
            Path("/run/hostwright"),
        )
    else:
        from platformdirs import PlatformDirs  # noqa: PLC0415 - root has no use for it

        dirs = PlatformDirs("hostwright", appauthor=False)
        config, state = dirs.user_config_path, dirs.user_state_path
        # Without a session manager there is no runtime folder that is surely ours.
        runtime = Path(xdg, "hostwright") if (xdg := env.get("XDG_RUNTIME_DIR")) else state / "run"
    return Paths(
        config_dir=_override(env, "HOSTWRIGHT_CONFIG_DIR", config),
        state_dir=_override(env, "HOSTWRIGHT_STATE_DIR", state),
        runtime_dir=_override(env, "HOSTWRIGHT_RUNTIME_DIR", runtime),
    )


def ensure_private(folder: Path) -> None:
    """Create `folder` with mode 0700, or check that it is ours and closed to others."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.stat()
    except OSError as error:
        raise HostError(
            f"The folder {folder} cannot be used: {error.strerror}.",
            fix=f"Create it for this user (mkdir -p {folder} && chmod 700 {folder}), or name "
            "another with HOSTWRIGHT_STATE_DIR, HOSTWRIGHT_CONFIG_DIR or HOSTWRIGHT_RUNTIME_DIR.",
            code="folder_unavailable",
        ) from error
    if not stat.S_ISDIR(info.st_mode):
        raise HostError(f"{folder} is not a folder.", fix="Move it away.", code="folder_unusable")
    if info.st_uid != os.geteuid():
        raise HostError(
            f"The folder {folder} belongs to uid {info.st_uid}, this process runs as uid "
            f"{os.geteuid()}.",
            fix=f"Run as that user, or give the folder to this one: chown -R {os.geteuid()} "
            f"{folder}. Nothing was changed.",
            code="folder_foreign",
        )
    if info.st_mode & 0o077:
        folder.chmod(0o700)


def _override(env: Mapping[str, str], name: str, default: Path) -> Path:
    value = env.get(name)
    if not value:
        return default
    path = Path(value)
    if not path.is_absolute():
        raise HostError(
            f"{name}={value!r} is not an absolute path.", fix="Give it from /.", code="bad_path"
        )
    return path
