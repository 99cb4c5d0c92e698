"""The keys that all engines of a fleet share: whether they are as iii-state left them; routes that are gone are made again."""

from __future__ import annotations

import logging
from itertools import islice

import msgspec

from iii_state.adapters.redis.fleet.aside import Aside
from iii_state.adapters.redis.fleet.batches import batches
from iii_state.adapters.redis.fleet.takeover import Takeover
from iii_state.adapters.redis.keys import FORMAT, LOG_FORMAT
from iii_state.adapters.redis.keyspace.scan import hashes
from iii_state.adapters.redis.keyspace.scopes import PAUSE_SECONDS
from iii_state.adapters.redis.keyspace.shadows import LOCK_SECONDS
from iii_state.adapters.redis.mutations.mutation import HOLD_MS
from iii_state.adapters.redis.mutations.route import route_text
from iii_state.adapters.redis.mutations.routes import BEGAN, deadlines_setting
from iii_state.adapters.redis.shared import Shared
from iii_state.adapters.wall_clock import now_ms
from iii_state.events import Subscription

logger = logging.getLogger(__name__)

UNROUTED_SWEEPS = 3
"""So often another engine may still remember the routes that are gone."""

SCOPES_PER_SWEEP = 500

ENTRIES_AT_ONCE = 500

_subscription = msgspec.json.Decoder(Subscription)


class SharedKeys:
    """Looks, and puts right."""

    def __init__(self, shared: Shared, takeover: Takeover, aside: Aside) -> None:
        self._keys = shared.keys
        self._engine = shared.engine
        self._session = shared.connection.session
        self._run = shared.connection.run
        self._send = shared.connection.send
        self._fanout = shared.fanout
        self._takeover = takeover
        self._aside = aside
        self._store = shared.store
        self._scopes_at = 0
        self._unrouted = 0
        """At so many sweeps there were no routes."""

    def _fleet_keys(self) -> list[tuple[bytes, bytes]]:
        keys, engine = self._keys, self._engine.id
        first = [
            *((keys.format, b"string"), (keys.routes, b"hash"), (keys.routes_version, b"string")),
            *((keys.routes_log, b"stream"), (keys.engines, b"hash")),
            *((keys.hold, b"string"), (keys.filling, b"string"), (keys.scopes + b":scanning", b"string")),
        ]
        typed: dict[bytes, list[bytes]] = {
            b"hash": [keys.session(self._session.name), keys.line, keys.clock],
            b"set": [keys.scopes, keys.dead_queues, keys.fenced, keys.hosts(engine)],
            b"zset": [keys.orphans, keys.later, keys.deadlines],
            b"string": [keys.store, keys.engine(engine), keys.waited, keys.scopes + b":scanned", keys.teller],
        }
        return [*first, *((key, kind) for kind, names in typed.items() for key in names)]

    async def check(self) -> bool:
        """Whether the keys that all share are as they should be by now."""
        typed = self._fleet_keys()
        held = (10 * HOLD_MS, 1000 * LOCK_SECONDS, 1000 * PAUSE_SECONDS)
        layout = FORMAT if self._fanout.routes.logs is None else LOG_FORMAT
        words = [b"%d" % layout, *(b"%d" % ms for ms in held), *(kind for _, kind in typed)]
        is_routed, wrong = await self._run("repair/check_fleet", [b"%d" % len(typed), *(key for key, _ in typed), *words])
        for number in wrong:
            await self._aside.move(*typed[number - 1])
        if wrong:
            return False
        await self._store.read()
        version = await self._send(b"GET", self._keys.routes_version)
        if version is not None and not version.isdigit():
            await self._send(b"RENAME", self._keys.routes_version, self._keys.aside(self._keys.routes_version, now_ms()))
            logger.error("the version of the routes in Redis was %r, which is none of ours: it has been moved aside", version[:80])
        self._unrouted = 0 if is_routed else self._unrouted + 1
        if self._unrouted and BEGAN in self._fanout.routes.settings:
            await self._restore_routes()
        elif self._unrouted >= UNROUTED_SWEEPS and self._takeover.is_first():
            await self._rebuild_routes()
        return True

    async def _restore_routes(self) -> None:
        routes = self._fanout.routes
        began = routes.settings[BEGAN]  # it may turn out meanwhile that the database has been emptied
        others = [pair for pair in batches(routes.table(), 2) if pair[0] != BEGAN]
        names = (b"3", self._keys.routes, self._keys.routes_version, self._keys.engines)
        for part in batches(others, ENTRIES_AT_ONCE):
            await self._run("fleet/restore_routes", [*names, *(word for pair in part for word in pair)])
        if await self._run("fleet/restore_routes", [*names, BEGAN, began]):
            logger.error(
                "somebody has removed the routes from Redis; they have been written down again, as this engine remembers them: "
                "%d subscriptions",
                len(routes.queues()),
            )

    async def _rebuild_routes(self) -> None:
        """No engine remembers the routes: they follow from the subscriptions, and from the scopes that have deadlines."""
        table: list[tuple[bytes, bytes]] = []
        beginning = self._keys.subscription(b"")
        async for page in hashes(self._send, beginning):
            for name in page:
                settings, ending = await self._send(b"HMGET", name, b"settings", b"ending")
                if settings is not None and ending is None:
                    table.append((name[len(beginning) :], route_text(_subscription.decode(settings))))
        cursor = b"0"
        while True:
            cursor, page = await self._send(b"ZSCAN", self._keys.deadlines, cursor, b"COUNT", b"1000")
            table += [(deadlines_setting(scope), b"1") for scope in page[::2]]
            if cursor == b"0":
                break
        names = (b"3", self._keys.routes, self._keys.routes_version, self._keys.engines)
        for part in batches([*table, (BEGAN, b"%d" % self._fanout.routes.version)], ENTRIES_AT_ONCE):
            await self._run("fleet/restore_routes", [*names, *(word for pair in part for word in pair)])
        await self._fanout.read()
        logger.error(
            "somebody has removed the routes from Redis while no engine ran; they have been made again from what else is there: %d",
            len(table),
        )

    async def check_deadlines(self) -> None:
        """Scopes that have deadlines have to be among those that are looked at for them."""
        scopes = list(islice(self._fanout.routes.with_deadlines, self._scopes_at, self._scopes_at + SCOPES_PER_SWEEP))
        self._scopes_at = self._scopes_at + len(scopes) if len(scopes) == SCOPES_PER_SWEEP else 0
        if not scopes:
            return
        names = [scope.encode() for scope in scopes]
        planned = await self._send(b"ZMSCORE", self._keys.deadlines, *names)
        missing = [name for name, when in zip(names, planned, strict=True) if when is None]
        for name in missing:
            known = await self._send(b"HEXISTS", self._keys.routes, deadlines_setting(name))
            earliest = await self._send(b"ZRANGE", self._keys.deadlines_of(name), b"0", b"0", b"WITHSCORES")
            if known and earliest:
                await self._send(b"ZADD", self._keys.deadlines, b"NX", earliest[1], name)
                await self._send(self._fanout.scripts.publish, self._keys.deadlines, b"")
