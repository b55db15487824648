"""systemd's services and journal, as typed asyncio functions over D-Bus and journalctl.

`bus` is the connection, `units` reads, `control` acts, `journal` reads logs, `presence` says
whether there is a systemd at all. Nothing here knows MCP.
"""

from .bus import Scope
from .control import (
    ACTIONS,
    MAX_WAIT_S,
    Action,
    ActionFailedError,
    ControlResult,
    SymlinkChange,
    UnitState,
    service_control,
)
from .journal import Direction, JournalPage, journal_logs
from .journal_entry import PRIORITIES, JournalEntry
from .journalctl import Journal
from .presence import SystemdStatus, systemd_status
from .units import (
    ExitInfo,
    ServiceStatus,
    Trigger,
    UnitList,
    UnitSummary,
    list_units,
    service_status,
)

__all__ = [
    "ACTIONS",
    "MAX_WAIT_S",
    "PRIORITIES",
    "Action",
    "ActionFailedError",
    "ControlResult",
    "Direction",
    "ExitInfo",
    "Journal",
    "JournalEntry",
    "JournalPage",
    "Scope",
    "ServiceStatus",
    "SymlinkChange",
    "SystemdStatus",
    "Trigger",
    "UnitList",
    "UnitState",
    "UnitSummary",
    "journal_logs",
    "list_units",
    "service_control",
    "service_status",
    "systemd_status",
]
