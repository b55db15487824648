"""What the tests stand on: server processes over one installation, and projects made of text."""

from __future__ import annotations

import os
import sqlite3
import sys
import textwrap
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from mcp_types import CallToolResult, Implementation

from hostwright_codegraph.indexing.worker import index
from hostwright_codegraph.store.kinds import EDGE_WORDS
from hostwright_codegraph.store.places import Places
from hostwright_kit.vouching import ERROR_META

Era = Literal["legacy", "2026-07-28"]
ERAS: tuple[Era, ...] = ("legacy", "2026-07-28")


class World:
    """The folders of one installation, with a project in it."""

    def __init__(self, folder: Path) -> None:
        self.state, self.config, self.runtime, self.work = (
            folder / name for name in ("state", "config", "run", "work")
        )
        for path in (self.state, self.config, self.runtime, self.work):
            path.mkdir(mode=0o700)
        self.project = self.work / "shop"
        self.configure(f'[codegraph]\nroots = ["{self.work}"]\n')

    @property
    def env(self) -> dict[str, str]:
        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith("HOSTWRIGHT_")
        }
        return {
            **inherited,
            "HOSTWRIGHT_STATE_DIR": str(self.state),
            "HOSTWRIGHT_CONFIG_DIR": str(self.config),
            "HOSTWRIGHT_RUNTIME_DIR": str(self.runtime),
        }

    def configure(self, text: str) -> None:
        (self.config / "config.toml").write_text(text)

    @asynccontextmanager
    async def client(self, *, era: Era = "2026-07-28") -> AsyncGenerator[Client[Any]]:
        """A client with a server process of its own."""
        transport = StdioTransport(
            sys.executable,
            ["-m", "hostwright_kit.run", "codegraph"],
            env=self.env,
            cwd=str(self.work),
            keep_alive=False,
        )
        info = Implementation(name="agent", version="1")
        async with Client(transport, mode=era, client_info=info) as client:
            yield client


def write(root: Path, files: Mapping[str, str]) -> None:
    """A project made of text."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))


class Indexed:
    """A project's index, made in this process and looked at directly."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.places = Places(state)
        self.outcome = index(self.places, root, say=False)

    def again(self) -> None:
        """Bring it up to date."""
        self.outcome = index(self.places, self.root, say=False)

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        db = sqlite3.connect(self.places.database(self.root))
        try:
            return db.execute(sql, values).fetchall()
        finally:
            db.close()

    def edges(self, *kinds: str) -> set[tuple[str, str, str]]:
        """`(from, kind, to)`, each end as path::name."""
        return {
            (source, EDGE_WORDS[kind], target)
            for source, kind, target in self.rows(
                "SELECT f.path || '::' || s.qual, edge.kind, g.path || '::' || t.qual FROM edge "
                "JOIN symbol s ON s.id=src JOIN file f ON f.id=s.file "
                "JOIN symbol t ON t.id=dst JOIN file g ON g.id=t.file"
            )
            if not kinds or EDGE_WORDS[kind] in kinds
        }

    def unresolved(self) -> set[tuple[str, str]]:
        """`(from, what)`."""
        return set(
            self.rows(
                "SELECT f.path || '::' || s.qual, text FROM unresolved "
                "JOIN symbol s ON s.id=src JOIN file f ON f.id=s.file"
            )
        )

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """The whole index without its ids, to be compared with another."""
        ends = (
            "JOIN symbol s ON s.id=src JOIN file f ON f.id=s.file "
            "JOIN symbol t ON t.id=dst JOIN file g ON g.id=t.file"
        )
        return {
            "files": sorted(
                self.rows(
                    "SELECT path, language, module, size, hash, lines, flags, problem, outside "
                    "FROM file"
                ),
                key=repr,
            ),
            "symbols": sorted(
                self.rows(
                    "SELECT path, s.scope, s.kind, s.name, s.qual, s.line, s.last, s.doc, p.qual "
                    "FROM symbol s JOIN file ON file.id=s.file LEFT JOIN symbol p ON p.id=s.parent"
                ),
                key=repr,
            ),
            "edges": sorted(
                self.rows(
                    "SELECT f.path, s.qual, s.line, edge.kind, edge.line, rule, g.path, t.qual, "  # noqa: S608 - our own text
                    "t.line FROM edge " + ends
                )
            ),
            "all edges": self.rows("SELECT count(*) FROM edge"),
            "unresolved": sorted(
                self.rows(
                    "SELECT f.path, s.qual, unresolved.line, unresolved.name, text FROM unresolved "
                    "JOIN symbol s ON s.id=src JOIN file f ON f.id=s.file"
                )
            ),
            "all unresolved": self.rows("SELECT count(*) FROM unresolved"),
        }


async def call(client: Client[Any], tool: str, /, **arguments: Any) -> dict[str, Any]:
    """What a tool that succeeds gives back."""
    result = await client.call_tool(tool, arguments, raise_on_error=False)
    assert not result.is_error, result
    assert result.structured_content is not None
    return result.structured_content


async def failed(client: Client[Any], tool: str, /, **arguments: Any) -> dict[str, Any]:
    """How a tool that fails fails."""
    result: CallToolResult | Any = await client.call_tool(tool, arguments, raise_on_error=False)
    assert result.is_error, result
    return (result.meta or {})[ERROR_META]
