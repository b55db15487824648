"""Extended attributes and access control lists, as far as a user sets them. xattr(7).

Those of the overlay itself are left out, and those of security modules, which the system sets.
"""

from __future__ import annotations

import contextlib
import os

from hostwright_guard.sandbox.preview import tree

_PREFIXES = ("user.", "system.posix_acl_")
_OVERLAYS = "user.overlay."


def read_attributes(root: int, path: str) -> dict[str, bytes]:
    """What a file has; nothing where the file system keeps none."""
    found: dict[str, bytes] = {}
    with contextlib.suppress(OSError), tree.opened_file(root, path) as file:
        for name in os.listxattr(file):
            if name.startswith(_PREFIXES) and not name.startswith(_OVERLAYS):
                found[name] = os.getxattr(file, name)
    return found


def copy_attributes(root: int, path: str, target: int) -> None:
    """Give an open file those of another one; raises `OSError` where that cannot be."""
    for name, value in read_attributes(root, path).items():
        os.setxattr(target, name, value)
