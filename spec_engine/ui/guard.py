"""What stands between the network and the page.

Job: serve the page under its own names only, take requests from its own pages only, ask for a password if there is one,
let the browser load nothing from anywhere else, and let go of open pages when the server ends.
Non-job: the page, the port (`server`).
"""

import asyncio
import hmac
from base64 import b64encode
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_POLICY: Final = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; form-action 'self'"
)
_OWN_HEADERS: Final = (
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class OwnPagesOnly:
    """ASGI middleware with these rules.

    A foreign name in ``Host`` is how a web page reaches a local server by DNS rebinding; a foreign ``Origin`` is how it
    posts to one.

    Args:
        names: host names that are served; None serves any, for a page that was opened to the network on purpose.
        login: "name:password" that the browser must give for everything; None asks for nothing.
        closing: set when the server ends; streams that a page follows are then told that the page has gone.
    """

    def __init__(
        self, app: ASGIApp, names: frozenset[str] | None, closing: asyncio.Event, login: str | None = None
    ) -> None:
        self._app = app
        self._names = names
        self._login = None if login is None else b"Basic " + b64encode(login.encode())
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Guard one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        is_open = False

        async def send_guarded(message: Message) -> None:
            nonlocal is_open
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_OWN_HEADERS]
            is_open = message["type"] == "http.response.start" or bool(message.get("more_body", False))
            await send(message)

        async def receive_until_closing() -> Message:
            return await self._first_of(receive)

        await self._app(scope, receive_until_closing, send_guarded)
        if is_open and self._closing.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _refusal(self, headers: Headers) -> PlainTextResponse | None:
        """The answer to a request that must not reach the page."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._names is not None and _host_name(host) not in self._names:
            return PlainTextResponse("This page is not served under that name.", 400)
        if origin is not None and _network_location(origin) != host:
            return PlainTextResponse("This page takes requests from itself only.", 403)
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return PlainTextResponse("This page is not part of other pages.", 403)
        given = headers.get("authorization", "").encode()
        if self._login is not None and not hmac.compare_digest(given, self._login):
            challenge = {"WWW-Authenticate": 'Basic realm="Long-document chat", charset="UTF-8"'}
            return PlainTextResponse("This page asks for a name and a password.", 401, challenge)
        return None

    async def _first_of(self, receive: Receive) -> Message:
        """The next message of the client, or the news that it has gone because the server ends."""
        incoming = asyncio.ensure_future(receive())
        ending = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({incoming, ending}, return_when=asyncio.FIRST_COMPLETED)
            return incoming.result() if incoming.done() else {"type": "http.disconnect"}
        finally:
            incoming.cancel()
            ending.cancel()


def _host_name(host: str) -> str | None:
    """The name in a ``Host`` header, without its port; None for one that is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _network_location(origin: str) -> str | None:
    """Name and port of an ``Origin``; None for one that is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
