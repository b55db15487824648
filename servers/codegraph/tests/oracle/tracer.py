"""A pytest plugin that writes down who calls whom: `ORACLE_ROOT=… ORACLE_OUT=… pytest -p tracer`.

Plain standard library, because it runs in the environment of the project that is traced. A call is
kept where an instruction of the project's that calls enters a function of the project's; what a
property, an operator, an iteration or a builtin enters is not.
"""

from __future__ import annotations

import atexit
import dis
import json
import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any

ROOT = os.path.realpath(os.environ["ORACLE_ROOT"]) + os.sep
OUT = os.environ["ORACLE_OUT"]
CO_NEWLOCALS = 2
CALLING = frozenset(("CALL", "CALL_FUNCTION_EX", "CALL_KW", "PRECALL"))

_inside: dict[CodeType, str | None] = {}
_ops: dict[CodeType, dict[int, bool]] = {}
_seen: set[tuple[str, str, int, str, str, int]] = set()
_builtins: dict[int, list[FrameType]] = {}
"""Of each thread, the frames whose call of a builtin has not ended."""


def _place(code: CodeType) -> str | None:
    """The file of a code object from the project's top; None outside."""
    if code not in _inside:
        path = os.path.realpath(code.co_filename)
        kept = path.startswith(ROOT) and code.co_filename[0] != "<" and "site-packages" not in path
        _inside[code] = path[len(ROOT) :] if kept else None
    return _inside[code]


def _calls(frame: FrameType) -> bool:
    """Whether the instruction that a frame is at calls something."""
    code = frame.f_code
    if code not in _ops:
        ops = _ops[code] = {}
        calls = False
        for one in dis.get_instructions(code, show_caches=True):
            # Within a call the frame may stand at one of the instruction's own cache entries.
            calls = calls if one.opname == "CACHE" else one.opname in CALLING
            ops[one.offset] = calls
    return _ops[code].get(frame.f_lasti, False)


def _profile(frame: FrameType, event: str, _: Any) -> None:
    if event == "call":
        target = _place(frame.f_code)
        caller = frame.f_back
        if target is None or caller is None:
            return
        source = _place(caller.f_code)
        if source is None or not _calls(caller):
            return
        if not frame.f_code.co_flags & CO_NEWLOCALS:
            return  # the body of a class
        above = _builtins.get(threading.get_ident())
        if above and above[-1] is caller:
            return
        code, by = frame.f_code, caller.f_code
        _seen.add(
            (source, by.co_qualname, caller.f_lineno, target, code.co_qualname, code.co_firstlineno)
        )
    elif event == "c_call":
        _builtins.setdefault(threading.get_ident(), []).append(frame)
    elif event in ("c_return", "c_exception"):
        above = _builtins.get(threading.get_ident())
        if above:
            above.pop()


def _finish() -> None:
    sys.setprofile(None)
    with open(OUT, "w", encoding="utf-8") as file:  # noqa: PTH123 - as little as possible
        json.dump(sorted(_seen), file)


sys.setprofile(_profile)
threading.setprofile(_profile)
atexit.register(_finish)
