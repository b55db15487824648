"""Plan and make a change to a client's configuration: `hostwright install` without its words.

`plan` reads and computes; `apply` writes, and only what was planned. The values are changed
first, on plain data; then the text is edited and must parse to exactly those values, so that an
edit that would spoil something is refused instead of written. Blocking (files).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from hostwright_kit.errors import HostError

from . import files, jsonedit, jsontext, tomltext
from .catalog import Client, Config, Places, Scope, client_named
from .entry import Entry
from .ownership import DEFAULT_GATEWAY, Origin, is_ours, origin
from .report import Applied, Change, Plan, redacted_diff
from .secrets import looks_secret, secret_values

_BOM = "\ufeff"
_LEVELS = {"json": 0, "jsonc": 1, "json5": 2}
_LEVEL_NAMES = {"jsonc": "comments or trailing commas", "json5": "JSON5 syntax"}
# Within these, only the keys that we set are ours.
_SHARED_MAPS = {"env", "environment", "headers", "http_headers"}


class _Set(NamedTuple):
    path: tuple[str, ...]
    value: Any


class _Remove(NamedTuple):
    path: tuple[str, ...]


_Edit = _Set | _Remove


def plan(
    client: str,
    entries: Sequence[Entry],
    *,
    remove: bool = False,
    home: Path,
    cwd: Path,
    scope: Scope = "user",
    environ: Mapping[str, str] | None = None,
    platform: str | None = None,
    gateway: str = DEFAULT_GATEWAY,
) -> Plan:
    """Work out how a client's file must change so that it has (or, with `remove`, has not) these
    entries. Nothing is written.

    `environ` is the environment in which the client runs (XDG_CONFIG_HOME, CODEX_HOME, …); left
    out, only `home` and `cwd` decide. `gateway` is the origin by which http entries are known as
    ours. `remove` without entries takes out everything of ours.
    """
    description = client_named(client)
    places = Places(home=home, cwd=cwd, environ=environ or {})
    if platform is not None:
        places = Places(home=home, cwd=cwd, environ=environ or {}, platform=platform)
    given = tuple(entries)
    _check(description, given, remove=remove)
    names = [entry.name for entry in given]
    candidates = description.files(places, scope)
    path = _choose(description, candidates, names)
    real = files.real_path(path)
    found = files.read(real)
    before, mode_before = found if found else (None, None)
    text = (before or "").removeprefix(_BOM)
    data, level = _parse(description, text, path)
    description = description.variant(data) or description
    gateways = frozenset({origin(gateway), *(origin(entry.url) for entry in given if entry.url)})

    container = _container(description, data, path)
    if remove:
        wanted = names or [key for key, value in container.items() if is_ours(value, gateways)]
        changes, edits = _plan_removal(description, container, wanted, gateways)
    else:
        wanted = names
        changes, edits = _plan_entries(description, container, given, gateways)
    after = before
    if edits:
        if not text.strip() and description.seed:
            edits = [*(_Set((key,), value) for key, value in description.seed.items()), *edits]
        after = _edit_text(description, text, data, edits, path)
        if before is not None and before.startswith(_BOM):
            after = _BOM + after
    private = not remove and any(
        _has_secret(entry)
        for entry, change in zip(given, changes, strict=True)
        if change.action != "conflict"
    )
    mode_after = 0o600 if mode_before is None else mode_before
    if mode_before is None and scope == "project" and not private:
        mode_after = 0o644
    if private:
        mode_after &= 0o700
    hidden = secret_values(data) | {
        entry.bearer_token.get_secret_value() for entry in given if entry.bearer_token
    }
    if after is not None and after != before:
        hidden |= secret_values(_parse(description, after.removeprefix(_BOM), path)[0])
    return Plan(
        client=client,
        scope=scope,
        remove=remove,
        path=path,
        real_path=real,
        before=before,
        after=after,
        mode_before=mode_before,
        mode_after=mode_after,
        diff=redacted_diff(before or "", after or "", path, hidden),
        changes=tuple(changes),
        kept=tuple(key for key in container if key not in wanted),
        warnings=tuple(
            _warnings(description, level, given, changes, scope, remove=remove, private=private)
        ),
    )


def apply(planned: Plan) -> Applied:
    """Make a planned change: backup first, then the whole file at once.

    Refuses when the file is no longer what it was when the plan was made.
    """
    real = files.real_path(planned.path)
    if real != planned.real_path:
        raise files.changed_meanwhile(planned.path)
    backup = None
    if planned.changes_text and planned.after is not None:
        backup = files.replace(
            real,
            planned.before,
            planned.after,
            mode=planned.mode_after,
            private_folder=planned.scope == "user",
        )
    elif planned.changes_mode:
        found = files.read(real)
        if found is None or found[0] != planned.before:
            raise files.changed_meanwhile(planned.path)
        files.tighten(real, planned.mode_after)
    return Applied(path=planned.path, changed=planned.changed, backup=backup)


# -- reading -----------------------------------------------------------------------------------


def _check(client: Client, entries: tuple[Entry, ...], *, remove: bool) -> None:
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HostError(
            f"The server {', '.join(twice)} is given twice.",
            fix="Name every server once.",
            code="invalid",
        )
    if not remove and not entries:
        raise HostError(
            "There is no server to install.", fix="Name at least one server.", code="invalid"
        )
    if not remove and not client.has_http and any(entry.url for entry in entries):
        raise HostError(
            f"{client.title} takes only servers that it starts itself from its file.",
            fix="Install the stdio form (hostwright connect NAME).",
            code="unsupported",
        )


def _choose(client: Client, candidates: list[Path], names: list[str]) -> Path:
    """The file to edit: the one with these entries, else the first there is, else the last name."""
    existing = [path for path in candidates if path.exists() or path.is_symlink()]
    if len(existing) > 1:
        for path in existing:
            found = files.read(files.real_path(path))
            data, _ = _parse(client, (found[0] if found else "").removeprefix(_BOM), path)
            layout = client.variant(data) or client
            if any(name in _container(layout, data, path) for name in names):
                return path
    return existing[0] if existing else candidates[-1]


def _parse(client: Client, text: str, path: Path) -> tuple[Config, jsontext.Level | None]:
    try:
        if client.format == "toml":
            return tomltext.parse(text), None
        if not text.strip(jsontext.WHITESPACE):
            return {}, None
        document = jsontext.JsonText(text)
        document.object_at(client.container)
    except jsontext.InvalidTextError as error:
        raise _in_file(error, path) from error
    return cast("Config", document.value), document.level


def _in_file(error: HostError, path: Path) -> HostError:
    return HostError(f"{path}, {error.message}", fix=error.fix, code=error.code)


def _container(client: Client, data: Config, path: Path) -> Config:
    value: Any = data
    for depth, key in enumerate(client.container):
        value = cast("Config", value).get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise HostError(
                f"{path}: “{'.'.join(client.container[: depth + 1])}” is not a table.",
                fix="Correct it by hand; nothing was changed.",
                code="invalid_file",
            )
    return cast("Config", value)


# -- deciding ----------------------------------------------------------------------------------


def _plan_entries(
    client: Client,
    container: Config,
    entries: Iterable[Entry],
    gateways: frozenset[Origin],
) -> tuple[list[Change], list[_Edit]]:
    changes: list[Change] = []
    edits: list[_Edit] = []
    for entry in entries:
        at = (*client.container, entry.name)
        desired = client.render(entry)
        if entry.name not in container:
            changes.append(Change(name=entry.name, action="added"))
            edits.append(_Set(at, desired))
            continue
        existing = container[entry.name]
        if existing != desired and not is_ours(existing, gateways):
            detail = "another server has this name; rename or remove it in the file first"
            changes.append(Change(name=entry.name, action="conflict", detail=detail))
            continue
        update = _update(client, at, cast("Config", existing), desired)
        edits.extend(update)
        keys = sorted({edit.path[len(at)] for edit in update})
        changes.append(
            Change(
                name=entry.name,
                action="changed" if update else "unchanged",
                detail=", ".join(keys),
            )
        )
    return changes, edits


def _update(client: Client, at: tuple[str, ...], old: Config, new: Config) -> list[_Edit]:
    """The edits that make an entry of ours current, leaving what the owner added to it."""
    edits: list[_Edit] = []
    for key, value in new.items():
        current = old.get(key)
        if key in _SHARED_MAPS and isinstance(current, dict) and isinstance(value, dict):
            items = cast("Config", value).items()
            edits += [
                _Set((*at, key, name), item)
                for name, item in items
                if cast("Config", current).get(name) != item
            ]
        elif (
            key not in old
            or current != value
            or isinstance(current, bool) != isinstance(value, bool)
        ):
            edits.append(_Set((*at, key), value))
    # Last, so that the entry is never empty in between and its comments stay.
    same_transport = ("url" in old) == ("url" in new)
    edits += [
        _Remove((*at, key))
        for key in old
        if key in client.managed - new.keys() and not (key in _SHARED_MAPS and same_transport)
    ]
    return edits


def _plan_removal(
    client: Client,
    container: Config,
    names: Iterable[str],
    gateways: frozenset[Origin],
) -> tuple[list[Change], list[_Edit]]:
    changes: list[Change] = []
    edits: list[_Edit] = []
    for name in names:
        if name not in container:
            changes.append(Change(name=name, action="absent"))
        elif not is_ours(container[name], gateways):
            detail = "this entry does not lead to Hostwright; remove it by hand if it should go"
            changes.append(Change(name=name, action="conflict", detail=detail))
        else:
            changes.append(Change(name=name, action="removed"))
            edits.append(_Remove((*client.container, name)))
    return changes, edits


def _has_secret(entry: Entry) -> bool:
    settings = {**entry.env, **entry.headers}
    return entry.bearer_token is not None or any(
        looks_secret(name, value) for name, value in settings.items()
    )


def _warnings(
    client: Client,
    level: jsontext.Level | None,
    entries: tuple[Entry, ...],
    changes: list[Change],
    scope: Scope,
    *,
    remove: bool,
    private: bool,
) -> list[str]:
    warnings: list[str] = []
    if level and client.format != "toml" and _LEVELS[level] > _LEVELS[client.format]:
        warnings.append(f"The file has {_LEVEL_NAMES[level]}; {client.title} may not read that.")
    if remove:
        return warnings
    warnings += [
        f"“{change.name}” was left alone: {change.detail}."
        for change in changes
        if change.action == "conflict"
    ]
    warnings += [
        f"{client.title} cannot set a working folder; “{entry.name}” starts without it."
        for entry in entries
        if entry.cwd and not client.has_cwd
    ]
    if private and scope == "project":
        warnings.append(
            "The project file now holds a secret: keep it out of version control, or use the "
            "stdio form."
        )
    return warnings + client.notes(scope, entries)


# -- editing -----------------------------------------------------------------------------------


def _edit_text(client: Client, text: str, data: Config, edits: list[_Edit], path: Path) -> str:
    module = tomltext if client.format == "toml" else jsonedit
    expected = copy.deepcopy(data)
    try:
        for edit in edits:
            if isinstance(edit, _Set):
                text = module.set_value(text, edit.path, edit.value)
                _set(expected, edit.path, edit.value)
            else:
                text = module.remove(text, edit.path)
                _delete(expected, edit.path)
        result, _ = _parse(client, text, path)
    except jsontext.InvalidTextError as error:
        raise _in_file(error, path) from error
    for edit in edits:
        if isinstance(edit, _Remove):
            # Whether a table that is empty now stays depends on the comments in it.
            _drop_empty(result, edit.path[:-1])
            _drop_empty(expected, edit.path[:-1])
    if _canonical(result) != _canonical(expected):
        raise HostError(
            f"{path} is laid out in a way that cannot be edited safely; nothing was changed.",
            fix="Make the change by hand.",
            code="unsupported",
        )
    return text


def _set(data: Config, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        if data.get(key) is None:
            data[key] = {}
        data = data[key]
    data[path[-1]] = copy.deepcopy(value)


def _delete(data: Config, path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        data = data[key]
    del data[path[-1]]


def _drop_empty(data: Config, path: tuple[str, ...]) -> None:
    for depth in range(len(path), 0, -1):
        holder: Any = data
        for key in path[: depth - 1]:
            holder = holder.get(key) or {}
        if holder.get(path[depth - 1]) == {}:
            del holder[path[depth - 1]]


def _canonical(value: Any) -> str:
    """A form to compare by: NaN equals itself, and 1 is not 1.0."""
    return json.dumps(value, sort_keys=True, default=str)
