"""The ports of an engine: the workers' socket, telemetry, channels, health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from iii_state.engine.channels import Channels
from iii_state.engine.workers import worker
from iii_state.engine.workers.worker import Worker
from iii_state.engine.workers.workers import Workers
from iii_state.wire import handshake
from iii_state.wire.backlog import Backlog
from iii_state.wire.frames import SERVICE_RESTART
from iii_state.wire.websocket import MessageReceiver, WebSocket

log = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 10
_CLOSE_SECONDS = 2
_WELCOME = """This is an iii engine: iii-state.
Workers connect here with a WebSocket; GET /healthz tells whether all is well.
"""


class Server:
    """Listens, takes connections, and lets them go. `health` tells what is wrong, by the names of modules."""

    def __init__(self, workers: Workers, health: Callable[[], Awaitable[dict[str, str]]]) -> None:
        self._workers = workers
        self._health = health
        self._sockets: set[WebSocket] = set()
        self._sites: list[web.TCPSite] = []
        self._runner: web.AppRunner | None = None
        self._backlog = Backlog()
        self.channels = Channels()
        self.app = web.Application()
        """The HTTP side; routes may be added before the first `listen`."""
        self.app.router.add_get("/", self._serve_root)
        self.app.router.add_get("/otel", self._serve_telemetry)
        self.app.router.add_get("/ws/channels/{channel_id}", self._serve_channel)
        self.app.router.add_get("/healthz", self._serve_health)

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._sockets)

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen on one more address; returns it."""
        if not host.strip():  # to the operating system that would be every address
            raise ValueError("the host is empty: name an address to listen on; 0.0.0.0 is every one")
        if self._runner is None:
            self._runner = web.AppRunner(
                self.app,
                access_log=None,
                handle_signals=False,
                keepalive_timeout=_HANDSHAKE_SECONDS,
                shutdown_timeout=_CLOSE_SECONDS,
            )
            await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=1024)
        before = len(self._runner.addresses)
        await site.start()
        self._sites.append(site)
        address = self._runner.addresses[before]
        return str(address[0]), int(address[1])

    async def stop_listening(self) -> None:
        """Take no new connections."""
        for site in self._sites:
            await site.stop()
        self._sites.clear()

    async def stop(self) -> None:
        """Close every connection with 1012, drop those that do not answer within two seconds, and release the ports."""
        for socket in self._sockets:
            socket.close(SERVICE_RESTART, b"the engine stops")
        if self._sockets:
            await asyncio.wait([socket.gone for socket in self._sockets], timeout=_CLOSE_SECONDS)
        for socket in list(self._sockets):
            socket.abort()
        if self._runner is not None:
            await self._runner.cleanup()

    def tick(self, seconds: int) -> None:
        """Called about once a second: pings, silent peers, channels that nobody joined."""
        for socket in list(self._sockets):
            socket.tick(seconds)
        self.channels.tick(seconds)

    async def _serve_root(self, request: web.Request) -> web.StreamResponse:
        if "upgrade" not in request.headers.get("Connection", "").lower():
            return web.Response(text=_WELCOME)

        def connect(socket: WebSocket) -> Worker:
            return worker.connect(self._workers, socket, request.remote)

        return await self._serve_socket(request, connect)

    async def _serve_telemetry(self, request: web.Request) -> web.StreamResponse:
        return await self._serve_socket(request, lambda _: _Discard())

    async def _serve_channel(self, request: web.Request) -> web.StreamResponse:
        channel = self.channels.find(request.match_info["channel_id"], request.query.get("key", ""))
        direction = request.query.get("dir", "")
        if channel is None or direction not in ("read", "write"):
            raise web.HTTPNotFound(text="no such channel\n")
        return await self._serve_socket(request, lambda socket: channel.join(socket, direction))

    async def _serve_socket(self, request: web.Request, connect: Callable[[WebSocket], MessageReceiver]) -> web.StreamResponse:
        joined: list[WebSocket] = []

        def join(socket: WebSocket) -> MessageReceiver:
            joined.append(socket)
            self._sockets.add(socket)
            return connect(socket)

        try:
            return await handshake.accept(request, join, self._backlog)
        finally:
            self._sockets.difference_update(joined)

    async def _serve_health(self, request: web.Request) -> web.Response:
        wrong = await self._health()
        if wrong:
            return web.json_response({"status": "failing", "reasons": wrong}, status=503)
        return web.json_response({"status": "ok", "workers": len(self._workers)})


class _Discard:
    """Takes telemetry and does nothing with it."""

    def receive(self, message: bytes | bytearray, binary: bool) -> None:
        pass

    def disconnected(self) -> None:
        pass
