"""One connection to the D-Bus on which systemd answers.

Speaks org.freedesktop.systemd1(5) with dbus-fast on asyncio, on the machine's system bus or on the
user's own. A connection lives for one call of a tool: it costs about 2 ms and outlives no restart
of the daemon. All failures come out as `HostError`; where there is no systemd to talk to, with the
code `no_systemd` and the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import quote

from hostwright_kit.errors import HostError

if sys.platform == "linux":  # elsewhere dbus-fast is no dependency, and `connect` refuses first
    from dbus_fast import Message, MessageType
    from dbus_fast.aio import MessageBus
    from dbus_fast.errors import DBusFastError
    from dbus_fast.unpack import unpack_variants

Scope = Literal["system", "user"]

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
DBUS = "org.freedesktop.DBus"
PROPERTIES = "org.freedesktop.DBus.Properties"

CONNECT_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 15.0

_DENIED = {
    f"{DBUS}.Error.AccessDenied",
    f"{DBUS}.Error.AuthFailed",
    f"{DBUS}.Error.InteractiveAuthorizationRequired",
}
_NOT_FOUND = {f"{SYSTEMD}.NoSuchUnit", f"{DBUS}.Error.FileNotFound"}


class BusError(HostError):
    """systemd, or the bus, answered a call with an error; `name` is its D-Bus error name."""

    def __init__(self, name: str, text: str) -> None:
        if name in _DENIED:
            code = "denied"
            fix = "Run this server as root, let polkit allow it, or use scope=user for own units."
        elif name in _NOT_FOUND:
            code, fix = "not_found", "List the units there are, and use one of their names."
        else:
            code, fix = "failed", f"This is systemd's own answer ({name.rpartition('.')[2]})."
        super().__init__(text.rstrip(".") + ".", fix=fix, code=code)
        self.name = name


def no_systemd(reason: str, fix: str) -> HostError:
    return HostError(reason, fix=fix, code="no_systemd")


def booted() -> bool:
    """Whether systemd is this machine's service manager, as sd_booted(3) decides it."""
    return Path("/run/systemd/system").is_dir()


def require_booted() -> None:
    """Raise `no_systemd` with the reason when this machine is not run by systemd."""
    if sys.platform != "linux":
        raise no_systemd(
            f"There is no systemd on {sys.platform}; it exists on Linux only.",
            "Use the process tools instead, or this system's own service manager.",
        )
    if not booted():
        try:
            init = Path("/proc/1/comm").read_text().strip()
        except OSError:
            init = "unknown"
        raise no_systemd(
            f"This machine is not run by systemd: process 1 is {init!r} and /run/systemd/system"
            " does not exist.",
            "Use the process tools and the program's own logs; in a container, manage services"
            " from the host or start the container with systemd as its init.",
        )


def bus_address(scope: Scope, given: str | None = None) -> str:
    """The address to connect to, found in the order that sd_bus_open_system(3) documents."""
    variable = "DBUS_SYSTEM_BUS_ADDRESS" if scope == "system" else "DBUS_SESSION_BUS_ADDRESS"
    address = given or os.environ.get(variable)
    if address:
        return address
    require_booted()
    if scope == "system":
        return "unix:path=/run/dbus/system_bus_socket"
    folder = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return f"unix:path={quote(folder, safe='/-_.')}/bus"


def _unreachable(scope: Scope, address: str, error: Exception) -> HostError:
    reason = (
        f"The {scope} D-Bus at {address} does not answer: {str(error) or type(error).__name__}."
    )
    if isinstance(error, PermissionError):
        return no_systemd(reason, "Run this server as a user who may open that socket.")
    if scope == "system":
        return no_systemd(
            reason,
            "Install and start the D-Bus daemon (Debian: apt-get install dbus; systemctl start"
            " dbus.socket), or correct DBUS_SYSTEM_BUS_ADDRESS.",
        )
    return no_systemd(
        reason,
        "Start the user's own manager (as root: loginctl enable-linger USER; Debian:"
        " apt-get install dbus-user-session), or set XDG_RUNTIME_DIR to its folder.",
    )


class Bus:
    """An open connection on which systemd is present. Made by `connect`."""

    def __init__(self, connection: MessageBus, scope: Scope, address: str) -> None:
        self._connection = connection
        self.scope: Scope = scope
        self.address = address
        self.owner = ""
        # Waited for, never cancelled: that would cancel the library's own future.
        self.gone = asyncio.ensure_future(connection.wait_for_disconnect())

    async def call(
        self,
        member: str,
        signature: str = "",
        *arguments: Any,
        path: str = MANAGER_PATH,
        interface: str = MANAGER,
        destination: str = SYSTEMD,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> list[Any]:
        """Call one method and return the values that it answers, variants unpacked."""
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(arguments),
        )
        try:
            async with asyncio.timeout(timeout_s):
                # None is the library's answer when the bus closes the connection in good order.
                reply = cast("Message | None", await self._connection.call(message))
        except TimeoutError:
            raise HostError(
                f"systemd did not answer {member} within {timeout_s:g} s.",
                fix="The machine or PID 1 is overloaded; look at the state again before repeating.",
                code="timeout",
            ) from None
        except (OSError, EOFError) as error:
            raise self.lost(member) from error
        if reply is None:
            raise self.lost(member)
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else "no text was given"
            raise BusError(reply.error_name or "unknown", text)
        return unpack_variants(reply.body)

    def lost(self, doing: str) -> HostError:
        return HostError(
            f"The {self.scope} D-Bus closed the connection during {doing}; its outcome is unknown.",
            fix="Look at the unit's state before you repeat the call.",
            code="bus_lost",
        )

    async def properties(self, path: str) -> dict[str, Any]:
        """All properties of an object; sd-bus gives those of every interface for an empty name."""
        (values,) = await self.call("GetAll", "s", "", path=path, interface=PROPERTIES)
        return values

    @contextlib.asynccontextmanager
    async def jobs(self) -> AsyncGenerator[JobWatch]:
        """Collect the results of all jobs that end from here on."""
        watch = JobWatch(self)
        self._connection.add_message_handler(watch.receive)
        rule = f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'"
        await self.call(
            "AddMatch", "s", rule, path="/org/freedesktop/DBus", interface=DBUS, destination=DBUS
        )
        await self.call("Subscribe")  # without it systemd sends no signals
        try:
            yield watch
        finally:
            self._connection.remove_message_handler(watch.receive)


class JobWatch:
    """The results of jobs, out of the `JobRemoved` signal.

    1. `jobs()` installs the match before a job can exist, so that no result is missed.
    2. `StartUnit` and its like answer with the job's path.
    3. systemd sends `JobRemoved(id, path, unit, result)` once; it may come before we wait.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._results: dict[str, str] = {}
        self._changed = asyncio.Event()

    def receive(self, message: Message) -> None:
        if (
            message.message_type is MessageType.SIGNAL
            and message.member == "JobRemoved"
            and message.sender == self._bus.owner
        ):
            _, path, _, result = message.body
            self._results[path] = result
            self._changed.set()

    async def result(self, path: str, wait_s: float) -> str | None:
        """The job's result; None when it is still at work after WAIT_S seconds."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        while path not in self._results:
            if (left := deadline - clock()) <= 0:
                return None
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait(
                    (changed, self._bus.gone),
                    timeout=left,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                changed.cancel()
            if self._bus.gone.done() and path not in self._results:
                raise self._bus.lost("the wait for the job") from self._bus.gone.exception()
        return self._results[path]


@contextlib.asynccontextmanager
async def connect(scope: Scope = "system", address: str | None = None) -> AsyncGenerator[Bus]:
    """Connect to systemd; raises `no_systemd` with the reason where there is none to talk to."""
    address = bus_address(scope, address)
    if sys.platform != "linux":
        require_booted()
    try:
        connection = MessageBus(bus_address=address)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await connection.connect()
    except (OSError, EOFError, DBusFastError) as error:
        raise _unreachable(scope, address, error) from error
    bus = Bus(connection, scope, address)
    try:
        bus.owner = await _owner(bus)
        yield bus
    finally:
        connection.disconnect()
        # The socket is closed when the loop comes round again.
        await asyncio.wait((bus.gone,), timeout=1)
        if bus.gone.done():
            bus.gone.exception()  # a connection that broke before has told its caller already


async def _owner(bus: Bus) -> str:
    try:
        (owner,) = await bus.call(
            "GetNameOwner",
            "s",
            SYSTEMD,
            path="/org/freedesktop/DBus",
            interface=DBUS,
            destination=DBUS,
        )
    except BusError as error:
        raise no_systemd(
            f"There is a D-Bus at {bus.address}, but no systemd on it ({error.message})",
            "Services on this machine are not managed by systemd; in a container that shares the"
            " host's bus socket, run this server on the host.",
        ) from error
    return owner
