"""`python -P -m hostwright.zygote DESCRIPTOR`: the daemon starts it so, or the program before it.

What returns from `serve` is a forked child; it leaves the zygote's frames behind before it becomes
a server, and ends as any program does.
"""

from __future__ import annotations

# ruff: noqa: E402 - the collector is off before anything large is imported
import functools
import gc
import os
import sys

# Nothing of what is imported is garbage, and looking for some takes time.
gc.disable()

import setproctitle

from hostwright.keeper.inherited import MARK
from hostwright.zygote import warm
from hostwright.zygote.birth import Marker
from hostwright.zygote.job import Job
from hostwright.zygote.parent import Parent


def main() -> None:
    """Warm up, then fork; in a child: be the server."""
    os.dup2(2, 1)  # stdout leads nowhere
    marker = Marker(MARK)
    setproctitle.setproctitle("hostwright: zygote")
    parent = Parent(int(sys.argv[1]), marker)
    parent.prepare(functools.partial(warm.warm_up, parent.names))
    job = parent.serve()
    del parent
    run(job)


def run(job: Job) -> None:
    """Serve; does not return."""
    from hostwright_kit.run import serve_installed  # noqa: PLC0415 - loaded, as the point is
    from hostwright_kit.run_file import serve_file  # noqa: PLC0415

    if job.kind == "entry_point":
        sys.argv = [f"hostwright-{job.target}"]
        serve_installed(job.target, [])
    else:
        sys.argv = [job.target.rpartition(":")[0]]
        serve_file(job.target)


if __name__ == "__main__":
    main()
