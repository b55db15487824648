"""What servers are asked to tell on their own, in the way of each one's era.

A server of the handshake era tells changes of its lists unasked, and of each resource for which it
got `resources/subscribe`. One of the revision 2026-07-28 tells those only who listen: it gets one
`subscriptions/listen`, which names all that clients watch there and the lists whose changes it
announces. When that union changes a new stream is opened, and the old one is given up only when the
server has acknowledged the new one, so that nothing is missed between the two.

A server that was started anew knows nothing of all this and is asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from msgspec import Raw

from hostwright.gateway import codec
from hostwright.gateway.asker import SUBSCRIPTION_META, SUPERVISOR
from hostwright.gateway.asks import LinkLostError
from hostwright.gateway.base_link import BaseLink
from hostwright.gateway.behind import Behind
from hostwright.gateway.codec import METHOD_NOT_FOUND, RpcError
from hostwright.gateway.peer import Site
from hostwright_kit.errors import HostError

logger = logging.getLogger(__name__)

LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
ANSWER_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0


class _Stream:
    """One open `subscriptions/listen`."""

    def __init__(
        self, link: BaseLink, wanted: Mapping[str, Any], ended: Callable[[], None]
    ) -> None:
        self.link = link
        self.wanted = wanted
        self.open = True
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = ended
        asked = {"notifications": Raw(codec.encode(wanted))}
        self.number = link.send(LISTEN, asked, SUPERVISOR, self._over)

    def _over(self, _: Raw | None, error: Exception | None) -> None:
        """It is answered only when it ends."""
        self.open = False
        if not self.acknowledged.done():
            text = f"The server {self.link.server} ended {LISTEN} before it acknowledged it."
            self.acknowledged.set_exception(error or RpcError(codec.INTERNAL_ERROR, text))
        elif not self.acknowledged.cancelled():
            self._ended()

    def give_up(self) -> None:
        """Nobody needs it any longer."""
        if self.open:
            self.open = False
            self.link.cancel(self.number)


class Upstream:
    """What is asked of all servers."""

    def __init__(
        self,
        behind: Behind,
        uris: Callable[[Site], Collection[str]],
        missed: Callable[[Site], None],
    ) -> None:
        """`uris` tells what is watched at a server, by the names that it knows.

        `missed` is called when a server did not tell for a while, and does again.
        """
        self._behind = behind
        self._uris = uris
        self._missed = missed
        self._taken: dict[Site, tuple[BaseLink, set[str]]] = {}
        self._streams: dict[Site, _Stream] = {}
        self._opening: dict[Site, _Stream] = {}
        self._locks: dict[Site, asyncio.Lock] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._again: dict[Site, asyncio.Task[None]] = {}

    def can_watch(self, server: str) -> bool:
        """Whether it tells when a resource of its own changes; both eras declare that alike."""
        return bool((self._behind.capabilities(server).get("resources") or {}).get("subscribe"))

    async def watch(self, site: Site, uri: str) -> None:
        """Returns when the server has taken note of it.

        It is among the watched already. `RpcError` or `HostError` when the server does not.
        """
        try:
            await self._watch(site, uri)
        except LinkLostError:
            # It is being started anew, and may be asked as well as the one that ended.
            await self._watch(site, uri)

    async def _watch(self, site: Site, uri: str) -> None:
        link = await self._behind.link(*site)
        if not link.legacy:
            await self._listen(link)
        elif uri not in self._taken_by(link):
            await self._subscribe(link, uri)

    def unwatch(self, site: Site, uri: str) -> None:
        """It is among the watched no longer; a server that is away need not be told."""
        link = self._behind.ready(*site)
        if link is None:
            return

        async def tell() -> None:
            if not link.legacy:
                await self._listen(link)
            elif uri not in self._uris(site):
                self._taken_by(link).discard(uri)
                await link.request("resources/unsubscribe", {"uri": uri})

        self._run(tell(), site.server)

    def renew(self, site: Site) -> None:
        """A server was started anew."""
        link = self._behind.ready(*site)
        if link is None:
            return
        if link.legacy:
            self._run(self._subscribe_again(link), site.server)
        elif self._wanted(site):
            self._begin_again(link, 0)

    def forget(self, site: Site) -> None:
        """The session of a client at a server is no more."""
        self._taken.pop(site, None)
        self._streams.pop(site, None)
        self._locks.pop(site, None)
        if (running := self._again.pop(site, None)) is not None:
            running.cancel()

    def acknowledged(self, site: Site, params: Raw) -> None:
        """A server says that it has begun to tell."""
        opening = self._opening.get(site)
        if opening is None or opening.acknowledged.done() or codec.first(params) != b"{":
            return
        meta = codec.fields(params).get("_meta", codec.ABSENT)
        said = codec.fields(meta) if codec.first(meta) == b"{" else {}
        if codec.request_id(said.get(SUBSCRIPTION_META, codec.ABSENT)) == opening.number:
            opening.acknowledged.set_result(None)

    # -- the handshake era -----------------------------------------------------------------------

    def _taken_by(self, link: BaseLink) -> set[str]:
        """What this very process has been asked for."""
        found = self._taken.get(link.site)
        if found is None or found[0] is not link:
            found = self._taken[link.site] = (link, set())
        return found[1]

    async def _subscribe(self, link: BaseLink, uri: str) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await link.request("resources/subscribe", {"uri": uri})
        except TimeoutError:
            text = f"The server {link.server} did not answer resources/subscribe."
            raise RpcError(codec.INTERNAL_ERROR, text) from None
        # Whoever wanted it may be gone, and the server have been told so meanwhile.
        if uri in self._uris(link.site):
            self._taken_by(link).add(uri)

    async def _subscribe_again(self, link: BaseLink) -> None:
        uris = list(self._uris(link.site))
        for uri in uris:
            try:
                await self._subscribe(link, uri)
            except LinkLostError:
                raise
            except RpcError as error:
                # It may have lost this one; the others are none the worse.
                logger.info("%s does not tell of a resource any more: %s", link.server, error)
        if uris:
            self._missed(link.site)

    # -- the new era -----------------------------------------------------------------------------

    def _wanted(self, site: Site) -> Mapping[str, Any]:
        declared = self._behind.capabilities(site.server)
        wanted: dict[str, Any] = {
            f"{kind}ListChanged": True
            for kind in ("tools", "prompts", "resources")
            if (declared.get(kind) or {}).get("listChanged") is True
        }
        if uris := self._uris(site):
            wanted["resourceSubscriptions"] = list(uris)
        return wanted

    async def _listen(self, link: BaseLink) -> None:
        """See to it that the server tells all that is wanted of it now."""
        site = link.site
        # One after the other: whoever comes meanwhile finds that the next stream names its wish.
        async with self._locks.setdefault(site, asyncio.Lock()):
            wanted, now = self._wanted(site), self._streams.get(site)
            if now is not None and now.open and now.link is link and now.wanted == wanted:
                return
            if wanted:
                self._streams[site] = await self._opened(link, wanted)
            else:
                self._streams.pop(site, None)
            if now is not None:
                now.give_up()

    async def _opened(self, link: BaseLink, wanted: Mapping[str, Any]) -> _Stream:
        site = link.site
        stream = _Stream(link, wanted, lambda: self._begin_again(link, FIRST_PAUSE_SECONDS))
        self._opening[site] = stream
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await stream.acknowledged
        except TimeoutError:
            stream.give_up()
            text = f"The server {site.server} did not acknowledge {LISTEN}."
            raise RpcError(codec.INTERNAL_ERROR, text) from None
        except BaseException:
            stream.give_up()
            raise
        finally:
            self._opening.pop(site, None)
        return stream

    def _begin_again(self, link: BaseLink, pause: float) -> None:
        """A server ended a stream that is still wanted, or was started."""
        site = link.site
        if self._behind.ready(*site) is not link:
            return
        if (running := self._again.get(site)) is not None:
            running.cancel()
        self._again[site] = self._run(self._until_open(link, pause), site.server)

    async def _until_open(self, link: BaseLink, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            # When all of it ended, its next start begins again.
            if self._behind.ready(*link.site) is not link:
                return
            try:
                await self._listen(link)
            except (RpcError, HostError) as error:
                if isinstance(error, RpcError) and error.code == METHOD_NOT_FOUND:
                    raise
                logger.info("%s does not tell what changes: %s", link.server, error)
                pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            else:
                self._missed(link.site)
                return

    def _run(self, work: Coroutine[Any, Any, None], server: str) -> asyncio.Task[None]:
        async def logged() -> None:
            try:
                await work
            except (RpcError, HostError) as error:
                logger.info("%s does not tell what changes: %s", server, error)

        task = asyncio.create_task(logged())
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return task
