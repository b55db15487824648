"""The daemon, its locks and sockets, what a dead one left running, and who holds the port.

Repairs: `daemon` (end one that hangs, or start one), `server:NAME` (restart), `pid-file`, `lock`
(end a process of ours that holds a dead daemon's lock), `socket:NAME`, `orphans`, `port`. Only
processes of ours are ever ended, each by pid and start time.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hostwright.keeper.pidfile import LOCK_FILE, PID_FILE
from hostwright.rescue import ports
from hostwright.rescue.findings import Finding, Repair
from hostwright.rescue.ground import Ground, clip
from hostwright_kit.control_socket import ask_daemon
from hostwright_kit.errors import HostError

AREA = "daemon"
SOCKETS = ("gateway.sock", "connect.sock", "ledger.sock")
GRACE_SECONDS = 10.0
KILL_SECONDS = 10.0
START_SECONDS = 90.0


def check_daemon(ground: Ground) -> Iterator[Finding]:
    """Whether it runs and answers, and which of its servers are given up."""
    daemon = ground.daemon
    if daemon.status is not None:
        message = f"It runs (pid {daemon.status.get('pid')}) and answers."
        yield Finding("daemon", AREA, "ok", message)
        for row in daemon.status.get("servers", []):
            if row["state"] == "broken":
                yield _broken(ground, row)
    elif daemon.pid is not None:
        yield Finding(
            "daemon",
            AREA,
            "error",
            f"The daemon (pid {daemon.pid}) holds its lock and does not answer: {daemon.silence}",
            repair=Repair(
                "daemon",
                f"end the daemon that hangs (pid {daemon.pid}), by SIGTERM, then SIGKILL, and "
                "start it anew",
                lambda: [*_end_daemon(ground, daemon.pid or 0), *_start(ground)],
            ),
        )
    else:
        yield Finding(
            "daemon",
            AREA,
            "note",
            "No daemon runs.",
            repair=Repair("daemon", "start it in the background", lambda: _start(ground)),
        )


def check_panic(ground: Ground) -> Iterator[Finding]:
    """Whether everything is stopped on purpose."""
    from hostwright_kit.panic import LIFT, read_panic

    if (panic := read_panic(ground.state)) is not None:
        yield Finding("panic", AREA, "warning", f"{panic.sentence()}.", fix=LIFT)


def check_locks(ground: Ground) -> Iterator[Finding]:
    """What a daemon that did not end in order has left: pid, locks, sockets."""
    if ground.daemon.pid is None:
        yield from _pid_file(ground)
        yield from _lock(ground)
    for name in SOCKETS:
        yield from _socket(ground, name)


def check_orphans(ground: Ground) -> Iterator[Finding]:
    """Processes of servers that no daemon holds any more."""
    from hostwright.keeper import processes

    if ground.daemon.pid is not None:
        return
    marks, exact = ports.recorded(ground)
    found = {one for one in exact if processes.runs(one)}
    if marks:
        # What left its parent's session is known by the mark alone.
        rows = processes.table().values()
        found |= {row.id for row in rows if processes.mark_of(row.id.pid) in marks}
    alive = sorted(found)
    holders = [holder for one in alive if (holder := ports.holder_of(ground, one.pid))]
    if not holders:
        yield Finding("orphans", AREA, "ok", "No process of an earlier daemon is left.")
        return
    yield Finding(
        "orphans",
        AREA,
        "error",
        f"{len(holders)} process(es) of an earlier daemon still run.",
        evidence=tuple(holder.words() for holder in holders),
        repair=Repair(
            "orphans",
            f"end them: {', '.join(str(holder.id.pid) for holder in holders)}, and what came of "
            "them",
            lambda: _end_orphans(ground),
            files=(ground.runtime / "children.json",),
            alone=True,
        ),
    )


def check_port(ground: Ground) -> Iterator[Finding]:
    """Whether the gateway's port is free, ours, or somebody else's."""
    from hostwright.checkup.configuration import gateway_settings
    from hostwright_kit.sockets import bind_tcp

    settings = gateway_settings(ground.paths)
    if settings is None or ground.daemon.pid is not None:
        return  # told by the configuration, or by the daemon
    where = f"{settings.host}:{settings.port}"
    try:
        bind_tcp(settings.host, settings.port).close()
    except HostError as error:
        holders = ports.listeners(ground, settings.port)
        ours = [holder for holder in holders if holder.ours]
        strange = [holder for holder in holders if not holder.ours]
        fix = "End it, or set another port in config.toml ([gateway] port)."
        yield Finding(
            "port",
            "port",
            "error",
            error.message if not holders else f"{where} is taken.",
            evidence=tuple(holder.words() for holder in holders),
            fix=fix if strange or not holders else "",
            repair=_freeing(where, ours) if ours and not strange else None,
        )
    else:
        yield Finding("port", "port", "ok", f"{where} is free.")


def _freeing(where: str, holders: Sequence[ports.Holder]) -> Repair:
    def act() -> list[str]:
        return [told for holder in holders for told in end_exactly(holder)]

    pids = ", ".join(str(holder.id.pid) for holder in holders)
    return Repair("port", f"free {where}: end pid {pids}, which is ours", act)


def end_exactly(holder: ports.Holder) -> list[str]:
    """End this very process: SIGTERM, then SIGKILL. Raises `HostError` when it stays."""
    from hostwright.keeper import processes

    pid = holder.id.pid
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        processes.send(holder.id, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not processes.runs(holder.id):
                return [f"ended pid {pid} ({number.name})"]
            time.sleep(0.05)
    raise HostError(
        f"The process {pid} does not end, not even by SIGKILL.",
        fix="It hangs in the kernel: look at dmesg; a restart of the machine ends it.",
        code="not_ended",
    )


# -- the daemon ----------------------------------------------------------------------------------


def _broken(ground: Ground, row: dict[str, object]) -> Finding:
    name = str(row["name"])

    def act() -> list[str]:
        done = ask_daemon(ground.runtime, "POST", f"/control/servers/{name}/restart")
        if not done["ok"]:
            raise HostError(str(done["message"]), fix=f"hostwright logs {name}", code="failed")
        return [str(done["message"])]

    return Finding(
        f"server:{name}",
        AREA,
        "error",
        f"{name} failed too often and is not tried any more: {clip(str(row['last_error']))}",
        evidence=tuple(clip(str(line)) for line in list(row["last_stderr"] or ())[-5:]),  # type: ignore[call-overload]
        fix=f"hostwright logs {name}",
        repair=Repair(f"server:{name}", f"restart {name}", act),
    )


def _end_daemon(ground: Ground, pid: int) -> list[str]:
    holder = ports.holder_of(ground, pid)
    if holder is None:
        return []
    if not holder.ours and not ports.is_daemon(pid):
        raise HostError(
            f"{holder.words()} holds the daemon's lock, and is no daemon of ours.",
            fix="Look what it is; nothing was ended.",
            code="stranger",
        )
    return end_exactly(holder)


def _start(ground: Ground) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hostwright", "up", "--detach", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
        env=dict(ground.environ),
    )
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise HostError(
            f"The daemon did not start: {clip(said)}",
            fix="Repair what `hostwright rescue` tells first.",
            code="not_started",
        )
    return ["started the daemon"]


# -- locks and sockets ---------------------------------------------------------------------------


def _pid_file(ground: Ground) -> Iterator[Finding]:
    file = ground.runtime / PID_FILE
    try:
        text = file.read_bytes().strip()
    except FileNotFoundError:
        return
    if text and _holder_pid(file) is None:
        said = clip(text.decode(errors="replace"))
        yield Finding(
            "pid-file",
            AREA,
            "warning",
            f"{file} names pid {said}, which is no daemon of ours any more: the last one did not "
            "end in order.",
            # Taking and giving up the lock empties the file; see `repairs.py`.
            repair=Repair(
                "pid-file", f"empty {file}", lambda: [f"emptied {file}"], (file,), alone=True
            ),
        )


def _lock(ground: Ground) -> Iterator[Finding]:
    """No daemon answers to its pid, and a lock is held all the same."""
    for file in (ground.runtime / PID_FILE, ground.state / LOCK_FILE):
        pid = _holder_pid(file)
        if pid is None:
            continue
        holder = ports.holder_of(ground, pid) if pid else None
        words = holder.words() if holder else "a process that cannot be seen"
        ours = holder is not None and bool(holder.ours)
        repair = None
        if ours and holder is not None:
            repair = Repair(
                "lock",
                f"end pid {pid}, which is ours and holds {file}",
                lambda found=holder: end_exactly(found),
            )
        yield Finding(
            "lock",
            AREA,
            "error",
            f"{file} is locked, and no daemon has its pid in it: none can start.",
            evidence=(words,),
            fix="" if ours else "Look what it is, and end it.",
            repair=repair,
        )
        return


def _holder_pid(file: Path) -> int | None:
    """The pid of who holds its lock; 0: somebody whom we cannot see; None: nobody."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        info = os.fstat(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _in_proc_locks(info)
        return None
    finally:
        os.close(handle)


def _in_proc_locks(info: os.stat_result) -> int:
    """proc_locks(5): `1: FLOCK ADVISORY WRITE 4711 fe:01:1234 0 EOF`."""
    wanted = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields and wanted in fields:
                pid = int(fields[fields.index(wanted) - 1])
                # The one who took it may have ended, and a child of it may hold it on.
                return pid if Path(f"/proc/{pid}").exists() else _who_has_open(info)
    return 0


def _who_has_open(info: os.stat_result) -> int:
    for pid in ports.pids():
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found = link.stat()
                    same = (found.st_dev, found.st_ino) == (info.st_dev, info.st_ino)
                    if same and pid != os.getpid():
                        return pid
    return 0


def _socket(ground: Ground, name: str) -> Iterator[Finding]:
    path = ground.runtime / name
    try:
        info = path.lstat()
    except OSError:
        return
    if not stat.S_ISSOCK(info.st_mode):
        yield Finding(
            f"socket:{name}",
            AREA,
            "error",
            f"{path} is not a socket, so the daemon cannot listen there.",
            repair=Repair(
                f"socket:{name}",
                f"move it to {path}.moved",
                lambda: _moved(path),
                (path,) if stat.S_ISREG(info.st_mode) else (),
                alone=True,
            ),
        )
    elif ground.daemon.pid is None and _is_dead(path):
        yield Finding(
            f"socket:{name}",
            AREA,
            "warning",
            f"Nobody listens at {path} any more.",
            repair=Repair(f"socket:{name}", f"remove {path}", lambda: _removed(path), alone=True),
        )


def _is_dead(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _removed(path: Path) -> list[str]:
    if not _is_dead(path):
        raise HostError(f"Somebody listens at {path} again.", fix="Nothing.", code="alive")
    path.unlink()
    return [f"removed {path}"]


def _moved(path: Path) -> list[str]:
    aside = path.with_name(f"{path.name}.moved")
    number = 0
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.moved.{number}")
    path.rename(aside)
    return [f"moved {path} to {aside}"]


def _end_orphans(ground: Ground) -> list[str]:
    """As the next daemon would; the lock is held by whoever carries the repair out."""
    from hostwright.keeper.records import Records

    survivors = asyncio.run(Records(ground.runtime).recover())
    if survivors.left:
        raise HostError(
            f"These could not be ended: {', '.join(map(str, survivors.left))}.",
            fix="They hang in the kernel; a restart of the machine ends them.",
            code="not_ended",
        )
    return [f"ended {survivors.ended} process(es) of {', '.join(survivors.servers)}"]
