"""User accounts, from the system's account database (getpwent(3)), and who is logged in.

No password field and nothing of /etc/shadow is read. A directory service behind NSS may be slow or
dead, so the listing has a deadline. Blocking.
"""

from __future__ import annotations

import grp
import pwd
from collections import Counter, defaultdict
from pathlib import PurePosixPath

import psutil
from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError
from hostwright_system.host import table
from hostwright_system.host.bounded import BoundedCalls, Silent

TIMEOUT_SECONDS = 5.0
MAX_GROUPS_SHOWN = 64
# useradd(8): people's accounts begin here on every common distribution.
FIRST_HUMAN_UID = 1000
NOBODY_UID = 65534


class UserRow(BaseModel, frozen=True, extra="forbid"):
    """One account."""

    name: str
    uid: int
    gid: int
    full_name: str
    home: str
    shell: str
    groups: tuple[str, ...] = Field(description="By name, the primary one first, at most 64.")
    can_log_in: bool = Field(description="Whether the shell is a shell; passwords are not read.")
    system_account: bool = Field(description="Uid below 1000, or nobody.")
    sessions: int = Field(description="Logins that are open now.")


TABLE: table.Table[UserRow] = table.Table(
    kind="users",
    fields=(
        table.Field("name", "text"),
        table.Field("uid", "number"),
        table.Field("gid", "number"),
        table.Field("full_name", "text"),
        table.Field("home", "text"),
        table.Field("shell", "text"),
        table.Field("can_log_in", "flag"),
        table.Field("system_account", "flag"),
        table.Field("sessions", "number"),
    ),
    identity=lambda row: f"{row.name} {row.uid}",
    default_sort="uid",
)

_calls: BoundedCalls[list[UserRow]] = BoundedCalls()


def user_rows() -> tuple[list[UserRow], list[str]]:
    """Every account that the system enumerates, and notes."""
    answer = _calls.run({"accounts": _read}, timeout_seconds=TIMEOUT_SECONDS)["accounts"]
    if isinstance(answer, Silent | OSError):
        raise HostError(
            f"The account database did not answer within {TIMEOUT_SECONDS:.0f} s.",
            fix="Check the directory service behind /etc/nsswitch.conf (sssd, LDAP).",
            code="timeout",
        )
    return answer, []


def _read() -> list[UserRow]:
    primary = {g.gr_gid: g.gr_name for g in grp.getgrall()}
    memberships: dict[str, list[str]] = defaultdict(list)
    for group in grp.getgrall():
        for member in group.gr_mem:
            memberships[member].append(group.gr_name)
    sessions = Counter(session.name for session in psutil.users())
    # A name may stand in several sources of NSS; the first is the one that logins see.
    accounts = {(a.pw_name, a.pw_uid): a for a in reversed(pwd.getpwall())}
    return [
        _row(a, primary.get(a.pw_gid, str(a.pw_gid)), memberships[a.pw_name], sessions[a.pw_name])
        for a in accounts.values()
    ]


def _row(account: pwd.struct_passwd, primary: str, others: list[str], sessions: int) -> UserRow:
    groups = dict.fromkeys([primary, *sorted(others)])
    return UserRow(
        name=account.pw_name,
        uid=account.pw_uid,
        gid=account.pw_gid,
        full_name=account.pw_gecos.partition(",")[0],
        home=account.pw_dir,
        shell=account.pw_shell,
        groups=tuple(groups)[:MAX_GROUPS_SHOWN],
        can_log_in=PurePosixPath(account.pw_shell or "/bin/sh").name
        not in ("nologin", "false", "sync", "shutdown", "halt"),
        system_account=account.pw_uid < FIRST_HUMAN_UID or account.pw_uid == NOBODY_UID,
        sessions=sessions,
    )
