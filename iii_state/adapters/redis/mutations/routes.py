"""The routes as this engine knows them: which queues want the events of a scope and key, and what the fleet has agreed on.

Both stand in one table; the names of what has been agreed on begin with a colon, which no queue's does.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import msgspec

from iii_state.adapters.prefix_routes import PrefixRoutes
from iii_state.adapters.redis.mutations.logs import LogSetting
from iii_state.adapters.redis.mutations.route import Route
from iii_state.adapters.redis.scripts.mutations import Stale
from iii_state.errors import StoreError
from iii_state.events import Subscription

FOREIGN_WRITES = b":foreign_writes"
"""The setting that has foreign writes watched: the generation of the shadows, and ` filling` until they are complete."""

HISTORY = b":history"
"""The setting that scopes have change logs: rules, each with its generation (`logs.LogSetting`)."""

BEGAN = b":began"
"""The first version of the routes: another one after the database has been emptied."""


Wanted = tuple[str | None, ...]
"""Scope and key of the events that a subscription wants, None for any; where it has a prefix, those of both behind them."""

MOST_ALIKE = 500
"""So many subscriptions may want the events of the same scope and key: a write pays some 10 µs of Redis's time for each."""

_route = msgspec.json.Decoder(Route)
_encode = msgspec.json.Encoder().encode

_DEADLINES = b":deadlines:"


def deadlines_setting(scope: bytes) -> bytes:
    """The name of the setting that a scope has deadlines."""
    return _DEADLINES + scope


def scope_with_deadlines(setting: bytes) -> bytes | None:
    """The scope that a setting says to have deadlines; None for another setting."""
    return setting[len(_DEADLINES) :] if setting.startswith(_DEADLINES) else None


def wanted_of(subscription: Subscription) -> Wanted:
    """What a subscription wants."""
    return _wanted(subscription.scope, subscription.key, subscription.scope_prefix, subscription.key_prefix)


def _wanted(scope: str | None, key: str | None, scope_prefix: str | None, key_prefix: str | None) -> Wanted:
    return (scope, key) if scope_prefix is None and key_prefix is None else (scope, key, scope_prefix, key_prefix)


def described(wanted: Wanted) -> str:
    """What subscriptions want, in words."""
    names = ["(any)" if name is None else repr(name) for name in wanted[:2]]
    for place, prefix in enumerate(wanted[2:]):
        if prefix is not None:
            names[place] = f"{prefix!r}…"
    return f"scope {names[0]} and key {names[1]}"


class RedisRoutes:
    """Four look-ups, whatever the number of subscriptions; and where prefixes are wanted, one for each length that they have."""

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
        self._queues: dict[Wanted, dict[bytes, Route]] = {}
        self._prefixed: PrefixRoutes[bytes, Route] | None = None
        """None where no prefix is wanted."""
        self.with_deadlines: set[str] = set()
        """The scopes that have deadlines, or had some not long ago."""

    def function_of(self, queue: bytes) -> str:
        """The function that a queue is for, empty for an unknown one."""
        route = self._routes.get(queue)
        return "" if route is None else route.function_id

    def wanted_by(self, queue: bytes) -> Wanted | None:
        """What a queue wants, None for an unknown one."""
        route = self._routes.get(queue)
        return None if route is None else _wanted(route.scope, route.key, route.scope_prefix, route.key_prefix)

    def refuse_too_many(self, wanted: Wanted, queue: bytes, under_way: Set[bytes]) -> None:
        """Raises `StoreError` in words where one more subscription with this scope and key would make writes too slow; others are
        `under_way`."""
        if len(wanted) == 2:
            alike: Set[bytes] = self._queues.get(wanted, {}).keys()
        else:  # those that want all that it wants
            scope, key, scope_prefix, key_prefix = wanted
            prefixed = self._prefixed or PrefixRoutes[bytes, Route]()
            alike = {name for name, _ in prefixed.matching(scope or scope_prefix or "", key or key_prefix or "")}
        if queue not in alike and len(alike) + len(under_way - alike - {queue}) >= MOST_ALIKE:
            raise StoreError(
                f"there are {MOST_ALIKE} subscriptions with {described(wanted)} already, and no more are taken: each write "
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

    def matching(self, scope: str, key: str) -> list[tuple[bytes, Route]]:
        """The queues that want the events of this scope and key, and their routes."""
        queues, prefixed = self._queues, self._prefixed
        if not queues and prefixed is None:
            return []
        found: list[tuple[bytes, Route]] = []
        for wanted in ((scope, key), (scope, None), (None, key), (None, None)):
            if wanted in queues:
                found.extend(queues[wanted].items())
        if prefixed is not None:
            found += prefixed.matching(scope, key)
        return found

    def load(self, version: int, table: Sequence[bytes]) -> None:
        """Begin afresh with the whole table, queues and routes in turn, which is of this version or a later one."""
        self.version = version
        self._routes.clear()
        self._queues.clear()
        self._prefixed = None
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
        if known is not None and known.prefixes is not None:
            if self._prefixed is not None:
                self._prefixed.remove(known.prefixes, queue)
                self._prefixed = self._prefixed or None
        elif known is not None:
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
            if route.prefixes is not None:
                if self._prefixed is None:
                    self._prefixed = PrefixRoutes()
                self._prefixed.add(route.prefixes, queue, route)
            else:
                self._queues.setdefault((route.scope, route.key), {})[queue] = route

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
