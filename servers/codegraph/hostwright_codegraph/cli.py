"""The command line: `hostwright-codegraph index|status|query|export`.

It works on the same indexes as the server, with or without one running. Exit codes: 0 done, 1 it
could not be done (the remedy is printed), 2 wrong use, 3 nothing was found.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hostwright_codegraph.exporting import FORMATS, export
from hostwright_codegraph.projects import Projects
from hostwright_codegraph.queries import calling, listing, searching
from hostwright_codegraph.queries.finding import find
from hostwright_codegraph.queries.reader import reading
from hostwright_codegraph.settings import CodegraphSettings
from hostwright_codegraph.store.places import Places
from hostwright_kit.config import read_settings
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths

COMMANDS = ("index", "status", "query", "export")
NOTHING_FOUND = 3


def main(argv: list[str]) -> int:
    """Run a command; the exit code."""
    options = _parser().parse_args(argv)
    try:
        return _COMMANDS[options.command](_projects(), options)
    except HostError as error:
        if options.json:
            _print_json({"error": {"code": error.code, "message": error.message, "fix": error.fix}})
        else:
            sys.stderr.write(f"{error.message}\n  fix: {error.fix}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hostwright-codegraph", description="The graph of a project's code."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    one = command("index", "Add a project, or bring its index up to date.")
    one.add_argument("path", nargs="?", default=".", help="its folder; default: here")
    one.add_argument("--remove", action="store_true", help="forget its index; files stay")
    command("status", "How each project's index is.").add_argument("project", nargs="?")
    one = command("query", "Find definitions, or who calls one and what it calls.")
    one.add_argument("what", choices=("search", "callers", "callees"))
    one.add_argument("name")
    one.add_argument("--depth", type=int, default=1, choices=range(1, 9), metavar="1-8")
    one.add_argument("--project")
    one = command("export", "Write the graph of calls, imports and bases.")
    one.add_argument("--format", choices=sorted(FORMATS), default="json")
    one.add_argument("--files", action="store_true", help="files instead of definitions")
    one.add_argument("--project")
    one.add_argument("--output", type=Path, help="a file; default: standard output")
    return parser


def _projects() -> Projects:
    paths = resolve_paths().ensure()
    settings = read_settings(paths)
    loaded = settings.load({"codegraph": CodegraphSettings})
    settings.raise_problems()
    table = CodegraphSettings.model_validate(loaded["codegraph"])
    return Projects(Places(paths.state_dir / "codegraph"), roots=table.roots, fixed=table.projects)


def _index(projects: Projects, options: argparse.Namespace) -> int:
    if options.remove:
        root = projects.meant(options.path if options.path != "." else None)
        projects.places.remove(root)
        _say(options, {"project": str(root), "removed": True}, f"{root}: forgotten")
        return 0
    from hostwright_codegraph.indexing.worker import (  # noqa: PLC0415 - parses, so heavy
        DEEPEST_STACK,
        index,
    )

    sys.setrecursionlimit(DEEPEST_STACK)
    root = projects.allowed(options.path)
    projects.places.add(root)
    outcome = index(projects.places, root, say=False)
    line = (
        f"{root}: {outcome.files} files, {outcome.read} read, {outcome.resolved} resolved "
        f"in {outcome.seconds:.2f} s"
    )
    _say(options, {"project": str(root), **outcome._asdict()}, line)
    return 0


def _status(projects: Projects, options: argparse.Namespace) -> int:
    roots = [projects.meant(options.project)] if options.project else projects.all()
    found: list[dict[str, Any]] = []
    for root in roots:
        try:
            with reading(projects.places.database(root), root) as index:
                found.append({"project": str(root), **listing.counts(index)})
        except HostError as error:
            if error.code != "not_indexed":
                raise
            found.append({"project": str(root), "problem": error.message, "fix": error.fix})
    if options.json:
        _print_json(found)
        return 0
    for one in found:
        if "problem" in one:
            sys.stdout.write(f"{one['project']}: {one['problem']}\n")
            continue
        languages = ", ".join(f"{count} {name}" for name, count in one["languages"].items())
        share = one["unresolved_share"]
        sys.stdout.write(
            f"{one['project']}: {one['symbols']} definitions in {one['files']} files "
            f"({languages}); {one['calls_resolved']} calls resolved, {one['calls_unresolved']} not"
            f"{f' ({share:.1%})' if share is not None else ''}; {one['problems_total']} problems\n"
        )
        if unread := one["languages_not_read"]:
            told = ", ".join(f"{count} {name}" for name, count in unread.items())
            sys.stdout.write(f"  not read, because their languages are not known: {told}\n")
        for problem in one["problems"]:
            sys.stdout.write(f"  {problem}\n")
    return 0


def _query(projects: Projects, options: argparse.Namespace) -> int:
    root = projects.meant(options.project)
    with reading(projects.places.database(root), root) as index:
        if options.what == "search":
            results, guesses = searching.search(index, options.name)
            found = [one.model_dump(exclude_none=True) for one in results]
            lines = [f"{one.at}  {one.kind} {one.name}" for one in results]
            if not results and guesses and not options.json:
                sys.stderr.write(f"Did you mean {', '.join(guesses)}?\n")
        else:
            walk = calling.callers if options.what == "callers" else calling.callees
            calls = walk(
                index,
                find(index, options.name),
                options.depth,
                overrides=options.what == "callers",
                tests=True,
                references=False,
            )
            found = [one.model_dump(exclude_none=True) for one in calls]
            lines = [
                f"{one.at}  {one.name}  ({one.how}, lines {', '.join(map(str, one.lines))})"
                for one in calls
            ]
    if options.json:
        _print_json(found)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0 if found else NOTHING_FOUND


def _export(projects: Projects, options: argparse.Namespace) -> int:
    root = projects.meant(options.project)
    with reading(projects.places.database(root), root) as index:
        text = export(index, options.format, files=options.files)
    if options.output is None:
        sys.stdout.write(text)
    else:
        aside = options.output.with_name(f".{options.output.name}.new")
        aside.write_text(text, encoding="utf-8")
        aside.replace(options.output)
    return 0


def _say(options: argparse.Namespace, data: dict[str, Any], line: str) -> None:
    if options.json:
        _print_json(data)
    else:
        sys.stdout.write(f"{line}\n")


def _print_json(data: object) -> None:
    sys.stdout.write(json.dumps(data, indent=1) + "\n")


_COMMANDS = {"index": _index, "status": _status, "query": _query, "export": _export}
