"""Read another program's MCP configuration and propose a manifest for each server in it.

Understands `.mcp.json`, `~/.claude.json`, Claude Desktop and Cursor (`mcpServers`), opencode 1 and
2, OpenClaw, Codex and VS Code. Everything worth saying is collected in one pass with its place;
nothing is written. Blocking (reads the file).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tomlkit
from pydantic import BaseModel, ConfigDict, Field

from hostwright_kit.errors import HostError

from . import files, tomltext
from .catalog import Config
from .foreign import Draft, Format, UnusableError, look_for_secrets, read, reason_to_skip
from .jsontext import WHITESPACE, InvalidTextError, JsonText, line_column
from .ownership import DEFAULT_GATEWAY, Origin, origin

_NAME_LENGTH = 63
GUARD_HINT = """

# What this server's tools do is not known here, so in the profile "standard" each call asks you
# first. Say what you know of them, by name or glob (docs/third-party.md):
# [guard.tools]
# "get_*" = "read"           # changes nothing: never asked about
# add_note = "contained"     # can be undone: recorded, not asked about
#
# Or believe what the server says of itself:
# [guard]
# trust_annotations = true
"""
_CONTAINERS = {"mcpServers", "mcp_servers", "servers", "mcp", "projects"}


class Finding(BaseModel):
    """Something to know about one place in the imported file."""

    model_config = ConfigDict(frozen=True)

    place: str = Field(description="Line, where known, and the dotted path of the setting.")
    message: str


class ImportedServer(BaseModel):
    """One server, as the manifest that would run it."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="Normalised; the manifest's file name without .toml.")
    source_name: str
    place: str
    manifest: str = Field(repr=False, description="TOML text; holds secrets when the source does.")
    warnings: tuple[Finding, ...] = ()


class Imported(BaseModel):
    """Everything found in one file."""

    model_config = ConfigDict(frozen=True)

    format: Format
    servers: tuple[ImportedServer, ...] = ()
    skipped: tuple[Finding, ...] = Field(
        default=(), description="Left out on purpose: disabled, or leads back to Hostwright."
    )
    problems: tuple[Finding, ...] = Field(
        default=(), description="Servers that could not be imported, with the reason."
    )


@dataclass(frozen=True)
class _Source:
    """One container of servers in a document."""

    format: Format
    path: tuple[str, ...]
    entries: Config
    folder: Path | None


def import_servers(
    text_or_path: str | Path,
    *,
    format: Format = "auto",  # noqa: A002 - the word that users know
    gateway: str = DEFAULT_GATEWAY,
) -> Imported:
    """Read a client's configuration, from a `Path` or as text, and propose manifests.

    Entries that lead back to Hostwright (`gateway` is its address) are skipped.

    A file that cannot be parsed, or in which no servers are found, is a `HostError`; faults of
    single servers are in the result.
    """
    label, folder = "", None
    if isinstance(text_or_path, Path):
        found = files.read(text_or_path)
        if found is None:
            raise HostError(
                f"{text_or_path} does not exist.", fix="Name a client's file.", code="not_found"
            )
        text, label, folder = found[0], str(text_or_path), text_or_path.resolve().parent
    else:
        text = text_or_path
    text = text.removeprefix("\ufeff")
    try:
        document, data = _parse(text, toml=format == "codex" or label.endswith(".toml"))
        sources = list(_sources(data, format, folder))
        for source in sources:
            _refuse_doubles(text, document, source.path)
    except InvalidTextError as error:
        message = f"{label}, {error.message}" if label else error.message
        raise HostError(message, fix=error.fix, code=error.code) from error
    if not sources:
        raise HostError(
            f"{label or 'The text'} has no MCP servers in a layout that is known.",
            fix="Give a .mcp.json, a Claude Desktop, opencode, OpenClaw, Codex or VS Code file.",
            code="invalid_file",
        )
    own = frozenset({origin(gateway), origin(DEFAULT_GATEWAY)})
    return _collect(sources, own, lambda path: _line(text, document, path))


def _collect(
    sources: list[_Source],
    gateways: frozenset[Origin],
    line: Callable[[tuple[str, ...]], int | None],
) -> Imported:
    servers: list[ImportedServer] = []
    skipped: list[Finding] = []
    problems: list[Finding] = []
    taken: dict[str, str] = {}
    for source in sources:
        for source_name, entry in source.entries.items():
            path = (*source.path, source_name)
            number = line(path)
            place = (f"line {number}, " if number else "") + ".".join(path)
            try:
                reason = reason_to_skip(entry, gateways)
                if reason:
                    skipped.append(Finding(place=place, message=reason))
                    continue
                draft = read(source.format, cast("Config", entry), source.folder)
            except UnusableError as error:
                where = f"{place}.{error.key}" if error.key else place
                problems.append(Finding(place=where, message=str(error)))
                continue
            look_for_secrets(draft)
            name = _unused(_normalised(source_name), taken)
            if name != source_name:
                draft.note("", f"is called “{name}” here")
            if name != _normalised(source_name):
                other = taken[_normalised(source_name)]
                draft.note("", f"collides with “{other}”, which has the same name here")
            taken[name] = source_name
            warnings = tuple(
                Finding(place=f"{place}.{key}" if key else place, message=message)
                for key, message in draft.notes
            )
            servers.append(
                ImportedServer(
                    name=name,
                    source_name=source_name,
                    place=place,
                    manifest=_manifest(name, draft),
                    warnings=warnings,
                )
            )
    return Imported(
        format=sources[0].format,
        servers=tuple(servers),
        skipped=tuple(skipped),
        problems=tuple(problems),
    )


# -- finding the servers -----------------------------------------------------------------------


def _parse(text: str, *, toml: bool) -> tuple[JsonText | None, Config]:
    if not toml:
        if not text.strip(WHITESPACE):
            return None, {}
        try:
            document = JsonText(text)
            document.object_at(())
        except InvalidTextError as error:
            # A table header also looks like the start of an array.
            try:
                return None, tomltext.parse(text)
            except InvalidTextError:
                raise error from None
        return document, cast("Config", document.value)
    return None, tomltext.parse(text)


def _sources(data: Config, wanted: Format, folder: Path | None) -> Iterator[_Source]:
    """The containers of servers, by the keys that the clients use."""

    def source(kind: Format, *path: str, at: Path | None = folder) -> Iterator[_Source]:
        value: Any = data
        for key in path:
            value = cast("Config", value).get(key) if isinstance(value, dict) else None
        if isinstance(value, dict):
            yield _Source(kind, path, cast("Config", value), at)

    mcp = data.get("mcp")
    nested = isinstance(mcp, dict) and isinstance(cast("Config", mcp).get("servers"), dict)
    nested = nested and "type" not in cast("Config", mcp)["servers"]
    if wanted in ("auto", "claude"):
        yield from source("claude", "mcpServers")
        projects = data.get("projects")
        for project in cast("Config", projects) if isinstance(projects, dict) else {}:
            yield from source("claude", "projects", project, "mcpServers", at=Path(project))
    if wanted in ("auto", "codex"):
        yield from source("codex", "mcp_servers")
    if wanted in ("auto", "vscode"):
        yield from source("vscode", "servers")
    if nested:
        kind = wanted if wanted != "auto" else _nested_kind(data)
        if kind in ("opencode", "openclaw", "vscode"):
            yield from source(kind, "mcp", "servers")
    elif wanted in ("auto", "opencode"):
        yield from source("opencode", "mcp")
    # A plugin's .mcp.json may hold the servers without a name around them.
    bare = bool(data) and not data.keys() & _CONTAINERS
    bare = bare and all(
        isinstance(entry, dict) and ("command" in entry or "url" in entry)
        for entry in data.values()
    )
    if bare and wanted in ("auto", "claude"):
        yield _Source("claude", (), data, folder)


def _nested_kind(data: Config) -> Format:
    """Three clients have used `mcp.servers`; the entries tell which."""
    servers = cast("Config", data["mcp"]["servers"]).values()
    types = {cast("Config", entry).get("type") for entry in servers if isinstance(entry, dict)}
    return "opencode" if types & {"local", "remote"} else "openclaw"


def _refuse_doubles(text: str, document: JsonText | None, path: tuple[str, ...]) -> None:
    """Of two servers with one name, JSON readers silently take one; the owner should decide."""
    span = document.object_at(path) if document else None
    seen: set[str] = set()
    for member in span.members if span else ():
        if member.key in seen:
            raise InvalidTextError(f"“{member.key}” is given twice", text, member.start)
        seen.add(member.key)


def _line(text: str, document: JsonText | None, path: tuple[str, ...]) -> int | None:
    if document is None:
        return tomltext.table_line(text, path)
    try:
        parent = document.object_at(path[:-1])
    except InvalidTextError as error:
        return error.line
    member = parent.get(path[-1]) if parent else None
    return line_column(text, member.start)[0] if member else None


# -- writing the manifest ----------------------------------------------------------------------


def _normalised(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain:
        return "server"
    if not plain[0].isalpha():
        plain = f"s-{plain}"
    return plain[:_NAME_LENGTH].rstrip("-")


def _unused(name: str, taken: dict[str, str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        suffix = f"-{number}"
        candidate = name[: _NAME_LENGTH - len(suffix)].rstrip("-") + suffix
    return candidate


def _manifest(name: str, draft: Draft) -> str:
    document = tomlkit.document()
    document.add("name", tomlkit.item(name))
    if draft.url is None:
        document.add("command", tomlkit.item(draft.command))
    else:
        document.add("url", tomlkit.item(draft.url))
        if draft.headers:
            headers = tomlkit.inline_table()
            headers.update(draft.headers)
            document.add("headers", headers)
    if draft.cwd:
        document.add("cwd", tomlkit.item(draft.cwd))
    if draft.env:
        document.add("env", tomlkit.item(draft.env))
    # Not through tomlkit, which would put comments behind a table into that table.
    return tomlkit.dumps(document).rstrip("\n") + GUARD_HINT
