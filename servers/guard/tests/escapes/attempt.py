"""Runs escape attempts and says what came of each. Standard library only: it runs in a sandbox.

    python3 attempt.py MODULE…       one line of JSON per attempt: name, result, detail

An attempt is a function that *returns* what it got hold of when it succeeded; when it raises, or
returns nothing, it was held. Each runs in a process of its own, with five seconds, so that one that
is killed (a forbidden system call may be) does not end the others. The world that an attempt aims
at stands in ESCAPE_WORLD as JSON. The same file, run outside, is the control: what does not need
the sandbox's absence to be dangerous must succeed there.
"""

# pyright: basic
from __future__ import annotations

import ctypes
import importlib
import json
import os
import platform
import select
import signal
import sys
import time

WORLD = json.loads(os.environ.get("ESCAPE_WORLD", "{}"))
ATTEMPTS = []
SECONDS = 5.0
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"


def attempt(control="none"):
    """Register. `control`: who succeeds outside: "anyone"; "root" (where root has its
    capabilities); "none": not tried there, because it would harm or depends on the machine."""

    def register(function):
        ATTEMPTS.append((function.__name__, control, function))
        return function

    return register


def syscall(number, *arguments):
    """A system call past the C library; raises `OSError`."""
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *values)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def number(x86, aarch64):
    return x86 if X86 else aarch64


def world(name):
    # In two parts, so that nobody finds it where it was only named.
    return "".join(WORLD["marker_parts"]) if name == "marker" else WORLD[name]


def run_one(function):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        os.setsid()
        try:
            got = function()
            word = {"result": "escaped" if got else "held", "detail": str(got)[:300]}
        except BaseException as error:
            word = {"result": "held", "detail": "%s: %s" % (type(error).__name__, error)}
        os.write(write, json.dumps(word).encode())
        os._exit(0)
    os.close(write)
    data, deadline = b"", time.monotonic() + SECONDS
    while True:
        ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            data = data or b'{"result": "held", "detail": "it took too long"}'
            break
        part = os.read(read, 65536)
        if not part:
            break
        data += part
    os.close(read)
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
    _, status = os.waitpid(pid, 0)
    if not data:
        return {"result": "held", "detail": "ended by signal %d" % (status & 0x7F)}
    return json.loads(data)


def main():
    outside = os.environ.get("ESCAPE_CONTROL")
    for module in sys.argv[1:]:
        importlib.import_module(module)
    # `attempt` was imported a second time under its own name: that one has the list.
    for name, control, function in sys.modules["attempt"].ATTEMPTS:
        if outside and (control == "none" or (control == "root" and os.geteuid() != 0)):
            word = {"result": "not tried", "detail": ""}
        else:
            word = run_one(function)
        print(json.dumps({"name": name, "control": control, **word}), flush=True)


if __name__ == "__main__":
    main()
