"""A small server for the kit's own tests: `python -m probe_server`.

Every act leaves a line in the file named by PROBE_ACTS, so that a test sees what was really done
and how often, whatever the answers say.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hostwright_kit.check import Finding
from hostwright_kit.errors import HostError
from hostwright_kit.guard import call_scope
from hostwright_kit.run import serve
from hostwright_kit.runtime import Runtime
from hostwright_kit.server import HostServer


def did(what: str) -> None:
    """Leave a trace that survives this process."""
    handle = os.open(os.environ["PROBE_ACTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(handle, f"{what}\n".encode())
    os.close(handle)


def build(runtime: Runtime) -> HostServer:
    """The server with its tools."""
    app = HostServer("probe", version="1.2.3", instructions="For tests.", runtime=runtime)
    _reads(app)
    _writes(app)
    _faults(app, runtime)

    # Past the decorators on purpose: the guard must take it for the worst.
    @app.tool()
    def ghost(text: str) -> str:  # pyright: ignore[reportUnusedFunction]
        """A tool that never said what it does."""
        did(f"ghost {text}")
        return text

    async def check() -> list[Finding]:
        state = os.environ.get("PROBE_CHECK", "ok")
        if state == "problem":
            return [Finding(what="probe", state="problem", detail="see [policy]", fix="mend it")]
        return [Finding(what="probe", state="degraded", detail="works with less")]

    app.checks.append(check)
    return app


def _reads(app: HostServer) -> None:
    @app.read_tool()
    def look(text: Annotated[str, Field(max_length=20_000_000)] = "here") -> dict[str, int]:
        """Read something."""
        return {"characters": len(text)}

    @app.read_tool()
    async def wait_read(seconds: float) -> str:
        """Take a while."""
        did("wait_read begun")
        await asyncio.sleep(seconds)
        return "waited"

    @app.read_tool()
    def big(characters: Annotated[int, Field(ge=0, le=10_000_000)]) -> str:
        """A long answer."""
        return "x" * characters

    @app.read_tool()
    def undecodable() -> dict[str, str]:
        """A name as a file system may hold it: bytes that are no text."""
        return {"name": b"caf\xe9".decode(errors="surrogateescape")}

    del look, wait_read, big, undecodable


def _writes(app: HostServer) -> None:
    @app.write_tool(destructive=False)
    def note(text: str) -> str:
        """Something that another tool undoes."""
        did(f"note {text}")
        call_scope().undone_by("unnote", text=text)
        return text

    @app.write_tool(destructive=True, read_when="dry_run")
    async def wreck(text: str, *, dry_run: bool = False) -> str:
        """Something grave."""
        did(f"{'would wreck' if dry_run else 'wreck'} {text}")
        return f"wrecked {text}"

    @app.write_tool(destructive=True, secret_names=("vault_word",))
    def login(
        user: str,
        password: Annotated[str, Field(max_length=100)],
        vault_word: Annotated[str, Field(max_length=30)] = "",
        headers: dict[str, str] | None = None,
    ) -> str:
        """Take secrets; fail in the way that `user` says."""
        did(f"login {user}")
        if user == "refused":
            raise HostError(
                f"{password} and {vault_word} are wrong for {headers}.", fix=f"Not {password}."
            )
        if user == "crash":
            raise ValueError(f"no account for {password} with {vault_word} and {headers}")
        return "in"

    @app.write_tool(destructive=False)
    async def slow_async(seconds: float) -> str:
        """Wait where waiting can be cancelled."""
        did("slow_async begun")
        await asyncio.sleep(seconds)
        did("slow_async done")
        return "done"

    @app.write_tool(destructive=False)
    def slow_sync(seconds: float) -> str:
        """Wait in a thread, where nothing can be cancelled."""
        did("slow_sync begun")
        time.sleep(seconds)
        did("slow_sync done")
        return "done"

    @app.write_tool(destructive=False)
    async def hog(seconds: float) -> str:
        """Hold up the event loop, as no tool should."""
        did("hog begun")
        time.sleep(seconds)
        return "done"

    @app.write_tool(destructive=False)
    async def shout() -> str:
        """Log more than a pipe holds."""
        did("shout begun")
        logging.getLogger("probe").error("x" * 500_000)
        return "done"

    del shout, note, wreck, login, slow_async, slow_sync, hog


def _faults(app: HostServer, runtime: Runtime) -> None:
    @app.write_tool(destructive=False)
    def cut_ledger() -> str:
        """Do the act and lose the ledger meanwhile."""
        did("cut_ledger")
        runtime.ledger.close()
        return "done"

    @app.write_tool(destructive=False)
    def unencodable_undo() -> str:
        """Do the act and name an undo that cannot be written down."""
        did("unencodable_undo")
        call_scope().undone_by("unnote", path=Path("/"))
        return "done"

    del cut_ledger, unencodable_undo


if __name__ == "__main__":
    serve("probe", build, version="1.2.3")
