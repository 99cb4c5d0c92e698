"""The routes as this engine knows them: which queues want the events of a scope and key, at which version."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from iii_state.adapters.redis.mutations import Stale
from iii_state.errors import StoreError
from iii_state.events import Subscription


class Route(msgspec.Struct, frozen=True):
    """What lies in Redis for a queue: which events it wants (None for any), and whose it is."""

    scope: str | None
    key: str | None
    function_id: str


_route = msgspec.json.Decoder(Route)
_encode = msgspec.json.Encoder().encode


def route_text(subscription: Subscription) -> bytes:
    """The route of a subscription's queue."""
    return _encode(Route(subscription.scope, subscription.key, subscription.function_id))


class Routes:
    """Four look-ups, whatever the number of subscriptions."""

    def __init__(self) -> None:
        self.version = 0
        self._routes: dict[bytes, Route] = {}
        self._queues: dict[tuple[str | None, str | None], dict[bytes, str]] = {}

    def function_of(self, queue: bytes) -> str:
        """The function that a queue is for, empty for an unknown one."""
        route = self._routes.get(queue)
        return "" if route is None else route.function_id

    def matching(self, scope: str, key: str) -> list[tuple[bytes, str]]:
        """The queues that want the events of this scope and key, each with the function that it is for."""
        queues = self._queues
        if not queues:
            return []
        found: list[tuple[bytes, str]] = []
        for wanted in ((scope, key), (scope, None), (None, key), (None, None)):
            if wanted in queues:
                found.extend(queues[wanted].items())
        return found

    def load(self, version: int, table: Sequence[bytes]) -> None:
        """Begin afresh with the whole table, queues and routes in turn, which is of this version or a later one."""
        self.version = version
        self._routes.clear()
        self._queues.clear()
        for queue, text in zip(table[::2], table[1::2], strict=True):
            self._change(queue, text)

    def catch_up(self, stale: Stale) -> bool:
        """Apply what has changed. False if that is not known: the whole table has to be loaded."""
        changes = [change for change in stale.changes if change[0] > self.version]
        if stale.version < self.version or (not changes and stale.version != self.version):
            return False
        for version, fields in changes:
            if version != self.version + 1:
                return False
            self.apply(version, fields)
        return True

    def registered(self, before: int, version: int, fields: Sequence[bytes]) -> None:
        """Take on a change that this engine has made itself; nothing happens where it does not know what was `before`."""
        if before == self.version and version != before:
            self.apply(version, fields)

    def apply(self, version: int, fields: Sequence[bytes]) -> None:
        """Take on one change, that of the version after the one known: queues and routes in turn, '' for a route that is gone."""
        for queue, text in zip(fields[::2], fields[1::2], strict=True):
            self._change(queue, text)
        self.version = version

    def _change(self, queue: bytes, text: bytes) -> None:
        known = self._routes.pop(queue, None)
        if known is not None:
            wanted = (known.scope, known.key)
            del self._queues[wanted][queue]
            if not self._queues[wanted]:
                del self._queues[wanted]
        if text:
            try:
                route = _route.decode(text)
            except msgspec.MsgspecError as error:
                raise StoreError(f"a route in Redis cannot be read: {text[:200]!r}: {error}") from None
            self._routes[queue] = route
            self._queues.setdefault((route.scope, route.key), {})[queue] = route.function_id
