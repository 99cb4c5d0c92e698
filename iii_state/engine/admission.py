"""Who may come in by HTTP: what a guard is asked of a request, and how a request is refused."""

from __future__ import annotations

import asyncio

from aiohttp import web

from iii_state.errors import AccessRefused
from iii_state.guard import Asked, Guard
from iii_state.guard.tls import names
from iii_state.rights import Identity

ASKED = web.RequestKey("asked", Asked)


def asked(request: web.Request) -> Asked:
    """What a guard looks at."""
    local = request.get_extra_info("sockname")
    headers = request.headers
    return Asked(
        target=request.raw_path,
        local=str(local[0]) if local else "",
        remote=request.remote or "",
        is_tls=request.get_extra_info("ssl_object") is not None,
        hosts=headers.getall("Host", ()),
        origins=headers.getall("Origin", ()),
        authorizations=headers.getall("Authorization", ()),
        protocols=headers.getall("Sec-WebSocket-Protocol", ()),
        queried=request.query.getall("access_token", ()),
        certificate_names=names(request.get_extra_info("peercert")),
    )


async def admit(guard: Guard, request: web.Request) -> Identity | None:
    """Whose request this is. Raises HTTP 401, late where the address of the request has been wrong before."""
    try:
        return guard.admit(request[ASKED])
    except AccessRefused as error:
        if error.seconds:
            failures = guard.failures
            failures.waiting += 1
            try:
                await asyncio.sleep(error.seconds)
            finally:
                failures.waiting -= 1
        answer = web.HTTPUnauthorized(text=f"{error}\n", headers={"WWW-Authenticate": "Bearer"})
        answer.force_close()
        raise answer from None


def refusal(error: AccessRefused) -> web.Response:
    """The answer to a request from a place that nobody is let in from."""
    answer = web.Response(status=error.status, text=f"{error}\n")
    answer.force_close()
    return answer
