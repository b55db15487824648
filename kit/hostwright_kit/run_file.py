"""`python -m hostwright_kit.run_file FILE:OBJECT`: serve a FastMCP server that somebody wrote.

The file is loaded as `python FILE` would load it (its folder first on the path) but not as the
program: what stands under `if __name__ == "__main__"` does not run. OBJECT is a name in it, or
names joined by dots. Served over stdio, in both protocol eras, by the same loop as our own
servers, without their guard.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

from fastmcp import FastMCP

from hostwright_kit.errors import HostError
from hostwright_kit.run import serve_object


def main() -> None:
    """Serve what the one argument names."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m hostwright_kit.run_file FILE:OBJECT")
    target = sys.argv[1]
    sys.argv = [target.rpartition(":")[0]]
    serve_file(target)


def serve_file(target: str) -> None:
    """Run it; does not return."""
    serve_object(target, lambda: load_object(target))


def load_object(target: str) -> FastMCP[Any]:
    """The server object that `FILE:OBJECT` names; an exception of the file's own comes through."""
    name, _, path_to_it = target.rpartition(":")
    file = Path(name)
    if not file.is_file():
        raise HostError(
            f"The file {file} does not exist.",
            fix="Correct it: FILE:OBJECT, such as /home/me/server.py:mcp.",
            code="file_missing",
        )
    sys.path.insert(0, str(file.absolute().parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise HostError(
            f"{file} is no Python file.", fix="Its name must end in .py.", code="file_unusable"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    try:
        found: Any = functools.reduce(getattr, path_to_it.split("."), module)
    except AttributeError:
        names = sorted(key for key, value in vars(module).items() if isinstance(value, FastMCP))
        raise HostError(
            f"There is no {path_to_it!r} in {file}.",
            fix=f"FastMCP servers in it: {', '.join(names) or 'none'}.",
            code="object_missing",
        ) from None
    if not isinstance(found, FastMCP):
        raise HostError(
            f"{path_to_it} in {file} is a {type(found).__name__}, not a FastMCP server.",
            fix="Name the object that FastMCP(…) made.",
            code="object_unusable",
        )
    return found


if __name__ == "__main__":
    main()
