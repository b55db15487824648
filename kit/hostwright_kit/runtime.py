"""What one server process holds open: folders, configuration, ledger, approvals, the guard."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from hostwright_kit.access_log import ACCESS_FOLDER, AccessLog
from hostwright_kit.approvals import Approvals
from hostwright_kit.caller import Transport
from hostwright_kit.checkpoints import Checkpoints, to_file, to_journal
from hostwright_kit.config import (
    KitConfig,
    LedgerConfig,
    Settings,
    load_kit_config,
    read_settings,
)
from hostwright_kit.guard import Guard
from hostwright_kit.host_key import host_signer
from hostwright_kit.ledger import Ledger
from hostwright_kit.ledger_line import SOCKET_FILE
from hostwright_kit.notifying import Notifier
from hostwright_kit.paths import Paths, resolve_paths
from hostwright_kit.policy_file import PolicySource
from hostwright_kit.policy_rates import Rates

Model = TypeVar("Model", bound=BaseModel)

LEDGER_FILE = "ledger.db"
APPROVALS_FILE = "approvals.db"
TOKENS_FILE = "tokens.db"


def checkpoints_of(state_dir: Path, rules: LedgerConfig) -> Checkpoints:
    """What signs this host's ledger, and where the copies go."""
    copies = [to_journal()] if rules.checkpoint_journal else []
    if rules.checkpoint_file is not None:
        copies.append(to_file(rules.checkpoint_file))
    return Checkpoints(
        lambda: host_signer(state_dir),
        copies,
        every_entries=rules.checkpoint_entries,
        every_seconds=rules.checkpoint_seconds,
    )


class Runtime:
    """Opened once per process by `open_runtime`, closed by `close`."""

    def __init__(
        self,
        server: str,
        paths: Paths,
        settings: Settings,
        config: KitConfig,
        policy: PolicySource | None = None,
        *,
        writes_for_all: bool = False,
    ) -> None:
        self.server = server
        self.paths = paths
        self.settings = settings
        self.config = config
        self.ledger = Ledger(
            paths.state_dir / LEDGER_FILE,
            checkpoints_of(paths.state_dir, config.ledger),
            through=None if writes_for_all else paths.runtime_dir / SOCKET_FILE,
        )
        self.access = AccessLog(
            paths.state_dir / ACCESS_FOLDER,
            max_file_bytes=config.ledger.access_log_mb * 1024 * 1024,
            kept_files=config.ledger.access_logs_kept,
            on_loss=self.ledger.remember_loss,
        )
        self.notifier = Notifier(config.notify, paths.state_dir)
        self.approvals = Approvals(
            paths.state_dir / APPROVALS_FILE,
            self.ledger,
            lifetime_seconds=config.approval.expires_minutes * 60,
            on_request=self.notifier.tell,
        )
        self.policy = policy or PolicySource(config.policy)
        self.rates = Rates(paths.state_dir)
        self.guard = Guard(
            config, self.ledger, self.approvals, self.policy, self.rates, self.access
        )
        self.transport: Transport = "stdio"
        self.link_key: str | None = None
        self._on_close: list[Callable[[], Awaitable[None]]] = []

    def table(self, name: str, model: type[Model]) -> Model:
        """This server's own table of the configuration; raises with every problem there is."""
        loaded = self.settings.load({name: model})
        self.settings.raise_problems()
        return model.model_validate(loaded[name])

    def on_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Call this when the server ends; last registered, first called."""
        self._on_close.append(closer)

    def flush_records(self, timeout_seconds: float = 10.0) -> None:
        """Wait until what nobody waited for is where it can be read. Blocks."""
        self.ledger.flush(timeout_seconds)
        self.access.flush(timeout_seconds)

    def close_records(self, timeout_seconds: float = 3.0) -> None:
        """Write what is queued, and nothing more. Safe to call twice."""
        self.access.close(timeout_seconds)
        self.ledger.close(timeout_seconds)

    async def close(self) -> None:
        """End what was registered, then write the last of what is recorded."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.close_records)
            stack.callback(self.approvals.close)
            stack.callback(self.rates.close)
            stack.callback(self.notifier.close)
            for closer in self._on_close:
                stack.push_async_callback(closer)


def open_runtime(
    server: str,
    *,
    config_file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    writes_for_all: bool = False,
) -> Runtime:
    """Check folders and configuration, then open the databases. Raises `HostError`.

    `writes_for_all`: this process is the one that others hand their entries to.
    """
    paths = resolve_paths().ensure()
    settings = read_settings(paths, config_file=config_file, overrides=overrides)
    config = load_kit_config(settings)
    policy = PolicySource.of(config.policy, settings, paths)
    settings.problems.extend(policy.problems)
    settings.raise_problems()
    return Runtime(server, paths, settings, config, policy, writes_for_all=writes_for_all)
