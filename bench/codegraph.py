"""`python -m bench.codegraph [--peer COMMAND] FOLDER…`: the graph of code, measured on projects.

Each FOLDER is a project's source (an unpacked sdist). It is copied aside, indexed in full, looked
at again without a change, and once more after a function was added to its largest file; CPU seconds
are those of the process and its children, memory is the largest process's. `--peer` names the
program of `@colbymchenry/codegraph`, which is then measured in turn on copies of the same.

With `--trace PYTHON --tests FOLDER` the tests of the (one) project are run by that Python under the
oracle of the server's own tests, and precision and recall of the call edges are printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hostwright_codegraph.store.places import Places

ORACLE = Path(__file__).resolve().parent.parent / "servers/codegraph/tests"
PROBE = "\n\ndef codegraph_bench_probe():\n    return codegraph_bench_probe\n"


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


def run(command: list[str], env: dict[str, str]) -> Cost:
    """Run to its end; a failure ends the measurement."""
    began = time.perf_counter()
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{command[0]} failed ({process.returncode}): {' '.join(command)}")
    scale = 1024 if sys.platform == "linux" else 1024 * 1024
    return Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / scale)


def size_mb(path: Path) -> float:
    """Everything below a folder."""
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) / 2**20


def measure(who: str, source: Path, peer: str | None) -> None:
    """One program on one project: a line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        project, state = Path(folder) / source.name, Path(folder) / "state"
        shutil.copytree(source, project, symlinks=True)
        if peer is None:
            index = sync = [
                *(sys.executable, "-m", "hostwright_codegraph.indexing.worker"),
                *(str(state), str(project)),
            ]
            held = state
        else:
            index = [peer, "init", "--yes", str(project)]
            sync = [peer, "sync", "-q", str(project)]
            held = project / ".codegraph"
        env = {
            **os.environ,
            "HOME": folder,
            "DO_NOT_TRACK": "1",
            "CODEGRAPH_TELEMETRY": "0",
            "CODEGRAPH_NO_DAEMON": "1",
            "CODEGRAPH_NO_UPDATE_CHECK": "1",
        }
        full = run(index, env)
        mb = size_mb(held)
        again = run(sync, env)
        sizes = {one: one.stat().st_size for one in project.rglob("*.py")}
        largest = max(sizes, key=lambda one: (sizes[one] < 2**20, sizes[one]))
        with largest.open("a", encoding="utf-8") as file:
            file.write(PROBE)
        edit = run(sync, env)
    print(
        f"| {source.name} | {who} | {full.cpu_seconds:.2f} / {full.wall_seconds:.2f} "
        f"| {full.peak_mb:.0f} | {mb:.1f} | {again.cpu_seconds:.2f} "
        f"| {edit.cpu_seconds:.2f} / {edit.wall_seconds:.2f} |",
        flush=True,
    )


def trace(source: Path, python: str, tests: str) -> None:
    """Precision and recall on a project, by running its tests."""
    sys.path.insert(0, str(ORACLE))
    from oracle.comparing import compare  # type: ignore[import-not-found]  # noqa: PLC0415

    from hostwright_codegraph.indexing.worker import index  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "traced.json"
        roots = [str(source / "src"), str(source), str(ORACLE / "oracle")]
        subprocess.run(
            [python, "-m", "pytest", "-q", "-p", "tracer", "-p", "no:cacheprovider", tests],
            cwd=source,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(roots),
                "ORACLE_ROOT": str(source),
                "ORACLE_OUT": str(traced),
            },
            check=False,
        )
        places = Places(Path(folder) / "state")
        index(places, source, say=False)
        found = compare(places.database(source), traced)
    print(
        f"{source.name}: precision {found.precision:.4f} ({found.right} right, "
        f"{len(found.wrong)} wrong), recall {found.recall:.4f} ({found.found} of "
        f"{found.found + len(found.missed)})"
    )
    for one in found.wrong:
        print(f"  wrong: {one}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.codegraph")
    parser.add_argument("projects", nargs="+", type=Path)
    parser.add_argument("--peer", help="program of the npm package to compare with")
    parser.add_argument("--trace", metavar="PYTHON", help="measure truth with this interpreter")
    parser.add_argument("--tests", default="tests")
    options = parser.parse_args()
    if options.trace:
        for project in options.projects:
            trace(project.resolve(), options.trace, options.tests)
        return
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs\n")
    columns = ("project", "who", "index CPU / wall s", "peak MB", "MB on disk", "no-op CPU s")
    print(f"| {' | '.join(columns)} | edit CPU / wall s |")
    print("|---|---|---|---|---|---|---|")
    for project in options.projects:
        measure("ours", project.resolve(), None)
        if options.peer:
            measure("peer", project.resolve(), options.peer)


if __name__ == "__main__":
    main()
