"""A page on the loopback where the owner types one value, so that it passes by every client.

The protocol forbids asking for what is sensitive in a client's form: the client would have it. It
opens an address instead, and the value goes from the browser to the vault. The address holds 32
random bytes, works for one value and for five minutes, and answers only to its own name, so that no
page of another site can be made to speak for it. Threads; no MCP import.
"""

from __future__ import annotations

import hmac
import html
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from pydantic import SecretStr

from hostwright_kit.errors import HostError
from hostwright_kit.vault import SecretInfo

OPEN_SECONDS = 300.0
MAX_PAGES = 5
MAX_BODY_BYTES = 512 * 1024
FIELD = "value"
Keep = Callable[[SecretStr], SecretInfo]

_HTML = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style nonce="{nonce}">body{{font:16px/1.5 system-ui;max-width:34em;margin:3em auto;padding:0 1em}}
textarea{{width:100%;box-sizing:border-box;font:inherit;-webkit-text-security:disc}}
button{{font:inherit;padding:.3em 1em;margin-top:.7em}}.bad{{color:#a00}}</style>
<h1>{title}</h1>{body}</html>"""
_FORM = """<p>The value goes to the vault of this machine and is opened for {whom}. No model and no
client sees it.</p>{problem}<form method="post"><textarea name="value" rows="3" required
minlength="4" maxlength="65536" autocomplete="off" spellcheck="false" autofocus></textarea>
<button>Keep it</button></form>"""


class Page:
    """One open page."""

    def __init__(self, name: str, whom: str, keep: Keep) -> None:
        self.name = name
        self.whom = whom
        self.kept: Future[SecretInfo] = Future()
        self.agreed = False
        """Whether somebody was shown the address and opens it."""
        self.until = time.monotonic() + OPEN_SECONDS
        self._keep = keep
        self._keeping = threading.Lock()
        self.path = "/" + secrets.token_urlsafe(32)
        self._server = _Server(self)
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._serve, name=f"page for {name}", daemon=True).start()

    @property
    def url(self) -> str:
        """What a browser is to open."""
        return f"http://{self.host}{self.path}"

    @property
    def open(self) -> bool:
        """Whether a value may still be given."""
        return not self.kept.done() and time.monotonic() < self.until

    def take(self, value: SecretStr) -> SecretInfo:
        """Keep what the owner typed; a `HostError` says why it is not kept."""
        with self._keeping:
            if not self.open:
                raise HostError("This page is closed.", fix="Have the secret asked for anew.")
            info = self._keep(value)
            self.kept.set_result(info)
            return info

    def close(self) -> None:
        """No value is taken from here on."""
        self.until = 0.0

    def _serve(self) -> None:
        with self._server:
            while self.open:
                self._server.handle_request()


class Pages:
    """Those that are open: one for each secret, however often it is asked for."""

    def __init__(self) -> None:
        self._pages: dict[tuple[str, tuple[str, ...]], Page] = {}

    def get(self, name: str, servers: tuple[str, ...]) -> Page | None:
        """The page where this secret is being asked for, or was given just now."""
        self._sweep()
        return self._pages.get((name, servers))

    def open(self, name: str, servers: tuple[str, ...], keep: Keep) -> Page:
        """A new page."""
        self._sweep()
        if len(self._pages) >= MAX_PAGES:
            raise HostError(
                f"{MAX_PAGES} secrets are being asked for already.",
                fix=f"Wait until they are given, {OPEN_SECONDS:g} s at most.",
                code="busy",
            )
        page = Page(name, ", ".join(servers) or "no server yet", keep)
        self._pages[name, servers] = page
        return page

    def forget(self, page: Page) -> None:
        """It has been answered for."""
        page.close()
        self._pages = {key: one for key, one in self._pages.items() if one is not page}

    def close(self) -> None:
        """The server ends."""
        for page in self._pages.values():
            page.close()
        self._pages.clear()

    def _sweep(self) -> None:
        # What was given stays until its time is up, for whoever comes to ask how it went.
        now = time.monotonic()
        self._pages = {key: one for key, one in self._pages.items() if now < one.until}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    timeout = 0.5

    def __init__(self, page: Page) -> None:
        self.page = page
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no event; stderr would name the address."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # type: ignore[assignment]
    timeout = 10
    server_version = "hostwright"
    sys_version = ""

    def do_GET(self) -> None:
        if self._is_for_us():
            self._form()

    def do_POST(self) -> None:
        if not self._is_for_us():
            return
        length = self.headers.get("Content-Length", "")
        kind = self.headers.get_content_type()
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES or "form-url" not in kind:
            self._say(HTTPStatus.BAD_REQUEST, "Not understood", "<p>This is not the form.</p>")
            return
        body = self.rfile.read(int(length)).decode("ascii", "replace")
        try:
            fields = parse_qs(body, strict_parsing=True, max_num_fields=2, errors="strict")
        except ValueError:
            fields = {}
        # Forms send line ends in their own way.
        value = "".join(fields.get(FIELD, ())).replace("\r\n", "\n")
        try:
            self.server.page.take(SecretStr(value))
        except HostError as error:
            self._form(f"{error.message} {error.fix or ''}")
        else:
            text = "<p>The value is kept. You can close this page.</p>"
            self._say(HTTPStatus.OK, "Thank you", text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        """Nothing: the path is what opens the page."""

    def _is_for_us(self) -> bool:
        page = self.server.page
        own = f"http://{page.host}"
        same = (
            hmac.compare_digest(self.path.encode(), page.path.encode())
            # Another name for the loopback is what a page of another site would come with.
            and self.headers.get("Host") == page.host
            and self.headers.get("Origin", own) == own
            and self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        )
        if not same:
            self._say(HTTPStatus.NOT_FOUND, "Not here", "<p>There is no such page.</p>")
        elif not page.open:
            text = "<p>It is closed: a value was given, or the time is up.</p>"
            self._say(HTTPStatus.GONE, "Closed", text)
        return same and page.open

    def _form(self, problem: str = "") -> None:
        page = self.server.page
        shown = f'<p class="bad">{html.escape(problem)}</p>' if problem else ""
        body = _FORM.format(whom=html.escape(page.whom), problem=shown)
        status = HTTPStatus.UNPROCESSABLE_ENTITY if problem else HTTPStatus.OK
        self._say(status, f"A value for the secret {html.escape(page.name)}", body)

    def _say(self, status: HTTPStatus, title: str, body: str) -> None:
        nonce = secrets.token_urlsafe(16)
        data = _HTML.format(title=title, nonce=nonce, body=body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header(
            "Content-Security-Policy",
            f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; "
            "frame-ancestors 'none'; base-uri 'none'",
        )
        self.end_headers()
        self.wfile.write(data)
