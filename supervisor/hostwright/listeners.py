"""The sockets of the gateway, opened in one place.

TCP (loopback by default) for clients with a bearer token; `gateway.sock` for the command line and
for clients of this user; `connect.sock` for `hostwright connect`. The unix sockets are 0600 in a
0700 folder: the kernel admits only their owner.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

from hostwright.settings import GatewaySettings
from hostwright.status import CONNECT_SOCKET, GATEWAY_SOCKET
from hostwright_kit.sockets import bind_tcp, unix_listener


class UnixListeners(NamedTuple):
    """Those of this user alone."""

    gateway: socket.socket
    connect: socket.socket


@contextmanager
def tcp_listener(settings: GatewaySettings) -> Generator[socket.socket]:
    """The port."""
    with contextlib.closing(bind_tcp(settings.host, settings.port)) as listener:
        yield listener


@asynccontextmanager
async def unix_listeners(runtime_dir: Path) -> AsyncGenerator[UnixListeners]:
    """The sockets in the runtime folder."""
    async with (
        unix_listener(runtime_dir / GATEWAY_SOCKET) as gateway,
        unix_listener(runtime_dir / CONNECT_SOCKET) as connect,
    ):
        yield UnixListeners(gateway, connect)
