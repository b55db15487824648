"""Every table of every configuration layer, and every manifest.

The tables of the kit and of the gateway are known; those of the servers are found by the
entry-point group `hostwright.settings`, whose entries name the model of one table
(`system = "hostwright_system.settings:SystemSettings"`). Reads files and imports those models.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from pydantic import BaseModel

from hostwright.checkup.findings import Finding
from hostwright.manifest_files import installed_servers, read_manifests
from hostwright.settings import GatewaySettings
from hostwright.telemetry import TelemetrySettings
from hostwright_kit.config import KitConfig, Settings, load_kit_config, read_settings
from hostwright_kit.paths import Paths
from hostwright_kit.policy_file import PolicySource

SETTINGS_GROUP = "hostwright.settings"
AREA = "configuration"


def check_configuration(paths: Paths) -> Iterator[Finding]:
    """All layers: what cannot be read, unknown tables and keys, wrong values."""
    settings = read_settings(paths)
    policy = PolicySource.of(load_kit_config(settings).policy, settings, paths)
    settings.problems.extend(policy.problems)
    models, broken = settings_models()
    yield from broken
    settings.load({"gateway": GatewaySettings, "telemetry": TelemetrySettings, **models})
    kit_tables = set(KitConfig.model_fields)
    unchecked = installed_servers().keys() - models.keys()
    settings.check_unknown([*kit_tables, "gateway", "telemetry", *models, *unchecked])
    for problem in settings.problems:
        path = Path(problem.source)
        yield Finding(
            area=AREA,
            what=problem.key or path.name,
            state="problem",
            message=problem.message
            if path.is_absolute()
            else f"{problem.message} (set by: {problem.source})",
            fix=problem.fix,
            path=path if path.is_absolute() else None,
            line=problem.line,
        )
    for name in sorted(unchecked & settings.values.keys()):
        yield Finding(
            area=AREA,
            what=name,
            state="degraded",
            message="This table cannot be checked: its server declares no settings.",
            fix=f"Its distribution can, in the entry-point group {SETTINGS_GROUP}.",
        )
    if not settings.problems:
        layers = ", ".join(layer.source for layer in settings.layers) or "defaults only"
        yield Finding(area=AREA, what="config.toml", state="ok", message=layers)


def gateway_settings(paths: Paths) -> GatewaySettings | None:
    """`[gateway]`, or None when it is wrong; `check_configuration` says how."""
    settings: Settings = read_settings(paths)
    loaded = settings.load({"gateway": GatewaySettings})
    found = loaded.get("gateway")
    return found if isinstance(found, GatewaySettings) else None


def settings_models() -> tuple[dict[str, type[BaseModel]], list[Finding]]:
    """The models of the installed servers' tables, and those that cannot be imported."""
    models: dict[str, type[BaseModel]] = {}
    broken: list[Finding] = []
    for point in entry_points(group=SETTINGS_GROUP):
        try:
            model = point.load()
        except Exception as error:  # noqa: BLE001 - a stranger's module may fail in any way
            message = f"Its settings cannot be imported: {type(error).__name__}: {error}."
        else:
            if isinstance(model, type) and issubclass(model, BaseModel):
                models[point.name] = model
                continue
            message = f"{point.value} is not a pydantic model."
        name = point.dist.name if point.dist else point.value
        fix = f"Install {name} again, or remove it."
        broken.append(
            Finding(area=AREA, what=point.name, state="problem", message=message, fix=fix)
        )
    return models, broken


def check_manifests(paths: Paths) -> Iterator[Finding]:
    """Every manifest of the suite and of the owner, and whether each can be started now."""
    manifests, problems = read_manifests(paths)
    for problem in problems:
        yield Finding(
            area="manifests",
            what=problem.key or (problem.file.name if problem.file else "manifest"),
            state="problem" if problem.level == "error" else "ok",
            message=problem.message,
            fix=problem.fix,
            path=problem.file,
            line=problem.line,
        )
    names = [one.name if one.enabled else f"{one.name} (disabled)" for one in manifests]
    if not names:
        yield Finding(
            area="manifests",
            what="servers",
            state="degraded",
            message="There is no server to run.",
            fix="Install one (pip install hostwright-system) or write a manifest.",
        )
    elif all(problem.level != "error" for problem in problems):
        yield Finding(area="manifests", what="servers", state="ok", message=", ".join(names))
