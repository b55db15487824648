"""The configuration: every error at once, and the way back to the last one that worked.

Repair: `config` puts the newest good copy back (`config:COPY` an older one).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from hostwright.rescue import good
from hostwright.rescue.findings import Finding, Repair
from hostwright.rescue.ground import Ground, clip
from hostwright_kit.errors import HostError

AREA = "configuration"
NEEDED = (
    *("pydantic", "msgspec", "cryptography", "argon2", "keyring", "starlette", "httptools"),
    *("httpx2", "fastmcp", "mcp", "cyclopts", "rich", "psutil", "uvloop", "prometheus_client"),
    *("hostwright.daemon", "hostwright_kit.run"),
)


def check_installation() -> Iterator[Finding]:
    """Whether every program part that a start needs can be loaded."""
    broken = 0
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a damaged package fails in any way
            broken += 1
            yield Finding(
                f"installed:{name}",
                "installation",
                "error",
                f"{name} cannot be loaded: {type(error).__name__}: {clip(str(error))}",
                fix="Install hostwright again into this environment.",
            )
    if not broken:
        message = f"{len(NEEDED)} parts of the program load."
        yield Finding("installed", "installation", "ok", message)


def check_config(ground: Ground) -> Iterator[Finding]:
    """Every layer, every manifest."""
    from hostwright.checkup import configuration

    # Nothing is offered that would not change what is wrong.
    repair = restore(ground)
    number = 0
    for check in (configuration.check_configuration, configuration.check_manifests):
        for found in check(ground.paths):
            if found.state != "problem":
                continue
            number += 1
            ours = found.path is not None and found.path.is_relative_to(ground.config)
            changed = repair is not None and found.path in repair.files
            yield Finding(
                f"config:{number}",
                AREA,
                "error",
                f"{found.place}: {found.message}" if found.place else found.message,
                evidence=(f"at {found.what}",) if found.what else (),
                fix=found.fix,
                repair=repair if ours and changed else None,
            )
    copies = good.copies(ground.state)
    if not number:
        yield Finding("config", AREA, "ok", f"No error. Good copies: {len(copies)}.")
    elif not copies:
        yield Finding(
            "copies",
            AREA,
            "note",
            "There is no copy of a good configuration: none has ever started here.",
        )


def restore(ground: Ground, copy_id: str | None = None) -> Repair | None:
    """Put a good copy back; None when there is none that changes anything.

    The newest sound one that differs from what stands there, where none is named.
    """
    wanted = [good.find(ground.state, copy_id)] if copy_id else good.copies(ground.state)
    for copy in wanted:
        try:
            files = copy.files()
            change = good.difference(ground.config, files)
        except HostError:
            if copy_id:
                raise
            continue
        except OSError as error:
            raise HostError(
                f"The configuration cannot be read: {error.filename}: {error.strerror}.",
                fix="Mend its permissions first (the repairs `mode:…`).",
                code="unreadable",
            ) from error
        if change.any:
            return _restoring(ground, copy, files, change, named=copy_id is not None)
    return None


def _restoring(
    ground: Ground, copy: good.Copy, files: good.Files, change: good.Difference, *, named: bool
) -> Repair:
    def act() -> list[str]:
        return good.put_back(ground.config, files)

    return Repair(
        f"config:{copy.id}" if named else "config",
        f"put back the configuration of {copy.made}: {', '.join(change.words())}",
        act,
        files=tuple(ground.config / name for name in (*change.written, *change.removed)),
    )
