"""The port on which an attached worker shows its metrics and answers probes: it has no other one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler

from iii_state.engine import http_log
from iii_state.engine.admission import ASKED, asked, refusal
from iii_state.engine.listening import HANDSHAKE_SECONDS, bind, resolve
from iii_state.engine.metrics_page import answer_with_metrics
from iii_state.engine.probes import Probes
from iii_state.errors import AccessRefused
from iii_state.figures import Figure
from iii_state.guard import Guard


class MetricsPort:
    """Answers `GET /metrics` with these figures, and probes, to whom `guard` lets in."""

    def __init__(self, guard: Guard, probes: Probes, figures: Callable[[], Awaitable[list[Figure]]]) -> None:
        self._guard = guard
        self._figures = figures
        app = web.Application(middlewares=[self._check_place])
        app.router.add_get("/metrics", self._serve)
        probes.add_to(app.router)
        self._runner = web.AppRunner(
            app, access_log=None, logger=http_log.logger, handle_signals=False, keepalive_timeout=HANDSHAKE_SECONDS
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._runner.cleanup()

    async def listen(self, host: str, port: int) -> str:
        """Listen; returns where it does. Raises `OSError`, and `ConfigError` where others could reach it without a token."""
        addresses = await resolve(host, port)
        self._guard.check_addresses(address[0] for _, address in addresses)
        opened = bind(addresses)
        for each in opened:
            await web.SockSite(self._runner, each, ssl_context=self._guard.tls).start()
        shown, number = opened[0].getsockname()[:2]
        scheme = "http" if self._guard.tls is None else "https"
        return f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{number}/metrics"

    @web.middleware
    async def _check_place(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request[ASKED] = asked(request)
        try:
            self._guard.check_place(request[ASKED])
        except AccessRefused as error:
            return refusal(error)
        return await handler(request)

    async def _serve(self, request: web.Request) -> web.Response:
        return await answer_with_metrics(self._guard, request, self._figures)
