"""What a daemon does for recovery once everything has started: the good copy, the journal."""

from __future__ import annotations

from pathlib import Path

from hostwright.rescue import good, recording
from hostwright_kit.errors import HostError
from hostwright_kit.ledger import Ledger


def read_config(config_dir: Path) -> good.Files | None:
    """The configuration that is about to be started; None when it cannot be read. Blocking."""
    try:
        return good.read(config_dir)
    except OSError:
        return None  # the settings' own reader has told, or passed over another user's file


def started(
    config_dir: Path, state_dir: Path, ledger: Ledger, begun_with: good.Files | None, *, well: bool
) -> list[str]:
    """Keep what was started as good, if it went well and nobody has changed it since. Blocking.

    Returns what could not be done.
    """
    problems: list[str] = []
    try:
        recording.take_over(state_dir, ledger)
    except (HostError, OSError) as error:
        problems.append(f"The journal of repairs is not in the ledger yet: {error}")
    if well and begun_with is not None and read_config(config_dir) == begun_with:
        try:
            good.keep(state_dir, begun_with)
        except OSError as error:
            problems.append(f"No good copy of the configuration was kept: {error}")
    return problems
