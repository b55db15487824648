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

The first failure of a server that had been ready is answered at once: failing ──retry now──▶
starting. Two ways lead to a rest that something else ends:

    ready ──sleep──▶ hibernating ──ended──▶ hibernated ──wake──▶ starting
    starting, ready, unhealthy ──hold──▶ holding ──ended──▶ waiting ──unblocked──▶ starting

and a start that finds what it needs not running goes to `waiting`, one whose conditions are not met
to `disabled`. `stop` leads from everywhere through `stopping` to `stopped`, `restart` through
`restarting` to `starting`. A process exists only in the states of `WITH_PROCESS`; the next one is
started only after the previous one and all of its descendants are gone.

Pure: no process, no clock. `server.py` turns outputs into acts and what happens into inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """What a server is doing, as status shows it."""

    DISABLED = "disabled"  # the manifest says so, or its conditions are not met
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    UNHEALTHY = "unhealthy"  # runs, but missed its last checks
    FAILING = "failing"
    BACKING_OFF = "backing_off"
    BROKEN = "broken"  # failed too often; only the owner starts it again
    STOPPING = "stopping"
    RESTARTING = "restarting"
    WAITING = "waiting"  # for a server that it needs
    HOLDING = "holding"  # being ended, because a server that it needs does not run
    HIBERNATING = "hibernating"
    HIBERNATED = "hibernated"  # idle, without a process; the next call wakes it


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
    RETRY_NOW = "retry_now"  # … at once, because it had been ready
    GIVE_UP = "give_up"  # … the breaker opens
    LEAVE = "leave"  # … its restart policy says to leave it
    RETRY_DUE = "retry_due"
    UNMET = "unmet"  # a start: its conditions are not met here
    BLOCKED = "blocked"  # a start: what it needs does not run (yet)
    UNBLOCKED = "unblocked"  # now it does
    HOLD = "hold"  # what it needs has ended, and will not come back by itself
    SLEEP = "sleep"  # it has been idle for long enough
    WAKE = "wake"  # somebody wants to call it


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
    TELL_WAITING = "tell_waiting"
    TELL_HIBERNATED = "tell_hibernated"


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
    (S.STARTING, I.UNMET, S.DISABLED, ()),
    (S.STARTING, I.BLOCKED, S.WAITING, ()),
    (S.STARTING, I.HOLD, S.HOLDING, (O.END,)),
    (S.READY, I.ANSWERED, S.READY, ()),
    (S.READY, I.MISSED, S.UNHEALTHY, ()),
    (S.READY, I.UNANSWERED, S.FAILING, (O.END,)),
    (S.READY, I.EXITED, S.FAILING, (O.END,)),
    (S.READY, I.START, S.READY, ()),
    (S.READY, I.STOP, S.STOPPING, (O.END,)),
    (S.READY, I.RESTART, S.RESTARTING, (O.FORGIVE, O.END)),
    (S.READY, I.HOLD, S.HOLDING, (O.END,)),
    (S.READY, I.SLEEP, S.HIBERNATING, (O.END,)),
    (S.UNHEALTHY, I.ANSWERED, S.READY, ()),
    (S.UNHEALTHY, I.MISSED, S.UNHEALTHY, ()),
    (S.UNHEALTHY, I.UNANSWERED, S.FAILING, (O.END,)),
    (S.UNHEALTHY, I.EXITED, S.FAILING, (O.END,)),
    (S.UNHEALTHY, I.START, S.UNHEALTHY, ()),
    (S.UNHEALTHY, I.STOP, S.STOPPING, (O.END,)),
    (S.UNHEALTHY, I.RESTART, S.RESTARTING, (O.FORGIVE, O.END)),
    (S.UNHEALTHY, I.HOLD, S.HOLDING, (O.END,)),
    (S.FAILING, I.RETRY_NOW, S.STARTING, (O.SPAWN, O.TELL_CRASHED)),
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
    (S.BACKING_OFF, I.HOLD, S.WAITING, (O.CANCEL_WAIT, O.TELL_WAITING)),
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
    (S.WAITING, I.UNBLOCKED, S.STARTING, (O.SPAWN,)),
    (S.WAITING, I.START, S.STARTING, (O.FORGIVE, O.SPAWN)),
    (S.WAITING, I.STOP, S.STOPPED, (O.TELL_STOPPED,)),
    (S.WAITING, I.RESTART, S.STARTING, (O.FORGIVE, O.SPAWN)),
    (S.HOLDING, I.ENDED, S.WAITING, (O.TELL_WAITING,)),
    (S.HOLDING, I.EXITED, S.HOLDING, ()),
    (S.HOLDING, I.UNBLOCKED, S.RESTARTING, ()),
    (S.HOLDING, I.START, S.RESTARTING, (O.FORGIVE,)),
    (S.HOLDING, I.STOP, S.STOPPING, ()),
    (S.HOLDING, I.RESTART, S.RESTARTING, (O.FORGIVE,)),
    (S.HIBERNATING, I.ENDED, S.HIBERNATED, (O.TELL_HIBERNATED,)),
    (S.HIBERNATING, I.EXITED, S.HIBERNATING, ()),
    (S.HIBERNATING, I.WAKE, S.RESTARTING, ()),
    (S.HIBERNATING, I.START, S.RESTARTING, (O.FORGIVE,)),
    (S.HIBERNATING, I.STOP, S.STOPPING, ()),
    (S.HIBERNATING, I.RESTART, S.RESTARTING, (O.FORGIVE,)),
    (S.HIBERNATED, I.WAKE, S.STARTING, (O.SPAWN,)),
    (S.HIBERNATED, I.START, S.STARTING, (O.FORGIVE, O.SPAWN)),
    (S.HIBERNATED, I.STOP, S.STOPPED, (O.TELL_STOPPED,)),
    (S.HIBERNATED, I.RESTART, S.STARTING, (O.FORGIVE, O.SPAWN)),
)

TABLE: Mapping[tuple[State, Input], tuple[State, tuple[Output, ...]]] = MappingProxyType(
    {(state, event): (after, outputs) for state, event, after, outputs in _ROWS}
)

COMMANDS = frozenset({I.START, I.STOP, I.RESTART})
"""Inputs that the owner may give in every state."""

WITH_PROCESS = frozenset(
    {S.STARTING, S.READY, S.UNHEALTHY, S.FAILING, S.STOPPING, S.RESTARTING}
    | {S.HOLDING, S.HIBERNATING}
)
"""States in which a process may exist."""

RUNNING = frozenset({S.READY, S.UNHEALTHY})
"""States in which it can be called."""

PROBED = frozenset({S.STARTING, *RUNNING})
"""States in which it is asked for signs of life."""

HOLDABLE = frozenset({*PROBED, S.BACKING_OFF})
"""States that `hold` ends."""

AT_REST = frozenset({S.DISABLED, S.STOPPED, S.BROKEN, S.WAITING, S.HIBERNATED})
"""States that nothing leaves by itself, and without a process."""

SETTLED = frozenset({*AT_REST, *RUNNING, S.BACKING_OFF})
"""States in which a command has had its outcome."""


class ImpossibleInput(AssertionError):  # noqa: N818 - a fault of ours, not an error to handle
    """An input that cannot occur in this state: the driver and the table disagree."""


def step(state: State, event: Input) -> tuple[State, tuple[Output, ...]]:
    """The state after `event`, and what is to be done, in order."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise ImpossibleInput(f"{event} cannot happen in {state}") from None
