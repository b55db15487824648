"""`export`: the suite, or some of its servers, as other programs' deployment files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from hostwright.cli.output import cell, done, err, print_json, print_plain
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths

if TYPE_CHECKING:
    from hostwright.exporting.model import Export
    from hostwright.exporting.writing import Written

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
# Written out, so that the help lists them; a test holds them to `exporting.FORMATS`.
FormatName = Literal[
    "systemd", "launchd", "compose", "kubernetes", "server-json", "mcpb", "claude-plugin"
]
ONLY_FOR = {
    "user": ("systemd",),
    "strict": ("systemd",),
    "http": ("systemd", "launchd"),
    "namespace": ("server-json",),
    "image": ("compose", "kubernetes"),
}


def register(app: App) -> None:
    """Add the command."""
    app.command(export)


def export(
    form: Annotated[FormatName, Parameter(name="FORMAT")],
    /,
    *names: Annotated[str, Parameter(help="These servers alone (default: all that are enabled).")],
    out: Annotated[
        str, Parameter(help="Write the files into this folder; -: print them.", name="--out")
    ] = "-",
    force: Annotated[
        bool, Parameter(negative="", help="Also over files that exist and differ.")
    ] = False,
    user: Annotated[
        bool, Parameter(negative="", help="systemd: for the user's own manager.")
    ] = False,
    strict: Annotated[
        bool, Parameter(negative="", help="systemd: closed off from the machine.")
    ] = False,
    http: Annotated[
        str | None, Parameter(help="systemd, launchd, named servers: HOST:PORT, not a socket.")
    ] = None,
    namespace: Annotated[
        str | None, Parameter(help="server-json: what stands before the slash.")
    ] = None,
    image: Annotated[str | None, Parameter(help="compose, kubernetes: the image's name.")] = None,
    json: Json = False,
) -> None:
    """Turn manifests into files for systemd, launchd, Compose, Kubernetes, the MCP registry, MCP
    bundles or a Claude Code plugin.

    No secret is written: what may be one becomes a variable for you to set. Says what is still to
    be done.
    """
    from hostwright.checkup.configuration import gateway_settings
    from hostwright.exporting import render
    from hostwright.exporting.model import Options
    from hostwright.exporting.suite import read_suite
    from hostwright.exporting.writing import write

    given = {"user": user, "strict": strict, "http": http, "namespace": namespace, "image": image}
    chosen = {key: value for key, value in given.items() if value}
    _check_options(form, chosen, named=bool(names))
    paths = resolve_paths()
    settings = gateway_settings(paths)
    suite = read_suite(paths, names, port=settings.port if settings else 0)
    made = render(form, suite, Options.model_validate(chosen))
    written = [] if out == "-" else write(made, Path(out).expanduser().absolute(), force=force)
    if json:
        shown = made.model_dump(mode="json")
        if out != "-":
            shown["files"] = [one.model_dump(mode="json") for one in written]
        print_json(shown)
        return
    _print_files(made) if out == "-" else _print_written(written)
    _print_rest(made)


def _check_options(form: str, chosen: Mapping[str, bool | str | None], *, named: bool) -> None:
    for key in chosen:
        if form not in ONLY_FOR[key]:
            raise HostError(
                f"--{key} has no meaning for {form}.",
                fix=f"It belongs to {' and '.join(ONLY_FOR[key])}.",
                code="usage",
            )
    if "http" in chosen and not named:
        raise HostError(
            "--http is for servers by themselves; the daemon has its own address.",
            fix="Name servers, or set [gateway] host and port in config.toml.",
            code="usage",
        )


def _print_files(made: Export) -> None:
    several = len(made.files) > 1
    for file in made.files:
        # As they are: whoever redirects them wants the file, byte for byte.
        sys.stdout.write(f"# ---- {file.path}\n{file.text}" if several else file.text)


def _print_written(written: list[Written]) -> None:
    for one in written:
        done(f"{one.path}: {one.action}.")
        if one.diff:
            print_plain(one.diff)


def _print_rest(made: Export) -> None:
    """On stderr, because stdout may be the file."""

    def say(text: str, style: str = "") -> None:
        err.print(cell(text, style=style), soft_wrap=True)

    for one in made.left_out:
        say(f"left out: {one.name}: {one.why}", "yellow")
    for need in made.needs:
        more = f", or {need.default!r} is used" if need.default is not None else ""
        say(f"to be set: {need.name} ({need.why}{more})")
    for step in made.next_steps:
        say(f"next: {step}")
