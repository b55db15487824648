"""Services as rows. Who lists them is passed in: systemd is spoken to over D-Bus elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from pydantic import BaseModel, Field

from hostwright_system.host import table


class ServiceRow(BaseModel, frozen=True, extra="forbid", from_attributes=True):
    """One systemd unit. The states are systemd's own words (systemctl(1)).

    Any object with these attributes becomes a row by `ServiceRow.model_validate(unit)`.
    """

    name: str = Field(description="Full name with its type, such as nginx.service.")
    description: str | None = Field(description="Null when the unit is not in memory.")
    load_state: str = Field(description="loaded, not-found, masked, error, …")
    active_state: str = Field(description="active, inactive, failed, activating, …")
    sub_state: str = Field(description="Finer state of the unit's type: running, exited, dead, …")
    enabled_state: str | None = Field(
        default=None, description="enabled, disabled, static, masked, …; null if not read."
    )


ListServices: TypeAlias = Callable[[], Awaitable[Sequence[ServiceRow]]]

TABLE: table.Table[ServiceRow] = table.Table(
    kind="services",
    fields=(
        table.Field("name", "text"),
        table.Field("description", "text", sortable=False),
        table.Field("load_state", "choice"),
        table.Field("active_state", "choice"),
        table.Field("sub_state", "choice"),
        table.Field("enabled_state", "choice"),
    ),
    identity=lambda row: row.name,
    default_sort="name",
)
