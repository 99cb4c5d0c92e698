"""How a browser is answered: the files of the page, with headers that let it do nothing but what it is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from iii_state.web.assets import assets

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""The page loads nothing of others, is shown in no frame, and makes no program of a text."""

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
"""Browsers ask each time whether a file is still the same (`ETag`): after an upgrade no page is made of old and new files."""

Admit = Callable[[web.Request], Awaitable[object]]
"""Raises HTTP 401 for a request whose token is not good, or that brings none where one is needed."""


def answer_with_page(request: web.Request) -> web.Response:
    """The page itself, which needs no token: it holds nothing but programs, and asks for one."""
    return _answer(request, "index.html")


def add_page(app: web.Application, is_on: Callable[[], bool], admit: Admit) -> None:
    """Answer for all that the page needs beside itself, as long as it `is_on`."""

    async def serve_file(request: web.Request) -> web.Response:
        if not is_on():
            raise web.HTTPNotFound(text="the page is turned off (server.ui)\n")
        return _answer(request, f"ui/{request.match_info['name']}")

    async def serve_hello(request: web.Request) -> web.Response:
        """Whether a WebSocket with the same token would be let in from this page: browsers do not tell why one was not."""
        if not is_on():
            raise web.HTTPNotFound(text="the page is turned off (server.ui)\n")
        await admit(request)
        return web.Response(text="welcome\n", headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})

    app.router.add_post("/ui/hello", serve_hello)
    app.router.add_get("/ui/{name:.+}", serve_file)


def _answer(request: web.Request, name: str) -> web.Response:
    asset = assets().get(name)
    if asset is None:
        raise web.HTTPNotFound(text="there is no such file\n")
    headers = {**_HEADERS, "ETag": asset.etag}
    if asset.etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = asset.content_type
    if "gzip" not in request.headers.get("Accept-Encoding", ""):
        return web.Response(body=asset.content, headers=headers)
    return web.Response(body=asset.compressed, headers={**headers, "Content-Encoding": "gzip"})
