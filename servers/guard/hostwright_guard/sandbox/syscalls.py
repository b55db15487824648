"""System calls that a sandbox may not make, with their numbers on both architectures.

Numbers: the kernel's `syscall_64.tbl` (x86_64) and `asm-generic/unistd.h` (aarch64); from 424 on
they are the same everywhere. None: the architecture never had the call. Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LAST_JUDGED = 466
"""The newest call (removexattrat, Linux 6.13) that was looked at for this list. What is newer does
not exist for a sandbox, until somebody has looked at it."""


class Numbers(NamedTuple):
    """One call on both architectures."""

    x86_64: int | None
    aarch64: int | None


def _same(number: int) -> Numbers:
    return Numbers(number, number)


FORBIDDEN: Mapping[str, Numbers] = {
    # The tree of mounts: what is visible was decided before the command began.
    "mount": Numbers(165, 40),
    "umount2": Numbers(166, 39),
    "pivot_root": Numbers(155, 41),
    "chroot": Numbers(161, 51),
    "open_tree": _same(428),
    "move_mount": _same(429),
    "fsopen": _same(430),
    "fsconfig": _same(431),
    "fsmount": _same(432),
    "fspick": _same(433),
    "mount_setattr": _same(442),
    "statmount": _same(457),
    "listmount": _same(458),
    # Handles open files by number, past every path rule.
    "name_to_handle_at": Numbers(303, 264),
    "open_by_handle_at": Numbers(304, 265),
    # Namespaces: a new user namespace gives all capabilities inside it, and with them most of the
    # kernel's attack surface. `clone` is judged by its flags.
    "unshare": Numbers(272, 97),
    "setns": Numbers(308, 268),
    # Large kernel surfaces that ordinary programs do not need.
    "bpf": Numbers(321, 280),
    "perf_event_open": Numbers(298, 241),
    "userfaultfd": Numbers(323, 282),
    "io_uring_setup": _same(425),
    "io_uring_enter": _same(426),
    "io_uring_register": _same(427),
    "fanotify_init": Numbers(300, 262),
    "fanotify_mark": Numbers(301, 263),
    "lookup_dcookie": Numbers(212, 18),
    "vmsplice": Numbers(278, 75),
    # Keyrings are not part of any namespace.
    "keyctl": Numbers(250, 219),
    "add_key": Numbers(248, 217),
    "request_key": Numbers(249, 218),
    # Other processes.
    "ptrace": Numbers(101, 117),
    "process_vm_readv": Numbers(310, 270),
    "process_vm_writev": Numbers(311, 271),
    "process_madvise": _same(440),
    "pidfd_getfd": _same(438),
    "kcmp": Numbers(312, 272),
    "move_pages": Numbers(279, 239),
    "migrate_pages": Numbers(256, 238),
    # The machine itself. Most need a capability that a sandbox does not have; twice is better.
    "kexec_load": Numbers(246, 104),
    "kexec_file_load": Numbers(320, 294),
    "init_module": Numbers(175, 105),
    "finit_module": Numbers(313, 273),
    "delete_module": Numbers(176, 106),
    "reboot": Numbers(169, 142),
    "swapon": Numbers(167, 224),
    "swapoff": Numbers(168, 225),
    "acct": Numbers(163, 89),
    "quotactl": Numbers(179, 60),
    "quotactl_fd": _same(443),
    "syslog": Numbers(103, 116),
    "settimeofday": Numbers(164, 170),
    "clock_settime": Numbers(227, 112),
    "clock_adjtime": Numbers(305, 266),
    "adjtimex": Numbers(159, 171),
    "sethostname": Numbers(170, 161),
    "setdomainname": Numbers(171, 162),
    "vhangup": Numbers(153, 58),
    "nfsservctl": Numbers(180, 42),
    "iopl": Numbers(172, None),
    "ioperm": Numbers(173, None),
    "modify_ldt": Numbers(154, None),
    "uselib": Numbers(134, None),
    "_sysctl": Numbers(156, None),
    "ustat": Numbers(136, None),
    "sysfs": Numbers(139, None),
    "create_module": Numbers(174, None),
    "get_kernel_syms": Numbers(177, None),
    "query_module": Numbers(178, None),
}

CLONE = Numbers(56, 220)
CLONE3 = _same(435)
IOCTL = Numbers(16, 29)
SOCKET = Numbers(41, 198)
SOCKETPAIR = Numbers(53, 199)
PERSONALITY = Numbers(135, 92)
OPENAT2 = _same(437)


class ModeArgument(NamedTuple):
    """A call that gives a file a mode: where the mode is, and the open flags that must be set."""

    numbers: Numbers
    mode: int
    flags: int | None = None


SET_MODE: Mapping[str, ModeArgument] = {
    "chmod": ModeArgument(Numbers(90, None), 1),
    "fchmod": ModeArgument(Numbers(91, 52), 1),
    "fchmodat": ModeArgument(Numbers(268, 53), 2),
    "fchmodat2": ModeArgument(_same(452), 2),
    "mkdir": ModeArgument(Numbers(83, None), 1),
    "mkdirat": ModeArgument(Numbers(258, 34), 2),
    "mknod": ModeArgument(Numbers(133, None), 1),
    "mknodat": ModeArgument(Numbers(259, 33), 2),
    "creat": ModeArgument(Numbers(85, None), 1),
    "open": ModeArgument(Numbers(2, None), 2, flags=1),
    "openat": ModeArgument(Numbers(257, 56), 3, flags=2),
}
