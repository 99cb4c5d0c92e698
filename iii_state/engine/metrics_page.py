"""The answer to `GET /metrics`: what has been counted, for operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from iii_state.access import access_of
from iii_state.engine.admission import admit
from iii_state.figures import Figure
from iii_state.guard import Guard
from iii_state.observe.metrics import CONTENT_TYPE, exposition


async def answer_with_metrics(guard: Guard, request: web.Request, figures: Callable[[], Awaitable[list[Figure]]]) -> web.Response:
    """Raises HTTP 401 without a token where one is wanted, and 403 for one that may not operate."""
    access = access_of(await admit(guard, request))
    if access is not None and not access.rights.operate:
        raise web.HTTPForbidden(text=f"{access.refusal('see metrics (the right `operate`)').message}\n")
    return web.Response(body=await exposition(await figures()), headers={"Content-Type": CONTENT_TYPE})
