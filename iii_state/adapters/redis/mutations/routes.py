"""The routes as this engine knows them: which queues want the events of a scope and key, and what the fleet has agreed on.

Both stand in one table; the names of what has been agreed on begin with a colon, which no queue's does.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import msgspec

from iii_state.adapters.redis.mutations.logs import LogSetting
from iii_state.adapters.redis.scripts.mutations import Stale
from iii_state.errors import StoreError
from iii_state.events import Subscription

FOREIGN_WRITES = b":foreign_writes"
"""The setting that has foreign writes watched: the generation of the shadows, and ` filling` until they are complete."""

HISTORY = b":history"
"""The setting that scopes have change logs: rules, each with its generation (`logs.LogSetting`)."""

BEGAN = b":began"
"""The first version of the routes: another one after the database has been emptied."""


class Route(msgspec.Struct, frozen=True):
    """What lies in Redis for a queue: which events it wants (None for any), and whose it is."""

    scope: str | None
    key: str | None
    function_id: str


Wanted = tuple[str | None, str | None]
"""Scope and key of the events that a subscription wants, None for any."""

MOST_ALIKE = 500
"""So many subscriptions may want the events of the same scope and key: a write pays some 10 µs of Redis's time for each."""

_route = msgspec.json.Decoder(Route)
_encode = msgspec.json.Encoder().encode

_DEADLINES = b":deadlines:"


def deadlines_setting(scope: bytes) -> bytes:
    """The name of the setting that a scope has deadlines."""
    return _DEADLINES + scope


def route_text(subscription: Subscription) -> bytes:
    """The route of a subscription's queue."""
    return _encode(Route(subscription.scope, subscription.key, subscription.function_id))


class RedisRoutes:
    """Four look-ups, whatever the number of subscriptions."""

    def __init__(self) -> None:
        self.version = 0
        self.settings: dict[bytes, bytes] = {}
        """What all engines have to agree on. The names begin with a colon, which no queue's does."""
        self.shadows: bytes | None = None
        """The generation of the scopes' shadows, where foreign writes are watched."""
        self.is_filling = False
        """Whether the shadows are not complete yet: what is found missing in them is no event."""
        self.logs: LogSetting | None = None
        """The scopes that have change logs, where any has."""
        self.takes_more = False
        """Whether a write may take more than its value, events and deadline: a shadow, or a change log."""
        self._routes: dict[bytes, Route] = {}
        self._queues: dict[Wanted, dict[bytes, str]] = {}
        self.with_deadlines: set[str] = set()
        """The scopes that have deadlines, or had some not long ago."""

    def function_of(self, queue: bytes) -> str:
        """The function that a queue is for, empty for an unknown one."""
        route = self._routes.get(queue)
        return "" if route is None else route.function_id

    def wanted_by(self, queue: bytes) -> Wanted | None:
        """What a queue wants, None for an unknown one."""
        route = self._routes.get(queue)
        return None if route is None else (route.scope, route.key)

    def refuse_too_many(self, wanted: Wanted, queue: bytes, under_way: Set[bytes]) -> None:
        """Raises `StoreError` in words where one more subscription with this scope and key would make writes too slow; others are
        `under_way`."""
        alike = self._queues.get(wanted, {}).keys()
        if queue not in alike and len(alike) + len(under_way - alike - {queue}) >= MOST_ALIKE:
            scope, key = ("(any)" if name is None else repr(name) for name in wanted)
            raise StoreError(
                f"there are {MOST_ALIKE} subscriptions with scope {scope} and key {key} already, and no more are taken: each write "
                "that they want pays for each of them"
            )

    def queues(self) -> list[bytes]:
        """Every queue there is."""
        return list(self._routes)

    def table(self) -> list[bytes]:
        """The whole table, as `load` takes it."""
        entries = {queue: _encode(route) for queue, route in self._routes.items()} | self.settings
        entries |= {deadlines_setting(scope.encode()): b"1" for scope in self.with_deadlines}
        return [word for entry in entries.items() for word in entry]

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
        self.with_deadlines.clear()
        self.settings.clear()
        self.shadows, self.is_filling, self.logs, self.takes_more = None, False, None, False
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
        if queue.startswith(b":"):
            self._set(queue, text)
            return
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

    def _set(self, setting: bytes, text: bytes) -> None:
        if setting.startswith(_DEADLINES):  # there may be many, so these are not kept twice
            scope = setting.removeprefix(_DEADLINES).decode()
            if text:
                self.with_deadlines.add(scope)
            else:
                self.with_deadlines.discard(scope)
            return
        if text:
            self.settings[setting] = text
        else:
            self.settings.pop(setting, None)
        if setting == FOREIGN_WRITES:
            generation, _, rest = text.partition(b" ")
            self.shadows, self.is_filling = generation or None, bool(rest)
        elif setting == HISTORY:
            self.logs = LogSetting(text) if text else None
        self.takes_more = self.shadows is not None or self.logs is not None
