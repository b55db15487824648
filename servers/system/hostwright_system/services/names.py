"""Names of systemd units: what is one, and which one was probably meant.

The rules are those of systemd.unit(5): at most 255 characters out of letters, digits and `:-_.\\@`,
a non-empty stem, and one of the known types as suffix. Pure text; touches nothing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from hostwright_kit.errors import HostError

UNIT_TYPES = (
    "service",
    "socket",
    "target",
    "device",
    "mount",
    "automount",
    "swap",
    "timer",
    "path",
    "slice",
    "scope",
)
NAME_MAX_CHARS = 255
_STEM = re.compile(r"[A-Za-z0-9:_.\\-][A-Za-z0-9:_.\\@-]*")
_PATTERN = re.compile(r"[A-Za-z0-9:_.\\@*?\[\]!-]+")


def type_of(name: str) -> str | None:
    """The type that the suffix names, or None when there is no known suffix."""
    stem, dot, suffix = name.rpartition(".")
    return suffix if dot and stem and suffix in UNIT_TYPES else None


def unit_name(text: str) -> str:
    """TEXT as a full unit name; `.service` is appended when it has no unit type as suffix."""
    name = text.strip()
    if type_of(name) is None:
        name += ".service"
    stem = name.rpartition(".")[0]
    if len(name) > NAME_MAX_CHARS or not _STEM.fullmatch(stem):
        raise HostError(
            f"{text[:NAME_MAX_CHARS]!r} is not a systemd unit name.",
            fix="Use letters, digits and : - _ . \\ @ only, as in nginx or getty@tty1.service;"
            " for a mount point, use the name that `systemd-escape --path --suffix=mount` prints.",
            code="bad_unit_name",
        )
    return name


def unit_pattern(text: str) -> str:
    """TEXT as a pattern over unit names: a shell glob, or one name (completed as `unit_name`)."""
    pattern = text.strip()
    if not any(character in pattern for character in "*?["):
        return unit_name(pattern)
    if len(pattern) > NAME_MAX_CHARS or not _PATTERN.fullmatch(pattern):
        raise HostError(
            f"{text[:NAME_MAX_CHARS]!r} is not a pattern over systemd unit names.",
            fix="Use the characters of unit names with * ? and [ ], as in nginx* or *.timer.",
            code="bad_unit_name",
        )
    return pattern


def is_template(name: str) -> bool:
    """Whether NAME is a template (`getty@.service`), which can be enabled but never runs itself."""
    return name.rpartition(".")[0].endswith("@")


def template_of(name: str) -> str | None:
    """`getty@.service` for `getty@tty1.service`; None for a plain unit."""
    stem, _, suffix = name.rpartition(".")
    prefix, at, _ = stem.partition("@")
    return f"{prefix}@.{suffix}" if at else None


def close_names(wanted: str, known: Iterable[str], limit: int = 5) -> list[str]:
    """Names out of KNOWN that WANTED may have meant, the likeliest first."""
    stem, _, suffix = wanted.rpartition(".")
    stems = {name.rpartition(".")[0]: name for name in known if name.endswith(f".{suffix}")}
    stems.pop(stem, None)
    close = difflib.get_close_matches(stem, stems, n=limit, cutoff=0.6)
    if len(stem) >= 3:
        # `postgres` means postgresql@15-main, which is not close letter by letter.
        parts = sorted((other for other in stems if stem in other), key=len)
        close += [other for other in parts if other not in close]
    return [stems[other] for other in close[:limit]]
