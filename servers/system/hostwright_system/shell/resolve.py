"""From what a call asks for to what can be executed, or a clear refusal before anything runs.

Reads the file system (PATH, the working folder); starts nothing. Blocking: run it in a thread.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from hostwright_kit.errors import HostError
from hostwright_system.shell.environment import build_environment

MAX_STDIN_BYTES = 8 * 1024 * 1024
# MAX_ARG_STRLEN of Linux: one argument, and a shell line is one, holds at most 32 pages.
MAX_ARGUMENT_BYTES = 128 * 1024 - 1

# fmt: off
_BUILTINS = frozenset(
    {
        ".", "alias", "cd", "eval", "exec", "export", "jobs", "source", "type", "ulimit", "umask",
        "unset",
    }
)
# fmt: on


class CommandSpec(BaseModel, frozen=True):
    """One command: either `argv`, or a `line` for a shell."""

    argv: tuple[str, ...] | None = Field(
        default=None, description="Program and arguments; no shell looks at them."
    )
    line: str | None = Field(default=None, description="A line for the shell, `SHELL -c LINE`.")
    shell: Literal["sh", "bash"] = Field(
        default="sh", description="Which shell runs `line`: /bin/sh, or bash from the PATH."
    )
    cwd: str | None = Field(
        default=None, description="Working folder, absolute or from ~. Default: the server's."
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="Added to the scrubbed environment, or put over it."
    )
    stdin_text: str | None = Field(default=None, description="Written to stdin as UTF-8.")
    stdin_base64: str | None = Field(default=None, description="Bytes for stdin, in base64.")
    merge_stderr: bool = Field(
        default=False, description="Send stderr to stdout, in the order in which it is written."
    )
    umask: int = Field(default=0o022, ge=0, le=0o777)


@dataclass(frozen=True)
class ResolvedCommand:
    path: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    umask: int
    stdin: bytes | None
    merge_stderr: bool


def resolve(spec: CommandSpec, base_environment: Mapping[str, str]) -> ResolvedCommand:
    """Everything that can be checked before the command starts."""
    environment = build_environment(base_environment, spec.env)
    cwd = _working_folder(spec.cwd, environment)
    argv = _arguments(spec)
    stdin = _stdin(spec)
    return ResolvedCommand(
        path=_find(argv[0], environment["PATH"], cwd),
        argv=argv,
        env={**environment, "PWD": cwd},
        cwd=cwd,
        umask=spec.umask,
        stdin=stdin,
        merge_stderr=spec.merge_stderr,
    )


def start_failure(command: ResolvedCommand, stage: str, number: int) -> HostError:
    """Why the kernel refused what `resolve` let through."""
    reason = os.strerror(number)
    if stage == "cwd":
        return HostError(
            f"The working folder {command.cwd} cannot be entered: {reason}.",
            fix="Choose a folder that this user may enter.",
            code="not_found" if number == errno.ENOENT else "denied",
        )
    fixes = {
        errno.ENOENT: "The file is there, so the interpreter that it names (its #! line or its "
        "dynamic loader) is missing: install it or run the file through another one.",
        errno.ENOEXEC: "It is neither a program for this machine nor a script with a #! line: "
        "name its interpreter first, e.g. ['sh', 'FILE'].",
        errno.EACCES: "Check the file's execute permission and whether its file system is mounted "
        "noexec.",
        errno.E2BIG: "The arguments and the environment are too long together: hand over the data "
        "by stdin or in a file.",
        errno.EAGAIN: "The limit of processes for this user is reached: end some first.",
    }
    return HostError(
        f"{command.path} cannot be executed: {reason}.",
        fix=fixes.get(number, "Check the program and try again."),
        code="cannot_execute",
    )


def _arguments(spec: CommandSpec) -> tuple[str, ...]:
    if (spec.argv is None) == (spec.line is None):
        raise HostError(
            "Both argv and command are given." if spec.argv is not None else "No command is given.",
            fix="Give either argv (program and arguments) or command (for a shell).",
            code="invalid_argument",
        )
    if spec.argv is not None:
        argv = spec.argv
    else:
        argv = ("/bin/sh" if spec.shell == "sh" else "bash", "-c", spec.line or "")
    if not argv or not argv[0] or (spec.line is not None and not spec.line.strip()):
        raise HostError(
            "The command is empty.",
            fix="Give the program as the first item of argv, or a shell line with a command.",
            code="invalid_argument",
        )
    for item in argv:
        if "\0" in item:
            raise HostError(
                "The command holds a NUL byte, which no program can be given.",
                fix="Remove it; to hand over binary data use stdin_base64.",
                code="invalid_argument",
            )
        if (length := len(os.fsencode(item))) > MAX_ARGUMENT_BYTES:
            raise HostError(
                f"One argument has {length} bytes; the system takes {MAX_ARGUMENT_BYTES}.",
                fix="Hand over the data by stdin or in a file.",
                code="too_large",
            )
    return argv


def _stdin(spec: CommandSpec) -> bytes | None:
    if spec.stdin_text is not None and spec.stdin_base64 is not None:
        raise HostError(
            "Both stdin and stdin_base64 are given.",
            fix="Give one of them.",
            code="invalid_argument",
        )
    if spec.stdin_text is not None:
        data = spec.stdin_text.encode("utf-8", "surrogateescape")
    elif spec.stdin_base64 is not None:
        try:
            data = base64.b64decode(spec.stdin_base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise HostError(
                f"stdin_base64 is not base64: {error}.",
                fix="Encode the bytes with the standard alphabet and padding (RFC 4648).",
                code="invalid_argument",
            ) from error
    else:
        return None
    if len(data) > MAX_STDIN_BYTES:
        raise HostError(
            f"stdin has {len(data)} bytes; at most {MAX_STDIN_BYTES} are taken.",
            fix="Write the data to a file and let the command read it.",
            code="too_large",
        )
    return data


def _working_folder(asked: str | None, environment: Mapping[str, str]) -> str:
    if asked is None:
        try:
            return str(Path.cwd())
        except FileNotFoundError as error:
            raise HostError(
                "The server's own working folder was removed.",
                fix="Give cwd, an absolute path.",
                code="not_found",
            ) from error
    if asked == "~" or asked.startswith("~/"):
        asked = environment.get("HOME", "/") + asked[1:]
    if "\0" in asked or not asked.startswith("/"):
        raise HostError(
            f"The working folder {asked!r} is not an absolute path.",
            fix="Give cwd as an absolute path, or from the home folder as ~/….",
            code="invalid_argument",
        )
    try:
        mode = Path(asked).stat().st_mode
    except OSError as error:
        raise HostError(
            f"The working folder {asked} cannot be used: {error.strerror}.",
            fix="Create it first or choose one that exists.",
            code="not_found" if isinstance(error, FileNotFoundError) else "denied",
        ) from error
    if not stat.S_ISDIR(mode):
        raise HostError(
            f"The working folder {asked} is not a folder.",
            fix=f"Use the folder that it is in: {Path(asked).parent}.",
            code="invalid_argument",
        )
    return asked


def _find(program: str, path: str, cwd: str) -> str:
    """The file to execute: as the shell finds it, but relative names from the command's folder."""
    folders = [Path(cwd, folder) for folder in path.split(":")]
    candidates = [Path(cwd, program)] if "/" in program else [f / program for f in folders]
    found_unusable: Path | None = None
    for candidate in candidates:
        if candidate.is_file():
            if os.access(candidate, os.X_OK):
                return str(candidate)
            found_unusable = found_unusable or candidate
    if found_unusable:
        raise HostError(
            f"{found_unusable} is not executable for this user.",
            fix=f"chmod +x {found_unusable}, or run it through its interpreter.",
            code="denied",
        )
    raise HostError(
        f"The program {program!r} was not found"
        + (f" (from {cwd})." if "/" in program else f" in PATH ({path})."),
        fix=_advice(program, folders),
        code="not_found",
    )


def _advice(program: str, folders: list[Path]) -> str:
    if " " in program.strip():
        return "argv takes one item per argument; a whole command line belongs into `line`."
    if program in _BUILTINS:
        return f"{program} is a shell builtin: use `line`, or `cwd` and `env` of this call."
    if "/" in program:
        return "Check the path."
    similar = difflib.get_close_matches(program, _programs(folders), n=3)
    install = "install it or give its full path."
    if similar:
        return f"Did you mean {', '.join(similar)}? Otherwise {install}"
    return install.capitalize()


def _programs(folders: list[Path]) -> list[str]:
    names: set[str] = set()
    for folder in folders:
        try:
            names.update(entry.name for entry in os.scandir(folder))
        except OSError:  # PATH may name folders that do not exist
            continue
    return sorted(names)
