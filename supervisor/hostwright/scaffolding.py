"""A new server in a checkout of the workspace: its files from `templates/`, wired into the root.

Everything is worked out first; then the folder appears whole (by a rename), its manifest with it,
and the root's pyproject.toml is replaced at once. When a step fails the ones before are undone.
Knows the workspace's layout; imports no server. Blocking (files).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Any

import tomlkit
from pydantic import BaseModel, Field
from tomlkit.exceptions import TOMLKitError

from hostwright import __version__
from hostwright_kit.atomic import write_private
from hostwright_kit.errors import HostError

WORKSPACE = "hostwright-workspace"
# Long enough for a name, short enough that no line of a template grows beyond the line length.
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_NAME_CHARS = 24
# Their distributions or packages would be called like the workspace's own.
RESERVED = frozenset({"kit", "workspace", "hostwright", "supervisor", "test", "tests"})
_SUFFIX = ".tmpl"


class Scaffold(BaseModel, frozen=True):
    """What was made."""

    name: str
    folder: Path
    files: tuple[Path, ...] = Field(description="New files, relative to the checkout.")
    changed: tuple[Path, ...] = Field(description="Files that were there, relative to it.")


def scaffold(name: str, start: Path) -> Scaffold:
    """Make the server `name` in the checkout that holds the folder `start`."""
    root = find_checkout(start)
    _check_name(name, root)
    values = {
        "name": name,
        "package": f"hostwright_{name.replace('-', '_')}",
        "tool": name.replace("-", "_"),
        "version": __version__,
        "description": f"MCP server {name}: short notes that stay.",
    }
    rendered = {path: _render(text, values) for path, text in _templates(values)}
    manifest = rendered.pop(Path("manifest.toml"))
    pyproject = root / "pyproject.toml"
    wired = wire(pyproject.read_text(encoding="utf-8"), name)
    folder, manifest_file = root / "servers" / name, root / "manifests" / f"{name}.toml"
    with contextlib.ExitStack() as undo:
        # `.` in front: not a member of the workspace before it is whole.
        building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
        undo.callback(shutil.rmtree, building, ignore_errors=True)
        building.chmod(0o755)
        for path, text in rendered.items():
            (building / path).parent.mkdir(parents=True, exist_ok=True)
            (building / path).write_text(text, encoding="utf-8")
        manifest_file.parent.mkdir(exist_ok=True)
        with manifest_file.open("x", encoding="utf-8") as file:
            undo.callback(manifest_file.unlink)
            file.write(manifest)
        building.rename(folder)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        write_private(pyproject, wired.encode(), mode=pyproject.stat().st_mode & 0o777)
        undo.pop_all()
    made = [folder / path for path in rendered]
    return Scaffold(
        name=name,
        folder=folder,
        files=tuple(sorted(path.relative_to(root) for path in [*made, manifest_file])),
        changed=(pyproject.relative_to(root),),
    )


def find_checkout(start: Path) -> Path:
    """The root of the workspace that `start` is in."""
    for folder in (start.absolute(), *start.absolute().parents):
        try:
            data = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            continue
        if data.get("project", {}).get("name") == WORKSPACE:
            return folder
    raise HostError(
        f"{start.absolute()} is not inside a checkout of Hostwright.",
        fix="git clone the repository, and run this in it.",
        code="no_checkout",
    )


def wire(text: str, name: str) -> str:
    """The root's pyproject.toml with the server `name` in it, everything else as it was."""
    package, distribution = f"hostwright_{name.replace('-', '_')}", f"hostwright-{name}"
    try:
        document: Any = tomlkit.parse(text)
        linter = document["tool"]["importlinter"]
        _insert(document["project"]["dependencies"], distribution)
        source = tomlkit.parse("this = { workspace = true }\n")["this"]
        sources = document["tool"]["uv"]["sources"]
        last = list(sources)[-1]
        sources.append(distribution, source)
        _insert(linter["root_packages"], package)
        for contract in linter["contracts"]:
            for key in ("modules", "forbidden_modules"):
                if "hostwright" in contract.get(key, ()):
                    _insert(contract[key], package)
        result = _beside(tomlkit.dumps(document), distribution, last)
    except (TOMLKitError, KeyError, IndexError, TypeError) as error:
        raise HostError(
            f"The workspace's pyproject.toml is not laid out as expected: {error}.",
            fix="Compare it with a fresh checkout; nothing was changed.",
            code="bad_checkout",
        ) from error
    if tomllib.loads(result) != document.unwrap():
        raise HostError(
            "The workspace's pyproject.toml cannot be edited safely; nothing was changed.",
            fix="Add the server by hand: dependencies, tool.uv.sources, tool.importlinter.",
            code="bad_checkout",
        )
    return result


def _check_name(name: str, root: Path) -> None:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARS:
        raise HostError(
            f"{name!r} cannot be the name of a server.",
            fix=f"Use up to {MAX_NAME_CHARS} lower-case letters, digits and single hyphens, a "
            "letter first.",
            code="bad_name",
        )
    if name in RESERVED:
        raise HostError(
            f"{name!r} is taken by Hostwright itself.", fix="Choose another name.", code="bad_name"
        )
    taken = [root / "servers" / name, root / "manifests" / f"{name}.toml"]
    # `a-b` and `a_b` would be one package.
    package = f"hostwright_{name.replace('-', '_')}"
    taken += root.glob(f"servers/*/{package}")
    for path in taken:
        if path.exists():
            raise HostError(
                f"{path} exists already; nothing was changed.",
                fix="Choose another name, or remove it first.",
                code="exists",
            )


def _templates(values: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """Path in the server's folder and text of every template."""

    def walk(folder: Traversable, at: Path) -> Iterator[tuple[Path, str]]:
        for item in folder.iterdir():
            if item.is_dir():
                yield from walk(item, at / item.name)
            elif item.name.endswith(_SUFFIX):
                yield at / item.name.removesuffix(_SUFFIX), item.read_text(encoding="utf-8")

    for path, text in walk(files("hostwright") / "templates", Path()):
        parts = [values["package"] if part == "package" else part for part in path.parts]
        if parts[0] == "tests":
            # Test files are imported by name, so the names are unique in the workspace.
            parts[-1] = parts[-1].replace("test_", f"test_{values['tool']}_")
        yield Path(*parts), text


def _render(text: str, values: dict[str, str]) -> str:
    return _sort_imports(Template(text).substitute(values))


def _sort_imports(text: str) -> str:
    """Where the new package stands among ours depends on its name."""
    block = re.compile(r"(?:^from hostwright_\w+[^\n]* import [^\n]*\n){2,}", re.MULTILINE)

    def sort(found: re.Match[str]) -> str:
        lines = found[0].splitlines(keepends=True)
        return "".join(sorted(lines, key=lambda line: line.split()[1]))

    return block.sub(sort, text)


def _insert(array: Any, value: str) -> None:
    """Into a list of words, before the first that comes later in the alphabet."""
    words = [str(word) for word in array]
    if value in words:
        return
    position = next((at for at, word in enumerate(words) if word > value), len(words))
    if "\n" in array.as_string():
        array.insert(position, value)
        return
    # On one line tomlkit would leave out the space after a new first word.
    array.clear()
    array.extend([*words[:position], value, *words[position:]])


def _beside(text: str, key: str, neighbour: str) -> str:
    """tomlkit puts a new key behind the blank line that ends its table; ours stands before it."""
    lines = text.splitlines(keepends=True)
    ours = next(at for at, line in enumerate(lines) if line.startswith(f"{key} = "))
    line = lines.pop(ours)
    after = next(at for at, text in enumerate(lines) if text.startswith(f"{neighbour} = "))
    lines.insert(after + 1, line)
    return "".join(lines)
