"""Opening the sockets that servers and the gateway listen on; standard library only.

A unix socket is 0600 in a 0700 folder: the kernel admits only its owner. One that a dead process
left behind is replaced, one that answers is not.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import stat
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from hostwright_kit.errors import HostError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `PORT` (then loopback); IPv6 in brackets."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise HostError(
            f"{text!r} is not HOST:PORT.", fix="For example 127.0.0.1:8080.", code="bad_address"
        )
    return host, int(port)


def bind_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, because asyncio turns Nagle's algorithm off only where it is: without
    # it every answer waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        raise HostError(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            fix=f"See who holds it (ss -ltnp 'sport = :{port}'), end that program, or choose "
            "another port."
            if taken
            else "Choose an address of this machine and a port that this user may open.",
            code="port_in_use" if taken else "address_unusable",
        ) from error
    return listener


@asynccontextmanager
async def unix_listener(
    path: Path, *, keep: Callable[[], bool] = lambda: False
) -> AsyncGenerator[socket.socket]:
    """A listening unix socket, 0600; one left behind by a dead process is replaced.

    `keep` is asked at the end: whether the path stays, since somebody goes on listening there.
    """
    listener, inode = _bind_unix(path)
    try:
        yield listener
    finally:
        listener.close()
        if not keep():
            _unlink_if(path, inode)


@asynccontextmanager
async def inherited_unix_listener(
    path: Path, fd: int, *, keep: Callable[[], bool] = lambda: False
) -> AsyncGenerator[socket.socket]:
    """The same on a socket that already listens there; bound anew when its path is gone."""
    inode = _inode(path)
    if inode is None:
        os.close(fd)
        async with unix_listener(path, keep=keep) as listener:
            yield listener
        return
    listener = socket.socket(fileno=fd)
    try:
        yield listener
    finally:
        listener.close()
        if not keep():
            _unlink_if(path, inode)


def _bind_unix(path: Path) -> tuple[socket.socket, int]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        with _starting_in(path.parent):
            _clear_stale(path)
            listener.bind(str(path))
            listener.listen(512)
            return listener, path.stat().st_ino
    except OSError as error:
        listener.close()
        raise HostError(
            f"Cannot listen on {path}: {error.strerror or error}.",
            fix="Use a path of at most 107 characters in a folder of this user.",
            code="socket_unusable",
        ) from error
    except HostError:
        listener.close()
        raise
    finally:
        os.umask(old_mask)


@contextmanager
def _starting_in(folder: Path) -> Generator[None]:
    """One server at a time: between bind and listen a socket looks as if its owner were dead."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _unlink_if(path: Path, inode: int) -> None:
    """Remove the socket unless somebody replaced it meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # A live server with a full backlog must not hold up this one for ever.
            probe.settimeout(2)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
            except TimeoutError:
                pass
    raise HostError(
        f"{path} is in use.",
        fix="Another server listens there (or it is no socket): end it or choose another path.",
        code="socket_in_use",
    )
