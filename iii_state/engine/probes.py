"""The answers to `GET /livez`, `/healthz` and `/readyz`: what orchestrators, load balancers and people ask a process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from iii_state.engine.admission import ASKED, admit
from iii_state.guard import Asked, Guard


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How a process is: what is wrong, by the names of its parts (nothing where all is well), and what else is told of it."""

    wrong: Mapping[str, str]
    about: Mapping[str, object] = field(default_factory=dict)


Look = Callable[[], Awaitable[ProbeResult]]


class Probes:
    """Answers probes. `health` says whether the store can be used, `readiness` whether this process can be given work.

    Without a token, where tokens are used, the answer is the bare status: reasons name addresses and files.
    """

    def __init__(self, guard: Guard, health: Look, readiness: Look) -> None:
        self._guard = guard
        self._health = health
        self._readiness = readiness

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Answer on the three paths."""
        router.add_get("/livez", self._serve_life)
        router.add_get("/healthz", self._serve_health)
        router.add_get("/readyz", self._serve_readiness)

    async def _serve_life(self, request: web.Request) -> web.Response:
        """It answers, so its event loop runs; a store that is away is no reason to start it anew."""
        return web.json_response({"status": "ok"})

    async def _serve_health(self, request: web.Request) -> web.Response:
        return await self._answer(request, self._health, "ok", "failing")

    async def _serve_readiness(self, request: web.Request) -> web.Response:
        return await self._answer(request, self._readiness, "ready", "not ready")

    async def _answer(self, request: web.Request, look: Look, well: str, ill: str) -> web.Response:
        tells_all = not self._guard.wants_tokens or _brings_token(request[ASKED])
        if tells_all:
            await admit(self._guard, request)
        found = await look()
        told: dict[str, object] = {"status": ill if found.wrong else well}
        if tells_all:
            told |= {"reasons": dict(found.wrong)} if found.wrong else {}
            told |= found.about
        return web.json_response(told, status=503 if found.wrong else 200)


def _brings_token(asked: Asked) -> bool:
    return bool(asked.authorizations or asked.queried or asked.certificate_names)
