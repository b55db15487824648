"""From this installation's manifests to the model of what is exported. Reads; changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import tomlkit

from hostwright import __version__
from hostwright.exporting import values
from hostwright.exporting.model import Distribution, LeftOut, Server, Suite
from hostwright.installing import entry_environment, program
from hostwright.manifest import ENTRY_POINT_GROUP, Manifest
from hostwright.manifest_files import read_manifests
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths
from hostwright_kit.redact import is_secret_name, redact_text


def read_suite(
    paths: Paths, names: Sequence[str], *, port: int, environ: Mapping[str, str] | None = None
) -> Suite:
    """The servers of these names, or all that are enabled."""
    manifests, _ = read_manifests(paths)
    known = {manifest.name: manifest for manifest in manifests}
    if unknown := [name for name in names if name not in known]:
        raise HostError(
            f"There is no server {', '.join(map(repr, unknown))}.",
            fix=f"Known here: {', '.join(known)}. A new one needs a manifest.",
            code="not_found",
        )
    wanted = [known[name] for name in dict.fromkeys(names)] if names else manifests
    servers: list[Server] = []
    left_out: list[LeftOut] = []
    for manifest in wanted:
        if not names and not manifest.enabled:
            left_out.append(LeftOut(name=manifest.name, why="It is disabled."))
            continue
        made = _server(manifest)
        (servers if isinstance(made, Server) else left_out).append(made)  # type: ignore[arg-type]
    if names and left_out:
        raise HostError(
            " ".join(f"{one.name}: {one.why}" for one in left_out),
            fix="Correct its manifest; put secrets into [env] or headers, as ${NAME}.",
            code="not_exportable",
        )
    taken = {server.name for server in servers}
    return Suite(
        servers=tuple(servers),
        left_out=tuple(left_out),
        not_wanted=tuple(
            one.name for one in manifests if one.name not in taken and one.entry_point
        ),
        named=bool(names),
        version=__version__,
        program=program(),
        folders=entry_environment(os.environ if environ is None else environ, uid=os.getuid()),
        home=Path.home(),
        in_a_home=_in_a_home(),
        port=port,
    )


def _in_a_home() -> bool:
    # The program starts with this interpreter's path, which may lead elsewhere (pyenv, uv).
    here = [program(), Path(sys.executable).resolve(), Path(sys.base_prefix)]
    return any(path.is_relative_to(home) for path in here for home in ("/home", "/root"))


def _server(manifest: Manifest) -> Server | LeftOut:
    env = values.settings(manifest.name, manifest.env)
    headers = values.settings(manifest.name, manifest.headers)
    # A canary's arguments are whatever a tool takes, so nobody can tell what is secret in them.
    text = manifest.model_dump(
        mode="json", exclude_defaults=True, exclude={"env", "headers", "enabled", "canary"}
    )
    if (where := _gives_away(text)) is not None:
        why = f"Its manifest holds what looks like a secret ({where}), which must not be exported."
        return LeftOut(name=manifest.name, why=why)
    text |= {"env": {one.key: one.template for one in env}} if env else {}
    text |= {"headers": {one.key: one.template for one in headers}} if headers else {}
    distribution: Distribution | None = None
    if manifest.entry_point is not None:
        distribution = _distribution(manifest.entry_point)
        if distribution is None:
            why = f"No installed distribution offers the server {manifest.entry_point!r}."
            return LeftOut(name=manifest.name, why=why)
    elif manifest.command is None and manifest.url is None:
        return LeftOut(name=manifest.name, why="Only this installation can run it.")
    return Server(
        name=manifest.name,
        description=manifest.description,
        distribution=distribution,
        command=manifest.command,
        url=manifest.url,
        env=env,
        headers=headers,
        cwd=manifest.cwd,
        manifest=tomlkit.dumps(text),
    )


def _gives_away(value: Any, key: str = "") -> str | None:
    """The first key of a manifest whose text looks like a secret; never the text."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        found = (_gives_away(item, f"{key}.{name}".lstrip(".")) for name, item in items)
    elif isinstance(value, list):
        words = [item for item in cast("list[Any]", value) if isinstance(item, str)]
        what = values.suspicious(words)
        return f"{key}, {what}" if what else None
    elif isinstance(value, str) and key == "url":
        return None if values.is_public(key, value) else key
    elif isinstance(value, str):
        # A table `secrets` names entries of the vault; it holds none.
        named = is_secret_name(key.rpartition(".")[2]) and not key.startswith("secrets.")
        return key if named or redact_text(value) != value else None
    else:
        return None
    return next((one for one in found if one is not None), None)


def _distribution(name: str) -> Distribution | None:
    """Where a server of ours comes from, and the command that its package installs for it."""
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        dist = point.dist
        if dist is None:
            continue
        package = point.module.partition(".")[0]
        for script in dist.entry_points.select(group="console_scripts"):
            if script.module.partition(".")[0] == package:
                return Distribution(
                    name=dist.name,
                    version=dist.version,
                    script=script.name,
                    target=script.value,
                    summary=str(dist.metadata.json.get("summary", "")),
                    license=str(dist.metadata.json.get("license_expression", "")),
                )
    return None
