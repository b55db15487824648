"""Times as they are written down, and a clock that nobody can set.

Written: UTC, ISO 8601, milliseconds, `Z`; such times sort as text. How long something has been
waiting is measured on the boot's own clock (CLOCK_BOOTTIME: it runs while the machine sleeps and
cannot be turned back), named by the boot it belongs to.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


class Instant(NamedTuple):
    """Now, on both clocks."""

    boot: str
    """Which boot of the machine; empty where it cannot be told."""
    elapsed: float
    """Seconds since that boot."""
    wall: datetime

    @property
    def written(self) -> str:
        """The wall clock's time in the one format."""
        return format_utc(self.wall)

    def written_in(self, seconds: float) -> str:
        """The wall clock's time that many seconds later."""
        return format_utc(self.wall + timedelta(seconds=seconds))


def instant() -> Instant:
    """Now."""
    # macOS has no CLOCK_BOOTTIME; its monotonic clock goes on while the machine sleeps.
    elapsed = time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)
    return Instant(_boot(), elapsed, datetime.now(UTC))


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _darwin_boot() if sys.platform == "darwin" else ""


def _darwin_boot() -> str:
    name, held = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
    library = ctypes.CDLL(None)
    failed = library.sysctlbyname(b"kern.bootsessionuuid", name, ctypes.byref(held), None, 0)
    return "" if failed else name.value.decode("ascii")


def utc_now() -> str:
    """Now."""
    return f"{datetime.now(UTC).isoformat(timespec='milliseconds')[:-6]}Z"


def format_utc(moment: datetime) -> str:
    """`moment` (aware) in the one format."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
