"""Reading values from Redis: one, or those of a scope, at one instant where it is small enough, in pages where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from iii_state.adapters.redis.connection.connection import Connection
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations.foreign_text import checked, is_ours
from iii_state.adapters.redis.mutations.routes import Routes
from iii_state.adapters.redis.scripts.loader import script
from iii_state.errors import StoreError
from iii_state.tasks.results import Answer, then

INSTANT_VALUES = 2000
INSTANT_BYTES = 1_000_000
"""Up to here the values of a scope are read at one instant."""

INSTANT_KEYS = 10_000
"""Up to here its keys are, without the values: about a millisecond of Redis's time."""

PAGE_VALUES = 200
PAGE_BYTES = 500_000
"""Beyond it they are read in pages of about this size, each well within a millisecond of Redis's time per 100 KB."""


class Reading:
    """In scopes that have deadlines, what is over is left out. `own` runs what takes several calls, as long as the adapter does."""

    def __init__(
        self, keys: Keys, connection: Connection, routes: Routes, own: Callable[[Coroutine[Any, Any, Any]], asyncio.Future[Any]]
    ) -> None:
        self._keys = keys
        self._connection = connection
        self._send = connection.send
        self._routes = routes
        self._own = own

    def get(self, scope: str, key: str) -> Answer[bytes | None]:
        """The stored text, None for a missing key."""
        name = self._keys.values(scope.encode())
        if scope in self._routes.with_deadlines:
            words: tuple[bytes, ...] = (
                b"EVALSHA",
                script("values/get").sha1,
                b"3",
                name,
                self._keys.deadlines_of(scope.encode()),
                self._keys.clock,
                key.encode(),
            )
        else:
            words = (b"HGET", name, key.encode())

        def result(reply: bytes | None) -> bytes | None:
            if reply is None or is_ours(reply):
                return reply
            return checked(scope, key, reply)

        return self._connection.call(lambda *ticket: words, result, scope=scope)

    def texts(self, scope: str) -> Answer[list[bytes]]:
        """The stored texts of a scope."""
        return then(self.entries(scope), lambda entries: [text for _, text in entries])

    def entries(self, scope: str) -> Answer[list[tuple[str, bytes]]]:
        """Keys and stored texts of a scope."""
        return self._own(self._entries(scope))

    async def _entries(self, scope: str) -> list[tuple[str, bytes]]:
        names = self._names_of(scope)
        bounds = (b"%d" % INSTANT_VALUES, b"%d" % INSTANT_BYTES)
        page: list[bytes] | None = await self._send(
            b"EVALSHA", script("values/snapshot").sha1, b"%d" % len(names), *names, *bounds, scope=scope
        )
        if page is not None:
            found = dict(zip(page[::2], page[1::2], strict=True))
        else:
            found = {}
            async for page in self._pages(names, scope):
                found.update(zip(page[::2], page[1::2], strict=True))
        entries = []
        for key, text in found.items():
            decoded = _decoded(scope, key)
            entries.append((decoded, text if is_ours(text) else checked(scope, decoded, text)))
        return entries

    def _names_of(self, scope: str) -> tuple[bytes, ...]:
        """The keys that a read of a scope has to look at: its values, and its deadlines where it has any."""
        name = self._keys.values(scope.encode())
        return (
            (name, self._keys.deadlines_of(scope.encode()), self._keys.clock) if scope in self._routes.with_deadlines else (name,)
        )

    async def _pages(self, names: tuple[bytes, ...], scope: str) -> AsyncIterator[list[bytes]]:
        """Keys and values in turn of a scope of any size; a key may come twice."""
        cursor, count = b"0", PAGE_VALUES
        while True:
            if len(names) == 1:
                words: tuple[bytes, ...] = (b"HSCAN", *names, cursor, b"COUNT", b"%d" % count)
            else:
                words = (b"EVALSHA", script("values/page").sha1, b"3", *names, cursor, b"%d" % count)
            cursor, page = await self._send(*words, scope=scope)
            yield page
            if cursor == b"0":
                break
            each = sum(map(len, page)) // (len(page) // 2 or 1) + 1
            count = max(10, min(5 * PAGE_VALUES, PAGE_BYTES // each))

    def keys(self, scope: str) -> Answer[list[str]]:
        """The keys of a scope."""
        return self._own(self._keys_of(scope))

    async def _keys_of(self, scope: str) -> list[str]:
        names = self._names_of(scope)
        if len(names) == 1 and await self._send(b"HLEN", *names, scope=scope) <= INSTANT_KEYS:
            found = await self._send(b"HKEYS", *names, scope=scope)
        else:
            found = {key: None async for page in self._pages(names, scope) for key in page[::2]}
        return [_decoded(scope, key) for key in found]


def _decoded(scope: str, key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise StoreError(f"scope {scope!r} has a key that is not ours, and no UTF-8: {key[:200]!r}") from None
