"""Makes a world worth escaping to, tries to, outside and inside, and prints what came of it.

    python escape_driver.py UID FOLDER     0: as it was started; another number: as that user

Run by `test_escapes.py`, as a program, because a process that has given up root stays so. All that
is attacked is the world made here: files in that folder, sockets on loopback, processes of
this driver.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import contextlib
import ctypes
import encodings.idna
import encodings.latin_1
import encodings.unicode_escape
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hostwright_guard.sandbox import nursery_client
from hostwright_guard.sandbox.capabilities import Limits, Wanted
from hostwright_guard.sandbox.gate.gate import Gate
from hostwright_guard.sandbox.gate.names import parse_target
from hostwright_guard.sandbox.gate.rules import Allowance, Attempt, Rules
from hostwright_guard.sandbox.made import Stream
from hostwright_guard.sandbox.places import open_places
from hostwright_guard.sandbox.preview.changes import read_changes
from hostwright_guard.sandbox.running import Command, Overlay, Sandboxes

PYTHON = "/usr/bin/python3"
MARKER = "the-secret-of-the-world"
ALLOWED = "allowed.example"
SERVER = "127.77.0.1"
LIMITS = Limits(memory_mb=256, processes=48, scratch_mb=16, file_mb=64)
MODULES = ("files", "processes", "kernel", "network")
ATTEMPTS = Path(__file__).parent / "escapes"
# Imported while this user may still read the library.
LOADED = (
    *(concurrent.futures.thread, resource),
    *(encodings.idna, encodings.latin_1, encodings.unicode_escape),
)

BUFFER = ctypes.create_string_buffer(b"bait-bait")


class World:
    """The host's side: files, sockets, a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)
        for name in ("private", "shown", "shown/state", "shared", "home/.ssh", "run"):
            (folder / name).mkdir(parents=True)
        shutil.copytree(ATTEMPTS, folder / "attempts", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("private/secret", "shown/state/key", "home/.ssh/id_ed25519"):
            (folder / name).write_text(MARKER)
        for name in ("shown/file", "shown/other"):
            (folder / name).write_text("plain")
        (folder / "shown/link").symlink_to(folder / "private/secret")
        self.tcp, self.stream, self.abstract = (
            socket.socket(family) for family in (socket.AF_INET, socket.AF_UNIX, socket.AF_UNIX)
        )
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.tcp.bind(("127.0.0.1", 0))
        self.udp.bind(("127.0.0.1", 0))
        self.stream.bind(str(folder / "shown/stream"))
        self.datagram.bind(str(folder / "shown/datagram"))
        self.abstract.bind(f"\0escape-{os.getpid()}-{folder.name}")
        for one in (self.tcp, self.stream, self.abstract):
            one.listen(64)
        for one in (self.tcp, self.stream, self.abstract, self.udp, self.datagram):
            one.setblocking(False)
        self.reached: list[str] = []
        self.bait = os.fork()
        if self.bait == 0:
            signal.pause()
            os._exit(0)

    def description(self) -> dict[str, Any]:
        folder = self.folder
        return {
            "secret": str(folder / "private/secret"),
            "marker_parts": [MARKER[:9], MARKER[9:]],
            "shown": str(folder / "shown"),
            "shared": str(folder / "shared"),
            "masked": str(folder / "shown/state"),
            "state": str(folder / "run"),
            "home_key": str(folder / "home/.ssh/id_ed25519"),
            "bait_pid": self.bait,
            "bait_address": ctypes.addressof(BUFFER),
            "tcp_port": self.tcp.getsockname()[1],
            "udp_port": self.udp.getsockname()[1],
            "stream_path": str(folder / "shown/stream"),
            "datagram_path": str(folder / "shown/datagram"),
            "abstract": self.abstract.getsockname()[1:].decode(),
            "allowed": ALLOWED,
            "memory_mb": LIMITS.memory_mb,
            "processes": LIMITS.processes,
            "scratch_mb": LIMITS.scratch_mb,
            "file_mb": LIMITS.file_mb,
        }

    async def serve(self) -> None:
        """Answer whoever comes, and remember that somebody did."""

        async def answer(
            name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            self.reached.append(name)
            with contextlib.suppress(OSError):
                await reader.read(100)
                writer.write(b"hello")
                await writer.drain()
            writer.close()

        for name in ("tcp", "stream", "abstract"):
            listener: socket.socket = getattr(self, name)
            start = asyncio.start_server if name == "tcp" else asyncio.start_unix_server
            await start(lambda r, w, n=name: answer(n, r, w), sock=listener)

    def datagrams(self) -> list[str]:
        found: list[str] = []
        for name in ("udp", "datagram"):
            with contextlib.suppress(BlockingIOError):
                getattr(self, name).recv(100)
                found.append(name)
        return found

    def traces(self) -> list[str]:
        """What an attempt left behind that it should not have been able to."""
        found = list(self.reached) + self.datagrams()
        for path in self.folder.rglob("*"):
            info = path.lstat()
            if info.st_mode & 0o6000 and path.is_relative_to(self.folder / "shared"):
                found.append(f"set-ID bits: {path}")
            if path.is_block_device() or path.is_char_device():
                found.append(f"device: {path}")
        for name, text in (("private/secret", MARKER), ("shown/file", "plain")):
            if (self.folder / name).read_text() != text:
                found.append(f"changed: {name}")
        if sorted(p.name for p in (self.folder / "private").iterdir()) != ["secret"]:
            found.append("something in the private folder")
        if os.waitpid(self.bait, os.WNOHANG)[0]:
            found.append("the bait process ended")
        return found


def survivors() -> list[str]:
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"escape-survivor\0"):
                found.append(path.parent.name)
    return found


def control(world: World) -> list[dict[str, Any]]:
    """The same attempts without a sandbox."""
    done = subprocess.run(
        [PYTHON, "attempt.py", *MODULES],
        cwd=world.folder / "attempts",
        env={
            "PATH": os.environ["PATH"],
            "ESCAPE_WORLD": json.dumps(world.description()),
            "ESCAPE_CONTROL": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


async def inside(world: World, server: socket.socket | None) -> dict[str, Any]:
    """The attempts in the sandbox that is claimed to hold them."""
    sandboxes = Sandboxes(world.folder / "run")
    arrived: list[str] = []
    judged: list[Attempt] = []
    said: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        arrived.append(head)
        if head.startswith("GET /redirect"):
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async def lookup(host: str, port: int) -> list[str]:
        leads = {
            "metadata.example": ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"],
            "private.example": ["10.0.0.1", "192.168.1.1", "fec0::1", "100.64.0.1", "172.16.0.1"],
            "rebind.example": ["127.0.0.1", "::1", "0.0.0.0"],  # noqa: S104 - nobody binds it
        }
        return leads[host]

    async def record(attempt: Attempt) -> None:
        judged.append(attempt)

    async def receive(data: bytes, stream: Stream) -> None:
        said[stream] += data

    if server is not None:
        await asyncio.start_server(upstream, sock=server)
    names = (ALLOWED, "metadata.example", "private.example", "rebind.example")
    rules = Rules(tuple(map(parse_target, names)), Allowance(1_000, 2**24))
    gate = Gate(rules, record, pinned={ALLOWED: SERVER}, lookup=lookup)
    folder = world.folder
    opened = await asyncio.to_thread(
        open_places,
        [str(folder / name) for name in ("attempts", "shown", "home")],
        [str(folder / "shared")],
        protected=[folder / "shown/state", folder / "run"],
        homes=[folder / "home"],
    )
    try:
        ending = await sandboxes.run(
            Command(
                PYTHON,
                (PYTHON, "attempt.py", *MODULES),
                str(folder / "attempts"),
                {"ESCAPE_WORLD": json.dumps(world.description())},
            ),
            Wanted(limits=LIMITS, seconds=120),
            opened,
            receive,
            gate=gate,
            names=names,
            ports=rules.ports,
        )
    finally:
        opened.close()
        await sandboxes.close()
    return {
        "attempts": [json.loads(line) for line in said["stdout"].splitlines()],
        "stderr": said["stderr"].decode("utf-8", "replace")[-2_000:],
        "exit_code": ending.exit_code,
        "timed_out": ending.timed_out,
        "enforced": dict(ending.enforced),
        "arrived": arrived,
        "judged": [vars(one) for one in judged if one.verdict != "opened"],
    }


async def over_an_overlay(world: World) -> dict[str, Any]:
    """A dry run as this user: what is written goes aside, the folder stays as it is."""
    sandboxes = Sandboxes(world.folder / "run")
    names = ("layer", "layer/upper", "layer/work", "real", "layer/shown")
    layers = [world.folder / name for name in names]
    for layer in layers:
        layer.mkdir()
    real = layers[3]
    (real / "file").write_text("before")
    (real / "gone").write_text("before")

    async def receive(data: bytes, stream: Stream) -> None:
        print(data, file=sys.stderr)

    opened = open_places([], [str(real)], protected=[])
    try:
        ending = await sandboxes.run(
            Command("/bin/sh", ("sh", "-c", "echo after > file; rm gone; mkdir new"), str(real)),
            Wanted(limits=LIMITS),
            opened,
            receive,
            overlay=Overlay(str(real), str(layers[1]), str(layers[2]), str(layers[4])),
        )
    finally:
        opened.close()
        await sandboxes.close()
    handles = [os.open(path, os.O_RDONLY) for path in (real, layers[1])]
    changes = read_changes(*handles)
    (layers[2] / "work").chmod(0o700)
    return {
        "exit_code": ending.exit_code,
        "real": sorted((path.name, path.read_text()) for path in real.iterdir()),
        "changes": [(one.action, one.kind, one.path) for one in changes],
    }


async def main(uid: int, base: str) -> None:
    server = None
    with contextlib.suppress(OSError):
        # As root, before it is given up.
        server = socket.create_server((SERVER, 80))
    folders = [Path(tempfile.mkdtemp(dir=base)) for _ in range(2)]
    nursery_client.sys.executable = PYTHON
    if uid:
        # A nursery must be able to read its own files as another user.
        warden = Path(tempfile.mkdtemp(dir=base))
        warden.chmod(0o755)
        source = Path(nursery_client.__file__).parent / "warden"
        shutil.copytree(source, warden / "warden", ignore=shutil.ignore_patterns("__pycache__"))
        nursery_client.__file__ = str(warden / "nursery_client.py")
        folders.append(warden)
        for folder in folders[:2]:
            os.chown(folder, uid, uid)
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        # A process that changed its user cannot be looked at until it says so (PR_SET_DUMPABLE).
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
        os.environ["HOME"] = "/nonexistent"
    os.chdir("/")
    worlds = [World(folder) for folder in folders[:2]]
    for world in worlds:
        await world.serve()
    try:
        controls = await asyncio.to_thread(control, worlds[0])
        report = await inside(worlds[1], server)
        # What may still come needs a moment.
        await asyncio.sleep(0.2)
        report |= {
            "uid": os.geteuid(),
            "controls": controls,
            "traces": worlds[1].traces(),
            "survivors": survivors(),
            "overlay": await over_an_overlay(worlds[0]),
            "redirect_served": server is not None,
        }
        print(json.dumps(report))
    finally:
        for world in worlds:
            with contextlib.suppress(OSError):
                os.kill(world.bait, signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
