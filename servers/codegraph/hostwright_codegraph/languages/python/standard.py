"""Names that attributes of the standard library have.

A call of such a name on a receiver of unknown type is never taken for a project's method. The list
(`standard_names.txt`) is made from the standard library itself: `python -m
hostwright_codegraph.languages.python.standard`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import warnings
from importlib.resources import files
from pathlib import Path

_FILE = "standard_names.txt"
_NOT_LOADED = frozenset(("antigravity", "this", "idlelib", "turtledemo", "test", "lib2to3"))

STANDARD_NAMES = frozenset(
    files("hostwright_codegraph.languages.python")
    .joinpath(_FILE)
    .read_text(encoding="utf-8")
    .split()
)


def _collect() -> set[str]:
    """The public attributes of every module and class in the standard library."""
    found: set[str] = set()
    for name in sorted(sys.stdlib_module_names - _NOT_LOADED):
        if name.startswith("_"):
            continue
        # Some modules are not for this system, and some print when they are loaded.
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            module = importlib.import_module(name)
            found.update(dir(module))
            for what in vars(module).values():
                if isinstance(what, type):
                    found.update(dir(what))
    return {name for name in found if not name.startswith("_")}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    target = Path(__file__).with_name(_FILE)
    target.write_text("\n".join(sorted(_collect())) + "\n", encoding="utf-8")
