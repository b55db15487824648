"""The process in which the daemon has the ledger rotated: `-m hostwright_kit.rotating PATH KEEP`.

Copying and checking a few hundred thousand entries keeps an interpreter busy for seconds, and the
daemon answers calls meanwhile. Ended at any moment, it leaves a whole ledger (`archives.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from hostwright_kit.archives import rotate
from hostwright_kit.errors import HostError


def main(path: str, keep_entries: str) -> int:
    """Rotate, and print what was moved; 1 and a sentence on stderr when it cannot be."""
    try:
        done = rotate(Path(path), keep_entries=int(keep_entries))
    except HostError as error:
        sys.stderr.write(f"{error.message} {error.fix}\n")
        return 1
    sys.stdout.write(f"{done.model_dump_json()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
