"""Turning another program's MCP servers into manifests of the owner's, in `<config>/manifests`.

`hostwright.clients` reads the foreign file and proposes; here the proposals are checked as every
manifest is, and written: whole files, private, and never over one that is there unless told to
(then its old text stays beside it). Blocking (files).
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from hostwright.clients import Finding, Imported, ImportedServer, import_servers
from hostwright.clients import files as client_files
from hostwright.manifest import SUPERVISOR, Manifest, executable_for, expand
from hostwright.manifest_files import load_manifests, suite_folder, user_folder
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths, ensure_private

Action = Literal["written", "replaced", "unchanged", "exists", "refused"]


class Adopted(BaseModel, frozen=True):
    """One server, and what became of it."""

    name: str
    source_name: str
    place: str = Field(description="Where it stands in the imported file.")
    path: Path = Field(description="Its manifest.")
    action: Action = Field(description="In a dry run: what would be done.")
    reason: str = Field(default="", description="Why it was not written.")
    warnings: tuple[str, ...] = ()
    backup: Path | None = Field(default=None, description="The manifest that it replaced.")


class Adoption(BaseModel, frozen=True):
    """Everything that was found in one file."""

    file: Path
    format: str
    dry_run: bool
    servers: tuple[Adopted, ...]
    skipped: tuple[Finding, ...] = Field(description="Left out on purpose.")
    problems: tuple[Finding, ...] = Field(description="What could not be imported.")

    @property
    def complete(self) -> bool:
        """Whether every server that should be here now is."""
        done = all(one.action not in ("exists", "refused") for one in self.servers)
        return done and not self.problems


def adopt(file: Path, paths: Paths, *, gateway: str, dry_run: bool, replace: bool) -> Adoption:
    """Import every server of `file`; a fault of one does not hold up the others."""
    imported: Imported = import_servers(file, gateway=gateway)
    folder = user_folder(paths)
    if not dry_run:
        ensure_private(paths.config_dir)
        ensure_private(folder)
    suite = {SUPERVISOR, *(one.name for one in load_manifests((suite_folder(),))[0])}
    return Adoption(
        file=file,
        format=imported.format,
        dry_run=dry_run,
        servers=tuple(
            _adopt_one(server, file, folder, suite, dry_run=dry_run, replace=replace)
            for server in imported.servers
        ),
        skipped=imported.skipped,
        problems=imported.problems,
    )


def _adopt_one(
    server: ImportedServer,
    file: Path,
    folder: Path,
    suite: set[str],
    *,
    dry_run: bool,
    replace: bool,
) -> Adopted:
    path = folder / f"{server.name}.toml"
    text = f"# Imported by `hostwright import` from {_one_line(file)}.\n{server.manifest}"
    warnings = [f"{one.place}: {one.message}" for one in server.warnings]

    def result(action: Action, reason: str = "", backup: Path | None = None) -> Adopted:
        return Adopted(
            name=server.name,
            source_name=server.source_name,
            place=server.place,
            path=path,
            action=action,
            reason=reason,
            warnings=tuple(warnings),
            backup=backup,
        )

    if server.name in suite:
        return result(
            "refused",
            f"{server.name} is the name of a server of the suite, which it would replace; give "
            "it another name in the imported file",
        )
    try:
        manifest = Manifest.model_validate(tomllib.loads(text))
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, detail["loc"]))
        return result("refused", f"{where}: {detail['msg']}".removeprefix(": "))
    warnings += _cannot_run(manifest)
    found = client_files.read(path)
    if found is not None and _same(found[0], text):
        return result("unchanged")
    if found is not None and not replace:
        return result("exists", "there is such a manifest already; --replace puts this one there")
    backup = None
    if not dry_run:
        before = found[0] if found else None
        backup = client_files.replace(path, before, text, mode=0o600, private_folder=True)
    return result("replaced" if found else "written", backup=backup)


def _cannot_run(manifest: Manifest) -> list[str]:
    """What will keep it from starting, as things are now."""
    found: list[str] = []
    search = os.environ.get("PATH", os.defpath)
    try:
        search = expand(manifest, os.environ).env.get("PATH", search)
    except HostError as error:
        found.append(str(error))
    if manifest.command is not None:
        try:
            executable_for(manifest.command[0], search, manifest.folder)
        except HostError as error:
            found.append(str(error))
    return found


def _same(one: str, other: str) -> bool:
    """Whether two manifests say the same."""
    try:
        return tomllib.loads(one) == tomllib.loads(other)
    except tomllib.TOMLDecodeError:
        return False


def _one_line(file: Path) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(file.absolute()))
