"""`install` and `import`: other programs' MCP configuration, both ways."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from rich.text import Text

from hostwright.cli.control import Control, tokens_changed
from hostwright.cli.output import EXIT_FAILED, NoDaemonError, cell, out, print_json, print_plain
from hostwright_kit.config import read_settings
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths, resolve_paths

if TYPE_CHECKING:
    from hostwright.adopting import Adoption
    from hostwright.installing import Installed

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
# Written out, so that the help lists them; a test holds them to `clients.CLIENTS`.
ClientName = Literal[
    "claude-code", "claude-desktop", "opencode", "openclaw", "codex", "cursor", "vscode"
]
MARKS = {"conflict": "[red]✗[/]", "refused": "[red]✗[/]", "exists": "[yellow]–[/]"}


def register(app: App) -> None:
    """Add the commands."""
    app.command(install)
    app.command(import_, name="import")


def install(
    client: ClientName,
    *,
    server: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="One entry for this server alone; may be repeated."),
    ] = (),
    http: Annotated[
        bool, Parameter(negative="", help="The gateway's URL with a bearer token, not stdio.")
    ] = False,
    scope: Annotated[
        Literal["user", "project"],
        Parameter(help="The user's configuration, or that of the project in this folder."),
    ] = "user",
    remove: Annotated[bool, Parameter(negative="", help="Take our entries out again.")] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="Show the change, make none.")] = False,
    token_name: Annotated[
        str | None, Parameter(help="With --http: the token's name (default: the client's).")
    ] = None,
    replace_token: Annotated[
        bool, Parameter(negative="", help="With --http: a new token for that name; the old ends.")
    ] = False,
    json: Json = False,
) -> None:
    """Put Hostwright into a client's configuration: by default all servers, over stdio.

    The rest of the file stays as it is, and a backup is left beside it.
    """
    from hostwright.installing import Wanted
    from hostwright.installing import install as carry_out

    if remove and http:
        raise _usage("--remove takes out entries of both kinds", "Leave --http out.")
    if (token_name or replace_token) and not http:
        raise _usage("Only entries over HTTP have a token", "Add --http.")
    paths = resolve_paths()
    if not dry_run:
        paths.ensure()
    wanted = Wanted(
        client=client,
        scope=scope,
        servers=tuple(dict.fromkeys(server)),
        http=http,
        remove=remove,
        dry_run=dry_run,
        token_name=token_name or client,
        replace_token=replace_token,
    )
    url, note = _gateway(paths, needed=http)
    result = carry_out(
        wanted, paths, gateway=url, home=Path.home(), cwd=Path.cwd(), environ=os.environ
    )
    if result.revoked_tokens or (replace_token and not dry_run):
        tokens_changed()
    if note and http:
        result = result.model_copy(update={"warnings": (*result.warnings, note)})
    if json:
        print_json(result)
    else:
        _show_installed(result)
    if result.conflicts:
        raise SystemExit(EXIT_FAILED)


def import_(
    file: Path,
    *,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Show the manifests, write none.")
    ] = False,
    replace: Annotated[
        bool, Parameter(negative="", help="Also over manifests that are there already.")
    ] = False,
    json: Json = False,
) -> None:
    """Turn the MCP servers in another program's configuration into manifests.

    Understands .mcp.json, ~/.claude.json, Claude Desktop, Cursor, opencode, OpenClaw, Codex and
    VS Code. Exit code 1 when a server could not be imported.
    """
    from hostwright.adopting import adopt

    paths = resolve_paths()
    url, _ = _gateway(paths, needed=False)
    result = adopt(file, paths, gateway=url, dry_run=dry_run, replace=replace)
    if json:
        print_json(result)
    else:
        _show_adopted(result)
    if not result.complete:
        raise SystemExit(EXIT_FAILED)


def _gateway(paths: Paths, *, needed: bool) -> tuple[str, str]:
    """The gateway's URL for a client here, and what to know about it."""
    from hostwright.checkup.configuration import gateway_settings
    from hostwright.clients.ownership import DEFAULT_GATEWAY
    from hostwright.installing import reachable

    settings = gateway_settings(paths)
    if settings is None:
        if needed:
            found = read_settings(paths)
            found.raise_problems()
            raise HostError(
                "[gateway] of the configuration is not valid.",
                fix="`hostwright check` says what is wrong.",
                code="config_invalid",
            )
        return f"{DEFAULT_GATEWAY}/mcp", ""
    try:
        url = Control().status().url
    except NoDaemonError:
        if settings.port == 0:
            if needed:
                raise HostError(
                    "The gateway takes any free port (port = 0), and no daemon runs that has one.",
                    fix="Choose a port ([gateway] port in config.toml), or start the daemon first.",
                    code="no_daemon",
                ) from None
            return f"{DEFAULT_GATEWAY}/mcp", ""
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return reachable(f"http://{host}:{settings.port}/mcp"), "No daemon runs yet: hostwright up."
    note = "The gateway's port changes with each start (port = 0)." if settings.port == 0 else ""
    return reachable(url), note


def _usage(message: str, fix: str) -> HostError:
    return HostError(f"{message}.", fix=fix, code="usage")


def _show_installed(result: Installed) -> None:
    if result.diff:
        print_plain(result.diff)
        out.print()
    for change in result.changes:
        detail = f" ({change.detail})" if change.detail else ""
        _line(MARKS.get(change.action, "[green]✓[/]"), f"{change.name}: {change.action}{detail}")
    if not result.changes:
        _line("[green]✓[/]", "Nothing of Hostwright is in it.")
    would = "would be " if result.dry_run else ""
    state = f"{would}changed" if result.changed else "is as it should be"
    print_plain(f"{result.path}: {state}.")
    if result.backup:
        print_plain(f"Backup: {result.backup}")
    if result.token_action:
        print_plain(f"Token {result.token}: {would}{result.token_action}.")
    for name in result.revoked_tokens:
        print_plain(f"Token {name}: revoked; nothing holds it any more.")
    for warning in result.warnings:
        _line("[yellow]![/]", warning)


def _show_adopted(result: Adoption) -> None:
    would = "would be " if result.dry_run else ""
    for one in result.servers:
        said = {"exists": "not written", "refused": "not written"}.get(
            one.action, one.action if one.action == "unchanged" else f"{would}{one.action}"
        )
        reason = f" ({one.reason})" if one.reason else ""
        _line(MARKS.get(one.action, "[green]✓[/]"), f"{one.name}: {said}{reason}  {one.path}")
        for warning in one.warnings:
            _line("  [yellow]![/]", warning)
        if one.backup:
            print_plain(f"    The one before: {one.backup}")
    for finding in result.skipped:
        _line("[dim]–[/]", f"{finding.place}: {finding.message}")
    for finding in result.problems:
        _line("[red]✗[/]", f"{finding.place}: {finding.message}")
    if any(one.action in ("written", "replaced") for one in result.servers) and not result.dry_run:
        out.print("\nThe daemon reads manifests when it starts: hostwright down, hostwright up.")


def _line(mark: str, words: str) -> None:
    out.print(Text.from_markup(mark) + Text(" ") + cell(words), soft_wrap=True)
