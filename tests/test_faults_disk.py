"""A full disk under the ledger: nothing is done that cannot be recorded, and nothing breaks."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .daemon_harness import LINUX, Daemon, Installation, failure

MOUNT = ctypes.CDLL(None, use_errno=True) if LINUX else None
SIZE_BYTES = 4 << 20
MNT_DETACH = 2

pytestmark = pytest.mark.skipif(
    not LINUX or os.getuid() != 0, reason="mounts a small tmpfs, which needs root on Linux"
)


@pytest.fixture
def small_home(home: Installation) -> Iterator[Installation]:
    """An installation whose state lies on a disk of 4 MiB."""
    assert MOUNT is not None
    target = str(home.state).encode()
    options = f"size={SIZE_BYTES},mode=0700".encode()
    if MOUNT.mount(b"tmpfs", target, b"tmpfs", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    try:
        yield home
    finally:
        MOUNT.umount2(target, MNT_DETACH)


def fill(folder: Path) -> Path:
    """Take every byte that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as sink:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    sink.write(b"x" * size)
            except OSError:
                continue
    return filler


async def test_a_full_disk_refuses_acts_and_lets_reads_through(small_home: Installation) -> None:
    home = small_home
    wanted = home.work / "written"
    arguments = {"path": str(wanted), "content": "hello"}
    with home.up() as daemon:
        async with daemon.client() as client:
            await client.call_tool("shell_exec", {"argv": ["true"]})
            for _ in range(2):
                filler = fill(home.state)
                error = await refused(client, arguments)
                assert error["code"] == "ledger_unavailable"
                assert "full" in error["message"]
                assert "Free disk space" in error["fix"]
                # What was refused was not done.
                assert not wanted.exists()
                await only_looking_works(daemon, client)
                filler.unlink()
                written = await client.call_tool("file_write", arguments)
                assert written.structured_content
                assert wanted.read_text() == "hello"
        home.assert_ledger_holds()
        # And the owner can end everything with a full disk, too.
        fill(home.state)
        home.cli("down")
        assert daemon.process.wait(20) == 0
    home.assert_ledger_holds()


async def refused(client: Any, arguments: dict[str, str]) -> dict[str, Any]:
    """The first refusal: a few commits may still fit into what the journal has already taken."""
    for _ in range(30):
        Path(arguments["path"]).unlink(missing_ok=True)
        result = await client.call_tool("file_write", arguments, raise_on_error=False)
        if result.is_error and failure(result)["code"] == "ledger_unavailable":
            return failure(result)
    raise AssertionError("nothing was refused on a full disk")


async def only_looking_works(daemon: Daemon, client: Any) -> None:
    home = daemon.home
    for name, arguments in (
        ("system_health", {}),
        ("mcp_servers", {}),
        ("event_log", {}),
        ("directory_list", {"path": str(home.work)}),
    ):
        assert not (await client.call_tool(name, arguments)).is_error
    stop = await client.call_tool("mcp_server_stop", {"name": "system"}, raise_on_error=False)
    assert failure(stop)["code"] == "ledger_unavailable"
    by_owner = daemon.act("system", "stop")
    assert by_owner.status_code == 409
    assert by_owner.json()["error"]["code"] == "ledger_unavailable"
    assert daemon.server("system")["state"] == "ready"
    # The owner is told that nothing can be recorded.
    assert "full" in daemon.status()["ledger_problem"]
