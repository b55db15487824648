"""Whether this version of the program would come up here: asked before a daemon makes way for it.

    python -m hostwright.successor HOST PORT

HOST and PORT are where the daemon listens that runs. Prints one JSON document; changes nothing.
"""

from __future__ import annotations

import json
import sys

# What takes over must be there and fit together; imported for that alone.
import hostwright.daemon
from hostwright import __version__
from hostwright.checkup.configuration import (
    check_configuration,
    check_manifests,
    gateway_settings,
)
from hostwright.checkup.findings import Finding
from hostwright.succession import FORMAT
from hostwright_kit.errors import HostError
from hostwright_kit.paths import Paths, resolve_paths
from hostwright_kit.sockets import bind_tcp


def main() -> None:
    """Look and tell."""
    paths = resolve_paths()
    found = [*check_configuration(paths), *check_manifests(paths)]
    problems = [_words(one) for one in found if one.state == "problem"]
    if not problems:
        problems += _address(paths, sys.argv[1], int(sys.argv[2]))
    answer = {"format": FORMAT, "version": __version__, "problems": problems}
    sys.stdout.write(json.dumps({**answer, "daemon": hostwright.daemon.__name__}) + "\n")


def _words(finding: Finding) -> str:
    where = f"{finding.place}: " if finding.path is not None else ""
    return f"{where}{finding.what}: {finding.message} {finding.fix}".strip()


def _address(paths: Paths, host: str, port: int) -> list[str]:
    """Why the configured address cannot be had, if it is another one than now."""
    wanted = gateway_settings(paths)
    if wanted is None or (wanted.host, wanted.port) == (host, port):
        return []
    try:
        bind_tcp(wanted.host, wanted.port).close()
    except HostError as error:
        return [str(error)]
    return []


if __name__ == "__main__":
    main()
