"""Reading manifest files: all of them, with every problem of every file at once.

The suite's own folder first, then the owner's, which overrides by name. A server that is installed
(entry-point group `hostwright.servers`) but has no manifest gets a default one, so that a
third-party distribution appears by being installed.

TOML 1.0 (tomllib) is the format. Reads files and the names of installed entry points; starts
nothing and imports no server. A manifest whose schema is wrong is left out; one that merely cannot
run now (a missing variable, binary or folder) stays in the list, so that the status table shows
the server and says why.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, Field, ValidationError

from hostwright.keeper import needs
from hostwright.manifest import (
    ENTRY_POINT_GROUP,
    NAME_PATTERN,
    SUPERVISOR,
    Manifest,
    executable_for,
    expand,
)
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths

MAX_FILE_BYTES = 256 * 1024
MAX_LOCATED_LINES = 2_000


class Problem(BaseModel, frozen=True):
    """One thing that is wrong, or worth knowing, in a manifest."""

    level: Literal["error", "info"] = "error"
    file: Path | None
    line: int | None = Field(description="From 1; none where it cannot be told.")
    key: str = Field(description="Dotted path of the key; empty for the whole file.")
    message: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.file}{'' if self.line is None else f':{self.line}'}: " if self.file else ""
        return f"{place}{f'{self.key}: ' if self.key else ''}{self.message} {self.fix}".strip()


class Loaded(NamedTuple):
    """What the folders hold."""

    manifests: list[Manifest]
    problems: list[Problem]
    files: dict[str, Path]
    """Where each manifest stands; those made for installed servers stand nowhere."""


def suite_folder() -> Path:
    """The suite's own manifests, shipped inside the package (the repository's `manifests/`)."""
    return Path(__file__).parent / "manifests"


def user_folder(paths: Paths) -> Path:
    """The owner's own manifests; each overrides one of the suite by its name."""
    return paths.config_dir / "manifests"


def read_manifests(paths: Paths) -> tuple[list[Manifest], list[Problem]]:
    """The manifests of the suite and of the owner, and everything that is wrong with them."""
    found = load_files((suite_folder(), user_folder(paths)))
    return found.manifests, found.problems


def load_manifests(
    folders: Sequence[Path],
    *,
    environ: Mapping[str, str] | None = None,
    installed: Mapping[str, str] | None = None,
) -> tuple[list[Manifest], list[Problem]]:
    """Every manifest in `folders` (later ones override by name), and every problem there is.

    `installed` maps the installed entry-point servers to their descriptions (default: asked of
    this interpreter). Blocking: reads files. Sorted by name.
    """
    found = load_files(folders, environ=environ, installed=installed)
    return found.manifests, found.problems


def load_files(
    folders: Sequence[Path],
    *,
    environ: Mapping[str, str] | None = None,
    installed: Mapping[str, str] | None = None,
) -> Loaded:
    """The same, with the file of each manifest."""
    environ = os.environ if environ is None else environ
    installed = installed_servers() if installed is None else installed
    problems: list[Problem] = []
    chosen: dict[str, tuple[Manifest, Path | None]] = {}
    for folder in folders:
        for name, (manifest, file) in _read_folder(folder, problems.append).items():
            if name in chosen:
                problems.append(
                    Problem(
                        level="info",
                        file=file,
                        line=None,
                        key="name",
                        message=f"The manifest of {name} in {chosen[name][1]} is overridden.",
                        fix="",
                    )
                )
            chosen[name] = (manifest, file)
    run = {manifest.entry_point for manifest, _ in chosen.values()}
    for name, description in installed.items():
        if name in run or name in chosen:
            continue
        if not re.match(NAME_PATTERN, name):
            message = f"The installed entry point {name!r} cannot be a server name."
            fix = "Its distribution must use lower-case letters, digits and hyphens."
            problems.append(Problem(file=None, line=None, key=name, message=message, fix=fix))
            continue
        chosen[name] = (Manifest(name=name, entry_point=name, description=description), None)
    for manifest, file in chosen.values():
        problems += _cannot_run(manifest, file, environ, installed)
    for fault in needs.faults({name: manifest for name, (manifest, _) in chosen.items()}):
        file = chosen[fault.name][1]
        line = _line_of(file.read_text(), (fault.key,)) if file else None
        problems.append(
            Problem(file=file, line=line, key=fault.key, message=fault.message, fix=fault.fix)
        )
    return Loaded(
        [chosen[name][0] for name in sorted(chosen)],
        problems,
        {name: file for name, (_, file) in chosen.items() if file is not None},
    )


def installed_servers() -> dict[str, str]:
    """Name → one-line description of every installed entry-point server; nothing is imported."""
    return {
        point.name: str(point.dist.metadata.json.get("summary", "")) if point.dist else ""
        for point in entry_points(group=ENTRY_POINT_GROUP)
        if point.name != SUPERVISOR
    }


def _read_folder(
    folder: Path, report: Callable[[Problem], None]
) -> dict[str, tuple[Manifest, Path]]:
    found: dict[str, tuple[Manifest, Path]] = {}
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except FileNotFoundError:
        return found
    except OSError as error:
        message = f"The folder cannot be read: {error.strerror}."
        fix = "Give this user read access to it, or move it away."
        report(Problem(file=folder, line=None, key="", message=message, fix=fix))
        return found
    for file in files:
        manifest = _read_file(file, report)
        if manifest is None:
            continue
        if manifest.name in found:
            first = found[manifest.name][1]
            message = f"{manifest.name!r} is already the name in {first}; this file is ignored."
            fix = "Give one of them another name."
            report(Problem(file=file, line=None, key="name", message=message, fix=fix))
            continue
        found[manifest.name] = (manifest, file)
    return found


def _read_file(file: Path, report: Callable[[Problem], None]) -> Manifest | None:
    def refuse(message: str, fix: str, *, line: int | None = None, key: str = "") -> None:
        report(Problem(file=file, line=line, key=key, message=message, fix=fix))

    content = b""
    try:
        with file.open("rb") as handle:
            content = handle.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            return refuse(f"The file is larger than {MAX_FILE_BYTES} bytes.", "Is it a manifest?")
        text = content.decode()
        data = tomllib.loads(text)
    except OSError as error:
        return refuse(f"The file cannot be read: {error.strerror}.", "Check its permissions.")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return refuse("The file is not UTF-8 text.", "Save it as UTF-8.", line=line)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        at = re.search(r"\(at line (\d+)", str(error))
        # "at end of document" carries no number.
        line = int(at[1]) if at else content.count(b"\n") + 1
        return refuse(
            f"This is not TOML: {error}.", "Correct the line (https://toml.io).", line=line
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            path = tuple(detail["loc"])
            message, fix = _explain(detail["type"], detail["msg"], path)
            key = ".".join(map(str, path))
            refuse(message, fix, line=_line_of(text, path), key=key)
    return None


def _explain(kind: str, message: str, path: tuple[int | str, ...]) -> tuple[str, str]:
    """pydantic's message in the reader's words, and what to do."""
    if kind == "extra_forbidden":
        known = ", ".join(_model_at(path[:-1]).model_fields)
        return "This key is not known.", f"Remove it; known here: {known}."
    if kind == "missing":
        return "This key is missing.", "Add it."
    if path == ("name",) and kind != "value_error":
        return f"{message}.", "Use up to 63 lower-case letters, digits and hyphens, a letter first."
    text = message.removeprefix("Value error, ")
    return f"{text[:1].upper()}{text[1:]}.", "Correct the value."


def tables_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a key with this annotation may hold a table of."""
    kinds = (annotation, *get_args(annotation))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _model_at(path: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of the table `path`; where the way there is not one of tables, the last that is."""
    model: type[BaseModel] = Manifest
    for part in path:
        field = model.model_fields.get(str(part))
        if field and (tables := tables_in(field.annotation)):
            model = tables[0]
    return model


def _line_of(text: str, path: tuple[int | str, ...]) -> int | None:
    """The line where the key `path` (or the nearest part of it that exists) is written.

    Found with the parser itself: the first beginning of the file, cut at a line's end, that
    parses and holds the key ends where its value ends; the line after the last beginning that
    parses without it is where it starts. So no second, nearly-TOML grammar is needed here.
    """
    lines = text.splitlines(keepends=True)
    if len(lines) > MAX_LOCATED_LINES:
        return None
    depth, best, last_parsed = 0, None, 0
    for count in range(1, len(lines) + 1):
        try:
            data = tomllib.loads("".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
        held = _depth_held(data, path)
        if held > depth:
            depth, best = held, last_parsed + 1
        last_parsed = count
    return best


def _depth_held(data: Any, path: tuple[int | str, ...]) -> int:
    """How many leading parts of `path` exist in `data`."""
    for depth, part in enumerate(path):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(path)


def _cannot_run(
    manifest: Manifest, file: Path | None, environ: Mapping[str, str], installed: Mapping[str, str]
) -> list[Problem]:
    """What would stop this valid manifest from starting on this machine now."""
    if not manifest.enabled:
        return []
    if lacks := needs.unmet(manifest.when, environ):
        # Not wrong: it says itself that it makes no sense here.
        text = f"{manifest.name} does not run on this machine: {'; '.join(lacks)}."
        return [Problem(level="info", file=file, line=None, key="when", message=text, fix="")]
    found: list[Problem] = []

    def report(key: str, message: str, fix: str) -> None:
        line = _line_of(file.read_text(), (key,)) if file else None
        found.append(Problem(file=file, line=line, key=key, message=message, fix=fix))

    if manifest.entry_point is not None and manifest.entry_point not in installed:
        report(
            "entry_point",
            f"No installed distribution offers the server {manifest.entry_point!r}.",
            f"Install it (pip install hostwright-{manifest.entry_point}), or set enabled = false.",
        )
    if manifest.fastmcp is not None:
        program = Path(manifest.fastmcp.rpartition(":")[0]).expanduser()
        if not program.is_file():
            report("fastmcp", f"The file {program} does not exist.", "Correct it: FILE:OBJECT.")
    folder = manifest.folder
    if folder is not None and not folder.is_dir():
        report("cwd", f"The folder {folder} does not exist.", f"Create it: mkdir -p {folder}.")
    search = environ.get("PATH", os.defpath)
    try:
        search = expand(manifest, environ).env.get("PATH", search)
    except HostError as error:
        report("headers" if manifest.url else "env", error.message, error.fix)
    if manifest.command is not None:
        try:
            executable_for(manifest.command[0], search, folder)
        except HostError as error:
            report("command", error.message, error.fix)
    return found
