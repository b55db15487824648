"""Opens the vault for servers as they start: what a manifest names, for that server alone.

The vault is opened for the first manifest that needs it, and values are not kept: each start opens
them anew, so that a replaced secret is used after `hostwright restart NAME`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hostwright.manifest import Manifest

if TYPE_CHECKING:
    from pathlib import Path

    from hostwright_kit.ledger import Ledger
    from hostwright_kit.vault import Vault


class SecretsAtStart:
    """The daemon's hand on the vault."""

    def __init__(self, state_dir: Path, ledger: Ledger) -> None:
        self._state_dir = state_dir
        self._ledger = ledger
        self._vault: Vault | None = None
        self._lock = threading.Lock()

    async def __call__(self, manifest: Manifest) -> Mapping[str, str]:
        """Entry → value, for one start of this server. Raises `HostError` with the remedy."""
        wanted = manifest.vault_entries
        if not wanted:
            return {}
        return await asyncio.to_thread(self._opened, manifest.name, sorted(wanted))

    def close(self) -> None:
        """Let go of the vault's key."""
        if self._vault is not None:
            self._vault.close()
            self._vault = None

    def _opened(self, server: str, entries: list[str]) -> Mapping[str, str]:
        with self._lock:
            if self._vault is None:
                # Cryptography and the keyring's backends cost a daemon without secrets nothing.
                from hostwright_kit.vault import open_vault  # noqa: PLC0415

                self._vault = open_vault(self._state_dir, self._ledger)
            vault = self._vault
        return {entry: vault.open(entry, server).get_secret_value() for entry in entries}
