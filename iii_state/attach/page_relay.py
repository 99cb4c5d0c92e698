"""The page on an attached worker's port: its calls go on to the engine, over a connection of the page's own."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import web

from iii_state.access import access_of
from iii_state.client.address import EngineAddress
from iii_state.config.server import MAX_MESSAGE_BYTES
from iii_state.engine.admission import admit
from iii_state.errors import ConfigError
from iii_state.guard import Guard
from iii_state.tasks.background import first_of
from iii_state.web import add_page, answer_with_page
from iii_state.wire.frames import SERVICE_RESTART

CONNECT_SECONDS = 10.0
HEARTBEAT_SECONDS = 20.0
PROTOCOL = "iii-state"
"""What the page offers beside its token: a browser insists that one of its sub-protocols is taken."""


class PageRelay:
    """Serves the page, and joins each page's connection to one to the engine at `address`, which comes with the worker's token.

    Whoever is let in here can do at the engine what the worker can: so a token with rights, which are fewer, is let in nowhere.
    """

    def __init__(self, guard: Guard, address: EngineAddress) -> None:
        self._guard = guard
        self._address = address
        self._open: set[web.WebSocketResponse] = set()

    def add_to(self, app: web.Application) -> None:
        """Serve it as part of this application."""
        app.router.add_get("/", self._serve)
        add_page(app, lambda: True, self._admit)
        app.on_shutdown.append(self._close)

    async def _admit(self, request: web.Request) -> None:
        access = access_of(await admit(self._guard, request))
        if access is not None:
            raise web.HTTPForbidden(text=f"{access.refusal('use this page: only tokens without `rights` may').message}\n")

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if "upgrade" not in request.headers.get("Connection", "").lower():
            return answer_with_page(request)
        await self._admit(request)
        address = self._address
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    tls = address.tls()
                    engine = await session.ws_connect(
                        address.url,
                        headers=address.headers(),
                        ssl=True if tls is None else tls,
                        max_msg_size=MAX_MESSAGE_BYTES,
                        heartbeat=HEARTBEAT_SECONDS,
                    )
            except (aiohttp.ClientError, ConfigError, OSError, TimeoutError, ValueError):
                raise web.HTTPBadGateway(text=f"the engine at {address} does not answer\n") from None
            page = web.WebSocketResponse(
                protocols=(PROTOCOL,), compress=False, max_msg_size=MAX_MESSAGE_BYTES, heartbeat=HEARTBEAT_SECONDS
            )
            await page.prepare(request)
            self._open.add(page)
            try:
                await first_of(_pass_on(page, engine), _pass_on(engine, page))
            except (ConnectionError, aiohttp.ClientError):
                pass  # one end has gone in the middle of a message: the other one is let go as well
            finally:
                self._open.discard(page)
                await asyncio.gather(engine.close(), page.close(code=SERVICE_RESTART), return_exceptions=True)
            return page

    async def _close(self, app: web.Application) -> None:
        """The worker stops: pages are let go."""
        await asyncio.gather(*(page.close(code=SERVICE_RESTART) for page in list(self._open)))


async def _pass_on(source: Any, sink: Any) -> None:
    """Every message, in order; the next one is read when one has been taken. A source that ends ends this."""
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await sink.send_bytes(message.data)
