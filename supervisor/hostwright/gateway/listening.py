"""Who is told when the offer changes: clients of the new era that asked, sessions of the old one.

A client of the new era sends `subscriptions/listen`, whose answer is the stream of notices; one of
the handshake era was promised `notifications/*/list_changed` in the answer to `initialize`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from hostwright.gateway import codec
from hostwright.gateway.asker import SUBSCRIPTION_META
from hostwright.gateway.catalog import Kind
from hostwright.gateway.codec import RpcError
from hostwright.gateway.peer import Peer
from hostwright.gateway.request import Request
from hostwright.gateway.session import Session
from hostwright.gateway.view import View

MAX_LISTENERS = 1_024
MAX_URIS = 1_000
CHANGED: Mapping[Kind, str] = {
    "tools": "tools",
    "resources": "resources",
    "resourceTemplates": "resources",
    "prompts": "prompts",
}


class Listener:
    """One open `subscriptions/listen`."""

    def __init__(self, request: Request, wanted: Mapping[str, Any]) -> None:
        self.request = request
        self.kinds = {
            kind for kind in ("tools", "prompts", "resources") if wanted.get(f"{kind}ListChanged")
        }
        uris = wanted.get("resourceSubscriptions") or ()
        self.uris = {str(uri) for uri in cast("list[object]", uris)[:MAX_URIS]}
        self.hears = True
        self._early: dict[bytes, None] | None = {}
        self._stamp = b'"%b":%b' % (SUBSCRIPTION_META.encode(), request.id)

    def acknowledge(self) -> None:
        """Say what will be told: the first message of the stream."""
        honoured: dict[str, Any] = {f"{kind}ListChanged": True for kind in sorted(self.kinds)}
        if self.uris:
            honoured["resourceSubscriptions"] = sorted(self.uris)
        early, self._early = self._early or {}, None
        self.tell("subscriptions/acknowledged", {"notifications": honoured})
        for line in early:
            self.request.outlet.tell(self.request, line)

    def tell(self, what: str, params: Mapping[str, Any]) -> None:
        """One message of the stream."""
        body = codec.with_members(codec.encode(params), b'"_meta":{' + self._stamp + b"}")
        line = codec.notice(f"notifications/{what}", body)
        if self._early is not None:
            self._early[line] = None
        else:
            self.request.outlet.tell(self.request, line)

    def end(self) -> None:
        """Tell the client that the stream ends on purpose."""
        self.request.succeed(b'{"resultType":"complete","_meta":{' + self._stamp + b"}}")


class Listening:
    """All who are to be told."""

    def __init__(self) -> None:
        self._listeners: dict[Request, Listener] = {}
        self._sessions: set[Session] = set()

    def listen(self, request: Request) -> Listener:
        """Serve one `subscriptions/listen`, until it is forgotten or `end` is called.

        It hears nothing before it is acknowledged, and then what it missed.
        """
        wanted = codec.value(request.params.get("notifications", codec.ABSENT))
        if not isinstance(wanted, dict) or not _is_filter(cast("dict[str, Any]", wanted)):
            raise RpcError(codec.INVALID_PARAMS, "notifications is an object of what to tell.")
        if len(self._listeners) >= MAX_LISTENERS:
            raise RpcError(codec.INTERNAL_ERROR, f"{MAX_LISTENERS} clients listen already.")
        listener = Listener(request, cast("dict[str, Any]", wanted))
        self._listeners[request] = listener
        return listener

    def forget(self, request: Request) -> None:
        """It was cancelled."""
        self._listeners.pop(request, None)

    def join(self, session: Session) -> None:
        """A session that was initialized."""
        self._sessions.add(session)

    def leave(self, session: Session) -> None:
        """One that ended."""
        self._sessions.discard(session)

    def listeners(self) -> list[Listener]:
        """Those of the new era."""
        return list(self._listeners.values())

    def sessions(self) -> list[Session]:
        """Those of the handshake era."""
        return list(self._sessions)

    def changed(
        self, views: Iterable[View], kinds: Iterable[Kind], peer: Peer | None = None
    ) -> None:
        """The lists of these kinds changed, as these views show them; for one client or all."""
        seen_in, told = {id(view) for view in views}, list(kinds)
        for listener in self.listeners():
            if id(listener.request.view) in seen_in and peer in (None, listener.request.peer):
                self.tell(listener, told)
        for session in self.sessions():
            if id(session.view) in seen_in and peer in (None, session.peer):
                self.tell(session, told)

    def tell(self, hearer: Session | Listener, kinds: Iterable[Kind]) -> None:
        """These lists changed for this one."""
        for kind in sorted({CHANGED[kind] for kind in kinds}):
            if isinstance(hearer, Session):
                hearer.say(codec.notice(f"notifications/{kind}/list_changed"))
            elif kind in hearer.kinds:
                hearer.tell(f"{kind}/list_changed", {})

    def end(self, which: Callable[[Request], bool] = lambda _: True) -> None:
        """The daemon ends: these streams are told."""
        for listener in self.listeners():
            if which(listener.request):
                self.forget(listener.request)
                listener.end()


def _is_filter(wanted: Mapping[str, Any]) -> bool:
    uris = wanted.get("resourceSubscriptions")
    flags = [wanted.get(f"{kind}ListChanged") for kind in ("tools", "prompts", "resources")]
    return all(flag is None or isinstance(flag, bool) for flag in flags) and (
        uris is None
        or (isinstance(uris, list) and all(isinstance(u, str) for u in cast("list[Any]", uris)))
    )
