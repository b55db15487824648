"""`hostwright policy …`: is it valid, what does it say about a call, does it say what it should."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.text import Text

from hostwright.cli.output import EXIT_FAILED, cell, done, make_table, out, print_json
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths, resolve_paths

if TYPE_CHECKING:
    from hostwright_kit.config import KitConfig
    from hostwright_kit.policy_file import PolicySource
    from hostwright_kit.served import ToolTraits

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
COLOURS = {"allow": "green", "ask": "yellow", "deny": "red"}


def register(app: App) -> None:
    """Add the commands."""
    policy = App(name="policy", help="Check, explain and test the rules of policy.toml.")
    policy.command(check)
    policy.command(explain)
    policy.command(test)
    app.command(policy)


def check(*, json: Json = False) -> None:
    """Read every rule and name everything that is wrong; exit code 1 when something is."""
    from hostwright_kit.policy_file import policy_files

    paths = resolve_paths()
    source, _ = _policy(paths, strict=False)
    files = [str(file) for file in policy_files(paths) if file.exists()]
    current = source.current()
    ended = [rule.place for rule in current.rules if rule.ended()]
    if json:
        print_json(
            {
                "ok": not source.problems,
                "profile": current.profile,
                "rules": len(current.rules),
                "ended": ended,
                "files": files,
                "problems": [problem.model_dump() for problem in source.problems],
            }
        )
    else:
        for problem in source.problems:
            out.print("[red]✗[/]", cell(str(problem)))
        if not source.problems:
            done(f"profile {current.profile}, {len(current.rules)} rules: {', '.join(files)}")
        if ended:
            out.print(cell(f"Ended, and without effect: {', '.join(ended)}"))
    if source.problems:
        raise SystemExit(EXIT_FAILED)


def explain(
    call: Annotated[str, Parameter(help="SERVER.TOOL, as the server itself calls it.")],
    *arguments: Annotated[str, Parameter(help="key=value; the value is JSON or plain text.")],
    caller: Annotated[str, Parameter(help="A client's name, or token:NAME.")] = "unknown",
    folder: Annotated[Path | None, Parameter(help="Working folder of the server.")] = None,
    json: Json = False,
) -> None:
    """Say what the policy makes of one call, and which rule decides. Calls nothing.

    Rates count as they stand now. A tool whose server has never run here counts as the worst.
    """
    from hostwright.cli.calls import parse_argument
    from hostwright_kit.policy_explain import call_of
    from hostwright_kit.policy_explain import explain as explained
    from hostwright_kit.policy_rates import Rates

    server, dot, tool = call.partition(".")
    if not (server and dot and tool):
        raise HostError(
            f"{call!r} is not SERVER.TOOL.",
            fix="For example system.file_write path=/etc/hosts.",
            code="usage",
        )
    paths = resolve_paths().ensure()
    source, config = _policy(paths)
    traits, where = _traits(paths, server, tool)
    made = call_of(
        server,
        tool,
        dict(parse_argument(argument) for argument in arguments),
        caller=caller,
        traits=traits,
        folder=str(folder.absolute()) if folder else where or os.getcwd(),  # noqa: PTH109 - text
    )
    rates = Rates(paths.state_dir)
    try:
        found = explained(
            source.current(),
            made.subject,
            known=where is not None,
            via_client=config.approval.via_client,
            spent=rates.spent,
        )
    finally:
        rates.close()
    if json:
        print_json(found)
        return
    out.print(Text(found.verdict, style=f"bold {COLOURS[found.verdict]}"), cell(found.reason))
    if found.verdict == "ask":
        out.print(f"May grant: {found.may_grant}.")
    kind = f"{found.effect}{', open world' if found.open_world else ''}"
    told = "as its server declares" if found.known else "its server has not run here yet"
    out.print(f"The tool counts as {kind} ({told}); profile {found.profile}.")
    table = make_table("rule", "effect", "", "why not", "comment")
    for step in found.rules:
        mark = "decides" if step.decided else "matches" if step.matches else ""
        words = (step.place, step.effect, mark, step.because, step.comment)
        table.add_row(*map(cell, words))
    if found.rules:
        out.print(table)


def test(file: Path, *, json: Json = False) -> None:
    """Judge the calls in FILE and compare with what it expects; exit code 1 when one differs.

    A TOML file of [[calls]]: call = "system.file_write", arguments, caller, folder, at, and expect
    = "allow", "ask" or "deny" (docs/policy.md).
    """
    from hostwright_kit.policy_explain import check_expectations, read_expectations

    paths = resolve_paths().ensure()
    source, _ = _policy(paths)
    found = check_expectations(
        source.current(),
        read_expectations(file),
        lambda server, tool: _traits(paths, server, tool)[0],
    )
    wrong = [one for one in found if not one.ok]
    if json:
        print_json({"ok": not wrong, "calls": [one.model_dump() for one in found]})
    else:
        table = make_table("", "call", "caller", "expected", "is", "reason")
        for one in found:
            mark = Text("✓", style="green") if one.ok else Text("✗", style="red")
            words = (one.call, one.caller, one.expect, one.verdict, one.reason)
            table.add_row(mark, *map(cell, words))
        out.print(table)
        out.print(f"{len(found) - len(wrong)} of {len(found)} as expected.")
    if wrong:
        raise SystemExit(EXIT_FAILED)


def _policy(paths: Paths, *, strict: bool = True) -> tuple[PolicySource, KitConfig]:
    from hostwright_kit.config import ConfigError, load_kit_config, read_settings
    from hostwright_kit.policy_file import PolicySource

    settings = read_settings(paths)
    config = load_kit_config(settings)
    settings.raise_problems()
    source = PolicySource.of(config.policy, settings, paths)
    if strict and source.problems:
        raise ConfigError(source.problems)
    return source, config


def _traits(paths: Paths, server: str, tool: str) -> tuple[ToolTraits, str | None]:
    """What is known of a tool, and the folder of its server; None when nothing is."""
    from hostwright.guarded.effects import traits_of
    from hostwright.manifest_files import read_manifests
    from hostwright_kit.served import GATEWAY, ToolTraits, find_served

    if (served := find_served(paths.state_dir, server)) is not None:
        known = served.tools.get(tool)
        return known or ToolTraits(), served.folder if known else None
    manifests, _ = read_manifests(paths)
    found = next((one for one in manifests if one.name == server), None)
    behind = find_served(paths.state_dir, GATEWAY)
    if found is None or found.entry_point is not None:
        return ToolTraits(), None
    said = traits_of(found.guard, tool, {})
    traits = ToolTraits(effect=said.effect, open_world=said.open_world)
    return traits, behind.folder if behind and said.known else None
