"""The life of one server as a table: in which state, on which input, to which state, doing what.

    stopped ──start──▶ starting ──answered──▶ ready ◀──answered── unhealthy
                          │                     │ ──missed──▶       │
             exited, unanswered, not startable  └──exited, unanswered┘
                          ▼                             ▼
                       failing   (what is left of the process is being ended)
                          │ retry            │ give up          │ leave
                          ▼                  ▼                  ▼
                     backing_off          broken             stopped
                          │ retry due
                          ▼
                       starting

`stop` leads from everywhere through `stopping` to `stopped`, `restart` through `restarting` to
`starting`. A process exists only in starting, ready, unhealthy, failing, stopping and restarting;
the next one is started only after the previous one and all of its descendants are gone.

Pure: no process, no clock. `server.py` turns outputs into acts and what happens into inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """What a server is doing, as status shows it."""

    DISABLED = "disabled"  # the manifest says so, and nobody started it by hand
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"  # runs, but missed its last checks
    FAILING = "failing"
    BACKING_OFF = "backing_off"
    BROKEN = "broken"  # failed too often; only the owner starts it again
    STOPPING = "stopping"
    RESTARTING = "restarting"


class Input(StrEnum):
    """What can happen to it."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    NOT_STARTABLE = "not_startable"  # no process came to be: a missing program or variable
    ANSWERED = "answered"  # a round trip succeeded
    MISSED = "missed"  # one failed, within what is tolerated
    UNANSWERED = "unanswered"  # more failed than that
    EXITED = "exited"  # the process ended by itself
    ENDED = "ended"  # ending it on purpose is done, nothing of it is left
    RETRY = "retry"  # the same after a failure; and it is to be tried again
    GIVE_UP = "give_up"  # … the breaker opens
    LEAVE = "leave"  # … its restart policy says to leave it
    RETRY_DUE = "retry_due"


class Output(StrEnum):
    """What is to be done."""

    SPAWN = "spawn"
    END = "end"
    WAIT = "wait"
    CANCEL_WAIT = "cancel_wait"
    FORGIVE = "forgive"  # forget failures: back-off and breaker start anew
    TELL_READY = "tell_ready"
    TELL_CRASHED = "tell_crashed"
    TELL_BROKEN = "tell_broken"
    TELL_STOPPED = "tell_stopped"


S, I, O = State, Input, Output  # noqa: E741 - the table below is read by its columns

_ROWS: tuple[tuple[State, Input, State, tuple[Output, ...]], ...] = (
    (S.DISABLED, I.START, S.STARTING, (O.FORGIVE, O.SPAWN)),
    (S.DISABLED, I.STOP, S.DISABLED, ()),
    (S.DISABLED, I.RESTART, S.STARTING, (O.FORGIVE, O.SPAWN)),
    (S.STOPPED, I.START, S.STARTING, (O.FORGIVE, O.SPAWN)),
    (S.STOPPED, I.STOP, S.STOPPED, ()),
    (S.STOPPED, I.RESTART, S.STARTING, (O.FORGIVE, O.SPAWN)),
    (S.STARTING, I.ANSWERED, S.READY, (O.TELL_READY,)),
    (S.STARTING, I.NOT_STARTABLE, S.FAILING, (O.END,)),
    (S.STARTING, I.UNANSWERED, S.FAILING, (O.END,)),
    (S.STARTING, I.EXITED, S.FAILING, (O.END,)),
    (S.STARTING, I.START, S.STARTING, ()),
    (S.STARTING, I.STOP, S.STOPPING, (O.END,)),
    (S.STARTING, I.RESTART, S.RESTARTING, (O.FORGIVE, O.END)),
    (S.READY, I.ANSWERED, S.READY, ()),
    (S.READY, I.MISSED, S.UNHEALTHY, ()),
    (S.READY, I.UNANSWERED, S.FAILING, (O.END,)),
    (S.READY, I.EXITED, S.FAILING, (O.END,)),
    (S.READY, I.START, S.READY, ()),
    (S.READY, I.STOP, S.STOPPING, (O.END,)),
    (S.READY, I.RESTART, S.RESTARTING, (O.FORGIVE, O.END)),
    (S.UNHEALTHY, I.ANSWERED, S.READY, ()),
    (S.UNHEALTHY, I.MISSED, S.UNHEALTHY, ()),
    (S.UNHEALTHY, I.UNANSWERED, S.FAILING, (O.END,)),
    (S.UNHEALTHY, I.EXITED, S.FAILING, (O.END,)),
    (S.UNHEALTHY, I.START, S.UNHEALTHY, ()),
    (S.UNHEALTHY, I.STOP, S.STOPPING, (O.END,)),
    (S.UNHEALTHY, I.RESTART, S.RESTARTING, (O.FORGIVE, O.END)),
    (S.FAILING, I.RETRY, S.BACKING_OFF, (O.WAIT, O.TELL_CRASHED)),
    (S.FAILING, I.GIVE_UP, S.BROKEN, (O.TELL_CRASHED, O.TELL_BROKEN)),
    (S.FAILING, I.LEAVE, S.STOPPED, (O.TELL_STOPPED,)),
    (S.FAILING, I.EXITED, S.FAILING, ()),
    (S.FAILING, I.START, S.RESTARTING, (O.FORGIVE,)),
    (S.FAILING, I.STOP, S.STOPPING, ()),
    (S.FAILING, I.RESTART, S.RESTARTING, (O.FORGIVE,)),
    (S.BACKING_OFF, I.RETRY_DUE, S.STARTING, (O.SPAWN,)),
    (S.BACKING_OFF, I.START, S.STARTING, (O.CANCEL_WAIT, O.FORGIVE, O.SPAWN)),
    (S.BACKING_OFF, I.STOP, S.STOPPED, (O.CANCEL_WAIT, O.TELL_STOPPED)),
    (S.BACKING_OFF, I.RESTART, S.STARTING, (O.CANCEL_WAIT, O.FORGIVE, O.SPAWN)),
    (S.BROKEN, I.START, S.STARTING, (O.FORGIVE, O.SPAWN)),
    (S.BROKEN, I.STOP, S.STOPPED, (O.TELL_STOPPED,)),
    (S.BROKEN, I.RESTART, S.STARTING, (O.FORGIVE, O.SPAWN)),
    (S.STOPPING, I.ENDED, S.STOPPED, (O.TELL_STOPPED,)),
    (S.STOPPING, I.EXITED, S.STOPPING, ()),
    (S.STOPPING, I.START, S.RESTARTING, (O.FORGIVE,)),
    (S.STOPPING, I.STOP, S.STOPPING, ()),
    (S.STOPPING, I.RESTART, S.RESTARTING, (O.FORGIVE,)),
    (S.RESTARTING, I.ENDED, S.STARTING, (O.SPAWN,)),
    (S.RESTARTING, I.EXITED, S.RESTARTING, ()),
    (S.RESTARTING, I.START, S.RESTARTING, ()),
    (S.RESTARTING, I.STOP, S.STOPPING, ()),
    (S.RESTARTING, I.RESTART, S.RESTARTING, ()),
)

TABLE: Mapping[tuple[State, Input], tuple[State, tuple[Output, ...]]] = MappingProxyType(
    {(state, event): (after, outputs) for state, event, after, outputs in _ROWS}
)

COMMANDS = frozenset({I.START, I.STOP, I.RESTART})
"""Inputs that the owner may give in every state."""

WITH_PROCESS = frozenset({S.STARTING, S.READY, S.UNHEALTHY, S.FAILING, S.STOPPING, S.RESTARTING})
"""States in which a process may exist."""

SETTLED = frozenset({S.DISABLED, S.STOPPED, S.READY, S.UNHEALTHY, S.BACKING_OFF, S.BROKEN})
"""States in which a command has had its outcome."""


class ImpossibleInput(AssertionError):  # noqa: N818 - a fault of ours, not an error to handle
    """An input that cannot occur in this state: the driver and the table disagree."""


def step(state: State, event: Input) -> tuple[State, tuple[Output, ...]]:
    """The state after `event`, and what is to be done, in order."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise ImpossibleInput(f"{event} cannot happen in {state}") from None
