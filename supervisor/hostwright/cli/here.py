"""`hostwright up` without more: the daemon in this process, and what it shows of itself.

In the background too this is what runs, so nothing of the command line is imported here: it would
take time at every start and memory for as long as the daemon lives.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from rich.markup import escape

from hostwright.cli.output import err, out, print_json, visible
from hostwright.cli.state import connect_lines, render
from hostwright.keeper.pidfile import daemon_pid
from hostwright.keeper.status import ServerEvent
from hostwright.loop import run
from hostwright.status import ESTATE_VARIABLE
from hostwright_kit.errors import HostError
from hostwright_kit.paths import resolve_paths
from hostwright_kit.runtime import open_runtime

if TYPE_CHECKING:
    from hostwright.daemon import Daemon
    from hostwright.notify import Notifier
    from hostwright.succession import Estate

REFRESH_SECONDS = 1.0


def up_here(*, as_json: bool) -> None:
    """Be the daemon."""
    environ = dict(os.environ)
    estate = _inherited()
    # Before the port is found taken: by our own daemon, which is another matter.
    if estate is None:
        refuse_second()
    left = run(_up_here(estate, environ, as_json=as_json))
    if left is not None:
        from hostwright.succession import succeed

        succeed(left, environ)


def refuse_second() -> None:
    """Raise when a daemon runs."""
    pid = daemon_pid(resolve_paths().ensure().runtime_dir)
    if pid is not None:
        raise HostError(
            f"A daemon runs already (pid {pid}).",
            fix="`hostwright status` shows it, `hostwright down` ends it.",
            code="already_running",
        )


def _inherited() -> Estate | None:
    """What an earlier program of this process has left to this one."""
    if ESTATE_VARIABLE not in os.environ:
        return None
    from hostwright.succession import inherited

    return inherited()


async def _up_here(
    estate: Estate | None, environ: Mapping[str, str], *, as_json: bool
) -> Estate | None:
    """The daemon in this process, with the live table over it; what it leaves to a successor."""
    from hostwright.daemon import Daemon  # the gateway takes a second to import
    from hostwright.notify import Notifier

    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s"
    )
    runtime = open_runtime("hostwright", writes_for_all=True)
    try:
        interactive = out.is_terminal and not as_json
        notifier = Notifier()
        daemon = Daemon(
            runtime,
            on_event=_nothing if interactive else _print_event,
            on_replacing=notifier.reloading,
            estate=estate,
            environ=environ,
        )
        loop = asyncio.get_running_loop()

        def stop() -> None:
            notifier.stopping()
            daemon.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        # Where there is a terminal it means that the terminal has gone; a service has none.
        loop.add_signal_handler(signal.SIGHUP, stop if _has_terminal() else daemon.reload)
        telling = asyncio.create_task(_tell(notifier, daemon))
        serving = asyncio.create_task(daemon.run())
        how = _show_json(daemon) if as_json else _show(daemon, live=interactive)
        showing = asyncio.create_task(how)
        try:
            await serving
        except BaseExceptionGroup as group:
            # Task groups wrap what went wrong; it is one thing all the same.
            raise _first_error(group) from group
        finally:
            showing.cancel()
            telling.cancel()
            await asyncio.wait([showing, telling])
    finally:
        await runtime.close()
    return daemon.estate


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    expected = group.subgroup(HostError)
    while expected is not None:
        first = expected.exceptions[0]
        if not isinstance(first, BaseExceptionGroup):
            return first
        expected = cast("BaseExceptionGroup[BaseException]", first)
    return group


async def _tell(notifier: Notifier, daemon: Daemon) -> None:
    """Whoever started us (systemd) hears when the listeners are open, and that we live."""
    await daemon.ready.wait()
    notifier.ready(f"serving {daemon.url}")
    await notifier.keep_alive()


async def _show(daemon: Daemon, *, live: bool) -> None:
    await daemon.ready.wait()
    if live:
        from rich.live import Live

        out.print(connect_lines(daemon.url), soft_wrap=True)
        out.print("\nCtrl-C ends the supervisor and its servers.\n")
        with Live(console=out, auto_refresh=False) as view:
            while True:
                view.update(render(await daemon.status()), refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)
    # Not a terminal: one line per event, as a log wants it; the table once all have settled.
    await daemon.settled.wait()
    out.print(render(await daemon.status()))
    out.print(connect_lines(daemon.url), soft_wrap=True)


async def _show_json(daemon: Daemon) -> None:
    await daemon.settled.wait()
    print_json(await daemon.status())
    sys.stdout.flush()


def _nothing(_: ServerEvent) -> None:
    return None


def _print_event(event: ServerEvent) -> None:
    reason: Any = getattr(event, "reason", None)
    line = f"{event.at:%Y-%m-%dT%H:%M:%S} {event.type} {event.name} {reason or ''}".rstrip()
    err.print(escape(visible(line)), soft_wrap=True)
