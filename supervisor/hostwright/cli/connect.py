"""`hostwright connect [NAME]`: joins this process's stdin and stdout to the daemon.

What MCP clients are configured with. Standard library only, so that it starts in milliseconds.
Without a daemon it becomes the server itself when NAME is one of ours (it then runs alone, under
the same guard), and otherwise says what to do.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
from pathlib import Path

CHUNK_BYTES = 65_536
USAGE = "usage: hostwright connect [NAME]\n\nWithout NAME all servers are offered in one.\n"


def connect_main(arguments: list[str]) -> None:
    """Does not return while the client is there."""
    if any(word in ("-h", "--help") for word in arguments) or len(arguments) > 1:
        sys.stderr.write(USAGE)
        raise SystemExit(0 if {"-h", "--help"} & set(arguments) else 2)
    name = arguments[0] if arguments else "*"
    connection = _open(name)
    if connection is None:
        _run_alone(name)
    else:
        _copy(connection)


def socket_path() -> Path:
    """Where the daemon listens for us."""
    # Late, because the kit's own rules for folders cost an import that the common case can spare.
    if folder := os.environ.get("HOSTWRIGHT_RUNTIME_DIR"):
        return Path(folder, "connect.sock")
    if os.getuid() == 0:
        return Path("/run/hostwright/connect.sock")
    from hostwright_kit.paths import resolve_paths

    return resolve_paths().runtime_dir / "connect.sock"


def _open(name: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(socket_path()))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        _fail(
            f"The daemon's socket {socket_path()} cannot be used: {error.strerror}.",
            "Run this as the user who runs the daemon.",
        )
    connection.sendall(json.dumps({"connect": name}).encode() + b"\n")
    answer = json.loads(_read_line(connection) or "{}")
    if not answer.get("connected"):
        _fail(
            f"The daemon refused the connection: {answer.get('error', 'it hung up')}.",
            "See `hostwright status`.",
        )
    return connection


def _read_line(connection: socket.socket) -> bytes:
    """One line and not a byte more: what follows is the client's."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return bytes(line)


def _copy(connection: socket.socket) -> None:
    """Bytes both ways until the daemon ends the connection."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(connection, selectors.EVENT_READ)
        try:
            waiting.register(0, selectors.EVENT_READ)
        except PermissionError:
            # A plain file cannot be waited for, and need not be.
            _send_all(connection, Path("/dev/stdin").read_bytes())
            connection.shutdown(socket.SHUT_WR)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is connection:
                    data = connection.recv(CHUNK_BYTES)
                    if not data:
                        return
                    _write_all(data)
                else:
                    data = os.read(0, CHUNK_BYTES)
                    if data:
                        _send_all(connection, data)
                    else:
                        # The client is done; answers to what it asked still come.
                        waiting.unregister(0)
                        connection.shutdown(socket.SHUT_WR)


def _send_all(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        _fail("The daemon ended the connection.", "Start it again (`hostwright up`), reconnect.")


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _run_alone(name: str) -> None:
    if name == "*":
        _fail(
            "No daemon runs here.",
            "Start it with `hostwright up --detach`, or name one server to run it alone: "
            "`hostwright connect system`.",
            code=3,
        )
    argv = [sys.executable, "-m", "hostwright_kit.run", name]
    os.execv(sys.executable, argv)  # noqa: S606 - no shell is what we want


def _fail(message: str, fix: str, *, code: int = 1) -> None:
    sys.stderr.write(f"hostwright connect: {message}\n  fix: {fix}\n")
    raise SystemExit(code)
