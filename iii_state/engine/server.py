"""The ports of an engine: the workers' socket, telemetry, channels, health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestHandler

from iii_state.engine import http_log
from iii_state.engine.admission import ASKED, admit, asked, refusal
from iii_state.engine.channels import Channels
from iii_state.engine.listening import HANDSHAKE_SECONDS, Listener, bind, resolve
from iii_state.engine.metrics_page import answer_with_metrics
from iii_state.engine.probes import Probes
from iii_state.engine.socket_traffic import SocketTraffic
from iii_state.engine.unfinished import Unfinished
from iii_state.engine.workers import worker
from iii_state.engine.workers.worker import Worker
from iii_state.engine.workers.workers import Workers
from iii_state.errors import AccessRefused
from iii_state.figures import Figure
from iii_state.guard import Guard
from iii_state.guard.guard import bearer_protocols
from iii_state.rights import Identity
from iii_state.web import add_page, answer_with_page
from iii_state.wire import handshake
from iii_state.wire.backlog import Backlog
from iii_state.wire.frames import SERVICE_RESTART
from iii_state.wire.limits import Rate, RatedReceiver
from iii_state.wire.quiet_log import QuietLog
from iii_state.wire.websocket import MessageReceiver, WebSocket

log = logging.getLogger(__name__)
quiet = QuietLog(log)

_CLOSE_SECONDS = 2
_AT_ONCE = 32
"""Connections that are looked after in one turn of the event loop."""
_WELCOME = """This is an iii engine: iii-state.
Workers connect here with a WebSocket; GET /healthz tells whether all is well, /readyz whether it takes work.
"""


class Server:
    """Listens, takes connections, and lets them go.

    `guard` decides who is let in: its answer comes before anything else is done for a request, on every path.
    """

    def __init__(
        self,
        workers: Workers,
        guard: Guard,
        probes: Probes,
        figures: Callable[[], Awaitable[list[Figure]]],
    ) -> None:
        self.guard = guard
        self._workers = workers
        self._figures = figures
        self.traffic = SocketTraffic()
        self._sockets: dict[WebSocket, _Held] = {}
        self._listeners: list[Listener] = []
        self._runner: web.AppRunner | None = None
        self._backlog = Backlog()
        self._unfinished = Unfinished(lambda: guard.settings.limits.handshakes)
        self.channels = Channels()
        self.app = web.Application(middlewares=[self._check_place])
        """The HTTP side; routes may be added before the first `listen`."""
        self.app.router.add_get("/", self._serve_root)
        self.app.router.add_get("/otel", self._serve_telemetry)
        self.app.router.add_get("/ws/channels/{channel_id}", self._serve_channel)
        probes.add_to(self.app.router)
        self.app.router.add_get("/metrics", self._serve_metrics)
        add_page(self.app, lambda: guard.settings.ui, partial(admit, guard))

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._sockets)

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen on one more address; returns it. Raises `OSError`, and `ConfigError` where the guard will not have it."""
        if not host.strip():  # to the operating system that would be every address
            raise ValueError("the host is empty: name an address to listen on; 0.0.0.0 is every one")
        addresses = await resolve(host, port)
        self.guard.check_addresses(address[0] for _, address in addresses)
        if self._runner is None:
            self._runner = web.AppRunner(
                self.app,
                access_log=None,
                logger=http_log.logger,
                handle_signals=False,
                keepalive_timeout=HANDSHAKE_SECONDS,
                shutdown_timeout=_CLOSE_SECONDS,
            )
            await self._runner.setup()
        opened = [Listener(bound, self._accept) for bound in bind(addresses)]
        self._listeners += opened
        for listener in opened:
            listener.start(self.guard.tls)
        return opened[0].address

    def _accept(self) -> RequestHandler:
        assert self._runner is not None
        assert self._runner.server is not None
        connection = self._runner.server()
        self._unfinished.accepted(connection)
        return connection

    async def stop_listening(self) -> None:
        """Take no new connections."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.stop()

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

    async def tick(self, seconds: int) -> None:
        """Called about once a second: pings, silent peers, channels that nobody joined, handshakes that take too long.

        Ten thousand pings at once would keep every caller waiting for half a second, so others have their turn in between.
        """
        self._unfinished.tick(seconds)
        self.channels.tick(seconds)
        for number, (socket, held) in enumerate(list(self._sockets.items()), start=1):
            if held.leaves_in is None:
                socket.tick(seconds)
            elif held.leaves_in <= 0:
                socket.abort()
            else:
                held.leaves_in -= seconds
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    async def apply_guard(self) -> None:
        """The guard has read its files again: new connections have its certificate, and who is let in no more has to go."""
        for listener in self._listeners:
            listener.start(self.guard.tls)
        for socket, held in list(self._sockets.items()):
            identity = held.identity
            now = None if identity is None else self.guard.renewed(identity)
            if not self.guard.still_admits(identity):
                held.leave(socket)
                continue
            if now != identity:
                held.identity = now
                if isinstance(held.receiver, Worker):
                    held.receiver.identify(now)
            if isinstance(held.receiver, Worker):
                held.receiver.limit()
            socket.start(self._limited(held, socket))

    # --- who may come in

    @web.middleware
    async def _check_place(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._unfinished.asked(request.protocol)
        looked_at = request[ASKED] = asked(request)
        try:
            self._check_room()
            self.guard.check_place(looked_at)
        except AccessRefused as error:
            return refusal(error)
        return await handler(request)

    def _check_room(self) -> None:
        """Refuse a request where all connections, those that ask for no WebSocket among them, are more than may be."""
        assert self._runner is not None
        assert self._runner.server is not None
        limits = self.guard.settings.limits
        if len(self._runner.server.connections) > limits.connections + limits.handshakes:
            quiet.warning("a request was refused: there are more than %d connections", limits.connections + limits.handshakes)
            raise AccessRefused(503, "too many connections are open")

    # --- what is served

    async def _serve_root(self, request: web.Request) -> web.StreamResponse:
        if "upgrade" not in request.headers.get("Connection", "").lower():
            return answer_with_page(request) if self.guard.settings.ui else web.Response(text=_WELCOME)
        identity = await admit(self.guard, request)
        return await self._serve_socket(
            request, identity, lambda socket: worker.connect(self._workers, socket, request.remote, identity)
        )

    async def _serve_telemetry(self, request: web.Request) -> web.StreamResponse:
        return await self._serve_socket(request, await admit(self.guard, request), lambda _: _Discard())

    async def _serve_channel(self, request: web.Request) -> web.StreamResponse:
        """A channel's key is as good as the token of the worker that opened it, which SDKs before 0.24.6 do not send here."""
        channel = self.channels.find(request.match_info["channel_id"], request.query.get("key", ""))
        direction = request.query.get("dir", "")
        if channel is None or direction not in ("read", "write"):
            raise web.HTTPNotFound(text="no such channel\n")
        return await self._serve_socket(request, channel.identity, lambda socket: channel.join(socket, direction))

    async def _serve_socket(
        self, request: web.Request, identity: Identity | None, connect: Callable[[WebSocket], MessageReceiver]
    ) -> web.StreamResponse:
        limits = self.guard.settings.limits
        if len(self._sockets) >= limits.connections:
            quiet.warning("a connection from %s was refused: %d are open, as many as may be", request.remote, limits.connections)
            raise web.HTTPServiceUnavailable(text="too many connections are open\n")
        joined: list[WebSocket] = []

        def join(socket: WebSocket) -> MessageReceiver:
            joined.append(socket)
            self.traffic.connections += 1
            held = self._sockets[socket] = _Held(identity)
            held.receiver = connect(socket)
            return self._limited(held, socket)

        try:
            return await handshake.accept(request, join, self._backlog, protocol=_protocol(request))
        finally:
            for socket in joined:
                del self._sockets[socket]
                self.traffic.count(socket)

    def _message_bytes(self, identity: Identity | None) -> int:
        """How large a message of a connection may be."""
        most = self.guard.settings.limits.message_bytes
        own = None if identity is None or identity.limits is None else identity.limits.message_bytes
        return most if own is None else min(most, own)

    def _limited(self, held: _Held, socket: WebSocket) -> MessageReceiver:
        """What takes the messages of a connection, no larger ones and no more of them a second than may be."""
        socket.max_message_bytes = self._message_bytes(held.identity)
        held.rate.per_second = self.guard.settings.limits.frames_per_second
        share = self._workers.share(held.identity)
        rates = [held.rate, *([] if share is None else [share.rate])]
        is_limited = any(rate.per_second is not None for rate in rates)
        return RatedReceiver(held.receiver, socket, rates) if is_limited else held.receiver

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        """What has been counted, for operators."""
        if not self.guard.settings.metrics:
            raise web.HTTPNotFound(text="metrics are turned off (server.metrics)\n")
        return await answer_with_metrics(self.guard, request, self._figures)

    def current_traffic(self) -> SocketTraffic:
        """What has gone over connections, those that are open among them."""
        traffic = replace(self.traffic)
        for socket in self._sockets:
            traffic.count(socket)
        return traffic


class _Held:
    """A connection that is open: whose it is, and what takes its messages."""

    def __init__(self, identity: Identity | None) -> None:
        self.identity = identity
        self.rate = Rate(None)
        self.receiver: MessageReceiver = _Discard()
        self.leaves_in: int | None = None
        """Seconds until a connection that was told to go is dropped."""

    def leave(self, socket: WebSocket) -> None:
        """Hear no more of it, and let it go."""
        if self.leaves_in is None:
            log.warning("the connection from %s is closed: its token is good no more", socket.remote)
            self.leaves_in = _CLOSE_SECONDS
            socket.start(_Leaving(self.receiver))
            socket.close(SERVICE_RESTART, b"the token is good no more")


def _protocol(request: web.Request) -> str | None:
    """The sub-protocol to agree on where one of them brings a token, as browsers insist; another one than the token if it can."""
    headers = request.headers.getall("Sec-WebSocket-Protocol", ())
    bearers = bearer_protocols(headers)
    if not bearers:
        return None
    offered = [protocol.strip() for header in headers for protocol in header.split(",")]
    return next((protocol for protocol in offered if protocol and protocol not in bearers), bearers[0])


class _Leaving:
    """Takes what still comes from a peer that was told to go, and does nothing with it."""

    def __init__(self, receiver: MessageReceiver) -> None:
        self.disconnected = receiver.disconnected

    def receive(self, message: bytes | bytearray, binary: bool) -> None:
        pass


class _Discard:
    """Takes telemetry and does nothing with it."""

    def receive(self, message: bytes | bytearray, binary: bool) -> None:
        pass

    def disconnected(self) -> None:
        pass
