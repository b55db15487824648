"""`hostwright connect [NAME]`: joins this process's stdin and stdout to the daemon.

What MCP clients are configured with. Standard library only, so that it starts in milliseconds.
Where they are pipes or sockets, stdin and stdout are handed to the daemon (SCM_RIGHTS), and this
process becomes a shell that waits for the end of the session: it takes next to no memory, and no
message goes through it. What cannot be handed over (a file, a terminal) is copied.

When the daemon is killed, that shell sees its socket close without a last word. It still has the
pipes, becomes this program again, and hands them to the next daemon: the client's session goes on.

Without a daemon: `--ensure` starts one; otherwise it becomes the server itself when NAME is one of
ours (it then runs alone, under the same guard), and says what to do when it is not.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import selectors
import socket
import stat
import sys
import time

CHUNK_BYTES = 65_536
# -P: nothing is imported from the client's working folder.
MODULE = ("-P", "-m", "hostwright")
ENSURE_SECONDS = 60.0
RESUME_SECONDS = 60.0
"""How long the next daemon may take to come, when one was killed."""
BYE = b"bye\n"
USAGE = """usage: hostwright connect [--ensure] [NAME]

Without NAME all servers are offered in one. --ensure starts the daemon when none runs.
"""
# A line is the daemon's last word; an end without one means that it was killed. `exec` keeps the
# pid, so a signal of the client's ends it, and with it the session.
WAIT = 'read -r _ && exit 0; exec "$@" <&3 >&4 3<&- 4>&-'


def connect_main(arguments: list[str]) -> None:
    """Does not return while the client is there."""
    words = list(arguments)
    # Said only by this program to itself.
    resume = ""
    if words[:1] == ["--resume"] and len(words) > 1:
        resume, words = words[1], words[2:]
    ensure = "--ensure" in words
    names = [word for word in words if word != "--ensure"]
    if any(word.startswith("-") for word in names) or len(names) > 1:
        sys.stderr.write(USAGE)
        raise SystemExit(0 if {"-h", "--help"} & set(names) else 2)
    name = names[0] if names else "*"
    connection = _connected()
    if connection is None and ensure:
        connection = _started()
    elif connection is None and resume:
        connection = _waited_for()
    if connection is None:
        _run_alone(name)
    elif _can_hand_over():
        _wait(connection, name, _greet(connection, name, resume, hand_over=True), ensure=ensure)
    else:
        _greet(connection, name, "", hand_over=False)
        _copy(connection)


def socket_path() -> str:
    """Where the daemon listens for us."""
    # Late, because the kit's own rules for folders cost an import that the common case can spare.
    if folder := os.environ.get("HOSTWRIGHT_RUNTIME_DIR"):
        return f"{folder}/connect.sock"
    if os.getuid() == 0:
        return "/run/hostwright/connect.sock"
    from hostwright_kit.paths import resolve_paths

    return str(resolve_paths().runtime_dir / "connect.sock")


def _connected() -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(socket_path())
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError as error:
        _fail(
            f"The daemon's socket {socket_path()} cannot be used: {error.strerror}.",
            "Run this as the user who runs the daemon.",
        )
    return connection


def _started() -> socket.socket:
    """Start the daemon and wait for it. Of several that try at once, one daemon comes."""
    # Slow anyway, so an import more does not matter.
    import subprocess

    command = [sys.executable, *MODULE, "up", "--detach"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    deadline = time.monotonic() + ENSURE_SECONDS
    while (connection := _connected()) is None:
        # Refused, when somebody else was just starting it: then that one will come.
        if time.monotonic() > deadline:
            said = (done.stderr or done.stdout).strip()
            _fail(f"The daemon did not start. It said: {said}", "See `hostwright logs daemon`.")
        time.sleep(0.02)
    return connection


def _waited_for() -> socket.socket:
    """The next daemon, which somebody starts; not for longer than the client is there."""
    client = select.poll()
    client.register(0, 0)
    client.register(1, 0)
    deadline = time.monotonic() + RESUME_SECONDS
    while (connection := _connected()) is None:
        if time.monotonic() > deadline:
            _fail(
                f"The daemon was killed, and none came back within {RESUME_SECONDS:g} s.",
                "Start it (`hostwright up --detach`), then reconnect; `connect --ensure` does so "
                "by itself.",
            )
        if client.poll(50):
            raise SystemExit(0)
    return connection


def _can_hand_over() -> bool:
    """Whether the daemon's event loop can serve stdin and stdout itself."""
    for fd in (0, 1):
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return False
    return True


def _greet(connection: socket.socket, name: str, resume: str, *, hand_over: bool) -> str:
    """Hand over, or begin to copy; under which name the session can be resumed, if it can."""
    more = {"resume": resume} if resume else {}
    hello = json.dumps({"connect": name, **more}).encode() + b"\n"
    if hand_over:
        rights = array.array("i", (0, 1))
        connection.sendmsg([hello], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    else:
        connection.sendall(hello)
    line = _read_line(connection)
    if line == BYE:
        # The client hung up before it said anything, and the daemon has noticed already.
        raise SystemExit(0)
    answer = json.loads(line or "{}")
    if not answer.get("connected"):
        _fail(
            f"The daemon refused the connection: {answer.get('error', 'it hung up')}.",
            "See `hostwright status`.",
        )
    return str(answer.get("resume", ""))


def _wait(connection: socket.socket, name: str, resume: str, *, ensure: bool) -> None:
    """Become the smallest process that lives as long as the session."""
    again = [
        "--resume",
        resume,
        *(["--ensure"] if ensure else []),
        *([] if name == "*" else [name]),
    ]
    command = [sys.executable, *MODULE, "connect", *again] if resume else ["false"]
    # The client's pipes stay open here, out of the way, for the case that the daemon is killed.
    waited = fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, 10)
    null = os.open(os.devnull, os.O_RDWR)
    null = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 10)
    for old, new in ((0, 3), (1, 4), (waited, 0), (null, 1)):
        os.dup2(old, new)
    os.execv("/bin/sh", ["sh", "-c", WAIT, "sh", *command])  # noqa: S606 - becoming it is the point


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
            with open("/dev/stdin", "rb") as file:  # noqa: PTH123 - pathlib takes long to import
                _send_all(connection, file.read())
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
    argv = [sys.executable, "-P", "-m", "hostwright_kit.run", name]
    os.execv(sys.executable, argv)  # noqa: S606 - no shell is what we want


def _fail(message: str, fix: str, *, code: int = 1) -> None:
    sys.stderr.write(f"hostwright connect: {message}\n  fix: {fix}\n")
    raise SystemExit(code)
