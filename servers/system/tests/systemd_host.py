"""A real systemd for tests: PID 1 of its own namespaces, out of this machine's own /usr.

    with SystemdHost(tmp_path) as host:
        host.add_unit("hello.service", "[Service]\\nExecStart=/bin/sleep 100\\n")
        host.run("systemctl", "start", "hello")

`systemd_boot.py` beside this file does the work and says what is made and who removes it. Needs
Linux, root, and on Debian the packages in `DEBIAN_PACKAGES`.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pytest

DEBIAN_PACKAGES = ("systemd", "dbus", "dbus-user-session")
NEEDED_FILES = (
    "/usr/lib/systemd/systemd",
    "/usr/bin/dbus-daemon",
    "/usr/bin/journalctl",
    "/usr/bin/nsenter",
    "/usr/lib/systemd/user/dbus.socket",
)
BOOT_TIMEOUT_S = 60.0


class SystemdHostError(Exception):
    """No systemd could be booted; `refused` when this machine does not allow it to this user."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


def require_host() -> None:
    """Raise with one line that says what is missing."""
    if sys.platform != "linux":
        raise SystemdHostError(f"a systemd needs Linux, this is {sys.platform}", refused=True)
    if os.geteuid() != 0:
        raise SystemdHostError(
            f"booting a systemd needs root, this is uid {os.geteuid()}", refused=True
        )
    missing = [path for path in NEEDED_FILES if not Path(path).exists()]
    if missing:
        packages = " ".join(DEBIAN_PACKAGES)
        raise SystemdHostError(f"{', '.join(missing)} missing: apt-get install {packages}")


class SystemdHost:
    """A booted systemd; a context manager, which leaves nothing behind."""

    def __init__(self, tmp_path: Path, binds: Sequence[Path] = ()) -> None:
        """`binds`: folders of this machine that are seen inside, read-only, at the same path."""
        self.folder = tmp_path
        self._binds = binds
        self.pid = 0
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SystemdHost:
        require_host()
        root = self.folder / "root"
        root.mkdir()
        with (self.folder / "boot.log").open("wb") as log:
            # Its standard input is the lifeline: the kernel closes it however we end.
            self._keeper = subprocess.Popen(
                [
                    *(sys.executable, "-I", str(Path(__file__).with_name("systemd_boot.py"))),
                    *(str(root), *map(str, self._binds)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.pid = self._answer()
            self._wait_until_booted()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End PID 1, and with it every process and mount; wait until the cgroups are gone too."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.close()
        keeper.stdout.close()
        try:
            keeper.wait(timeout=15)
        finally:
            keeper.kill()
            keeper.wait()
            (self.folder / "root").rmdir()

    @property
    def keeper_pid(self) -> int:
        assert self._keeper is not None
        return self._keeper.pid

    @property
    def root(self) -> Path:
        """The file system inside, as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def bus_address(self) -> str:
        return f"unix:path={self.root}/run/dbus/system_bus_socket"

    @property
    def journal_directory(self) -> Path:
        return self.root / "var/log/journal"

    def user_bus_address(self) -> str:
        """The bus of root's own manager, which is started for it."""
        self.run("systemctl", "start", "user@0.service")
        return f"unix:path={self.root}/run/user/0/bus"

    def add_unit(self, name: str, text: str, *, reload: bool = True) -> Path:
        """Write a unit file (or replace it) and let systemd read it."""
        path = self.root / "etc/systemd/system" / name
        path.write_text(text)
        if reload:
            self.run("systemctl", "daemon-reload")
        return path

    def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        check: bool = True,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program inside; raises with its error output when it fails and CHECK is set."""
        result = subprocess.run(
            ["nsenter", f"--target={self.pid}", "-m", "-u", "-i", "-n", "-p", "-C", "--", *argv],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        if check and result.returncode != 0:
            errors = result.stderr.decode(errors="replace")
            raise AssertionError(f"{argv} ended with {result.returncode}: {errors}")
        return result

    def sync_journal(self) -> None:
        """Wait until journald has written all that it was given."""
        self.run("journalctl", "--sync")

    def _answer(self) -> int:
        assert self._keeper is not None
        assert self._keeper.stdout is not None
        stdout = self._keeper.stdout
        ready, _, _ = select.select([stdout], [], [], BOOT_TIMEOUT_S)
        line = stdout.readline() if ready else b""
        if not line:
            log = (self.folder / "boot.log").read_text(errors="replace")[-2_000:]
            raise SystemdHostError(f"the keeper gave no answer: {log.strip()}")
        answer = json.loads(line)
        if "error" in answer:
            raise SystemdHostError(
                f"systemd could not be booted: {answer['error']}", refused=answer["refused"]
            )
        return int(answer["pid"])

    def _wait_until_booted(self) -> None:
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        state = "not reachable"
        while time.monotonic() < deadline:
            if not self.root.joinpath("run").is_dir():
                raise SystemdHostError("systemd ended while it booted")
            if (self.root / "run/systemd/private").exists():
                answer = self.run("systemctl", "is-system-running", "--wait", check=False)
                state = answer.stdout.decode().strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.02)
        raise SystemdHostError(f"systemd did not finish to boot: {state or 'no state'}")


@pytest.fixture(scope="module")
def systemd_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdHost]:
    """One booted systemd for a module's tests.

    What can be had must be there: missing packages and a boot that goes wrong fail the tests.
    Without root, without Linux, or in a container that may not make namespaces and cgroups, they
    are skipped with the reason in the report.
    """
    host = SystemdHost(tmp_path_factory.mktemp("systemd"))
    try:
        host.__enter__()
    except SystemdHostError as error:
        if error.refused:
            pytest.skip(f"systemd tests not run: {error}")
        pytest.fail(f"systemd tests: {error}", pytrace=False)
    try:
        yield host
    finally:
        host.close()
