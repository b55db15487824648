"""Units that take more with them than their name says, and which actions on them do.

Not a boundary (policy and approval are), but a second look: without `allow_protected` an agent that
means well does not cut off its own arm. Starting, reloading and restarting what restarts safely
(sshd keeps its sessions) stays open. Pure data and one function.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

_OFF = frozenset({"stop", "disable"})
_OFF_OR_RESTART = _OFF | {"restart"}
_START = frozenset({"start", "restart"})

_RULES: tuple[tuple[tuple[str, ...], frozenset[str], str], ...] = (
    (
        ("dbus.service", "dbus.socket", "dbus-broker.service"),
        _OFF_OR_RESTART,
        "every program on the bus loses its connection, this one included",
    ),
    (
        ("systemd-journald*", "systemd-udevd*", "systemd-logind.service"),
        _OFF,
        "the whole machine relies on it for logs, devices or log-ins",
    ),
    (
        ("ssh.service", "ssh.socket", "sshd.service", "sshd.socket"),
        _OFF,
        "nobody could log in over the network again",
    ),
    (
        (
            "networking.service",
            "NetworkManager.service",
            "systemd-networkd.*",
            "network.target",
            "wpa_supplicant.service",
        ),
        _OFF,
        "the machine could lose its network",
    ),
    (
        ("-.slice", "-.mount", "init.scope", "system.slice", "user.slice", "user@*.service"),
        _OFF_OR_RESTART,
        "everything inside it ends as well",
    ),
    (
        ("hostwright.service", "hostwright.socket", "hostwright-*.service", "hostwright-*.socket"),
        _OFF_OR_RESTART,
        "it may run this very server, and the approvals and the record with it",
    ),
    (
        ("basic.target", "sysinit.target", "local-fs.target", "multi-user.target"),
        _OFF,
        "everything that needs it ends as well",
    ),
    (
        (
            *("poweroff.target", "reboot.target", "halt.target", "kexec.target", "exit.target"),
            *("soft-reboot.target", "shutdown.target", "rescue.target", "emergency.target"),
            *("suspend.target", "hibernate.target", "hybrid-sleep.target", "rescue.service"),
            *("suspend-then-hibernate.target", "systemd-poweroff.service", "emergency.service"),
            *("systemd-reboot.service", "systemd-halt.service", "systemd-kexec.service"),
            *("systemd-suspend.service", "systemd-hibernate.service"),
        ),
        _START,
        "the machine stops, restarts, sleeps or ends all services",
    ),
)


def danger(names: Iterable[str], action: str) -> str | None:
    """What else ACTION does on a unit of these NAMES (aliases included); None when nothing."""
    for name in names:
        for patterns, actions, why in _RULES:
            if action in actions and any(fnmatch.fnmatchcase(name, each) for each in patterns):
                return why
    return None
