"""Real processes for tests: started here, ended here by their own pid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

# Without root, a user namespace gives the right to make the other namespaces.
AS_ROOT: tuple[str, ...] = () if os.geteuid() == 0 else ("--map-root-user",)


@contextmanager
def running(
    arguments: Sequence[str], *, env: dict[str, str] | None = None, ready: bool = True
) -> Generator[subprocess.Popen[str]]:
    """A child that lives for the block; `ready` waits for its first line."""
    child = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    try:
        if ready:
            assert child.stdout is not None
            assert child.stdout.readline(), "the child ended before it was ready"
        yield child
    finally:
        child.kill()
        child.communicate()


def python(code: str, *arguments: str) -> list[str]:
    """A Python child that runs `code`, then says it is ready and waits for its end."""
    return [sys.executable, "-c", f"{code}\nprint('ready', flush=True)\ninput()", *arguments]


def in_namespaces(code: str, *kinds: str) -> Any:
    """What `code` prints as JSON, run in fresh namespaces (`--mount`, `--net`, …)."""
    done = subprocess.run(
        ["unshare", *AS_ROOT, *kinds, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
