"""Command lines as they may be shown: secrets taken out, length bounded.

Arguments are looked at one by one before they are joined, because only there is it known where a
value ends (`--password "two words"`) and quoting has not yet broken up what a shape recognises.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from hostwright_kit.redact import MASK, is_secret_name, redact_text

MAX_COMMAND_LENGTH = 1000

_ASSIGNMENT = re.compile(r"(-{0,2}[A-Za-z_][\w.-]*)=(.+)", re.DOTALL)
_OPTION = re.compile(r"--?[A-Za-z][\w.-]*")
# `curl -H "Authorization: Bearer …"`: a header's whole value, whatever its scheme looks like.
_HEADER = re.compile(
    r"(?i)\b([\w-]{0,64}(?:authorization|cookie|token|secret|password|api[_-]?key)[\w-]{0,64})"
    r":[ \t]{0,8}[^'\"\n]+"
)
_PLAIN = re.compile(r"[\w@%+=:,./-]+")


def shown_command(arguments: Sequence[str]) -> str:
    """The command line as one shell-quoted text without secrets, cut at MAX_COMMAND_LENGTH."""
    shown = _without_secrets(arguments)
    # A lone argument with spaces is a title that the program wrote over its arguments.
    line = shown[0] if len(shown) == 1 else " ".join(_quoted(a) for a in shown)
    line = _without_shapes(line)
    return line if len(line) <= MAX_COMMAND_LENGTH else line[: MAX_COMMAND_LENGTH - 1] + "…"


def _without_shapes(line: str) -> str:
    return redact_text(_HEADER.sub(rf"\1: {MASK}", line))


def _quoted(argument: str) -> str:
    bare = argument.replace(MASK, "")
    return argument if argument and (not bare or _PLAIN.fullmatch(bare)) else shlex.quote(argument)


def _without_secrets(arguments: Sequence[str]) -> list[str]:
    shown: list[str] = []
    value_follows = False
    for argument in arguments:
        is_option = _OPTION.fullmatch(argument) is not None
        assignment = _ASSIGNMENT.fullmatch(argument)
        if value_follows and not is_option:
            shown.append(MASK)
        elif assignment and is_secret_name(assignment.group(1)):
            shown.append(f"{assignment.group(1)}={MASK}")
        else:
            shown.append(_without_shapes(argument))
        value_follows = is_option and is_secret_name(argument)
    return shown
