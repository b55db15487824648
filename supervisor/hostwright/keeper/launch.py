"""Executed before a server: asks the kernel to end it together with the daemon, then becomes it.

    python -I -S launch.py DAEMON_PID LIMITS PROGRAM ARGV0 ARGV1 …

LIMITS is JSON: {"cgroup": FOLDER or null, "rlimits": {"RLIMIT_NOFILE": [SOFT, HARD], …}}.

PR_SET_PDEATHSIG (prctl(2)) belongs to the process that asks for it and survives execve(2), so it
is asked for here, after the fork, in a fresh single-threaded interpreter: a `preexec_fn` would run
Python between fork and exec of a threaded daemon, which can deadlock. Costs about 10 ms per start.
Standard library only and no import of ours: it runs without site-packages. Linux.
"""

import ctypes
import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Never returns."""
    daemon, limits = int(sys.argv[1]), json.loads(sys.argv[2])
    program, argv = sys.argv[3], sys.argv[4:]
    if limits["cgroup"] is not None:
        with open(f"{limits['cgroup']}/cgroup.procs", "w") as file:  # noqa: PTH123 - no pathlib here
            file.write("0")
    for name, bounds in limits["rlimits"].items():
        resource.setrlimit(getattr(resource, name), tuple(bounds))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != daemon:
        # It died between the fork and the request above, so no signal would ever come.
        sys.exit("The daemon is gone.")
    # What this interpreter ignores (SIGPIPE), and what whoever started the daemon had ignored
    # (nohup, a script's `&`), is not the server's: it finds the defaults.
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(program, argv)  # noqa: S606 - becoming it is the point
    except OSError as error:
        print(f"{program}: {error.strerror}", file=sys.stderr)  # noqa: T201 - stderr is its log
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main()
