"""What the doorstep executes, as it stands in memory: program, arguments, variables, folder.

A sandbox is made before it is known what is to run in it, so none of this stands on a command line.
It comes in a file (memfd) that the doorstep maps at one fixed address; every pointer in it is made
for that address:

    +0 program   +8 arguments   +16 variables   +24 working folder
    +32 the two arrays of pointers, each ended by a null, then the strings

Pure: makes bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence

from hostwright_kit.errors import HostError

ADDRESS = 0x1000_0000
MAPPED = 0x100_0000
"""How much is mapped; the kernel takes less than half of it as arguments and variables."""
_HEAD = 32


def make_image(
    program: str, argv: Sequence[str], environment: Mapping[str, str], cwd: str
) -> bytes:
    """The bytes; raises `HostError` when it is more than can be given to a program."""
    variables = [f"{name}={value}" for name, value in {"PWD": cwd, **environment}.items()]
    texts = [os.fsencode(text) + b"\0" for text in (program, cwd, *argv, *variables)]
    pointers = len(argv) + 1 + len(variables) + 1
    at = ADDRESS + _HEAD + 8 * pointers
    places: list[int] = []
    for text in texts:
        places.append(at)
        at += len(text)
    if at > ADDRESS + MAPPED:
        raise HostError(
            "Arguments and variables together are longer than a program can be given.",
            fix="Give long text on stdin, or in a file.",
            code="invalid_argument",
        )
    first = 2 + len(argv)
    head = struct.pack(
        "<4Q", places[0], ADDRESS + _HEAD, ADDRESS + _HEAD + 8 * (len(argv) + 1), places[1]
    )
    arrays = struct.pack(f"<{pointers}Q", *places[2:first], 0, *places[first:], 0)
    return b"".join((head, arrays, *texts))
