"""The Redis adapter in a cluster: one store of many partitions, each of which is to its engines what a single Redis is."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable
from functools import partial

from iii_state.adapters.redis.adapter import RedisAdapter
from iii_state.adapters.redis.admin import RedisAdmin
from iii_state.adapters.redis.cluster.admin import ClusterAdmin
from iii_state.adapters.redis.cluster.figures import summed
from iii_state.adapters.redis.cluster.history import ClusterHistory
from iii_state.adapters.redis.cluster.layout import Layout
from iii_state.adapters.redis.cluster.nodes import Nodes, asked
from iii_state.adapters.redis.cluster.pages import PageScan
from iii_state.adapters.redis.cluster.partitions import Partitions, ranges
from iii_state.adapters.redis.cluster.queues import ClusterQueues
from iii_state.adapters.redis.cluster.scanning import ScopeScan
from iii_state.adapters.redis.cluster.sessions import ClusterSessions
from iii_state.adapters.redis.cluster.store_id import store_of
from iii_state.adapters.redis.cluster.succession import ClusterSuccession
from iii_state.adapters.redis.cluster.tags import slot_of, tags
from iii_state.adapters.redis.cluster.values import ClusterValues
from iii_state.adapters.redis.identity import EngineIdentity
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.pace import pace_of
from iii_state.adapters.redis.scripts.loader import PARTED, SHARDED
from iii_state.adapters.redis.shared import Shared
from iii_state.config import RedisSettings
from iii_state.config.settings import PARTITIONS
from iii_state.errors import ConfigError, StoreError
from iii_state.events import QueueLimits
from iii_state.figures import Figure
from iii_state.history import NO_LOGS, LogRules
from iii_state.tasks.background import Background
from iii_state.tasks.closing import Stopping, in_turn

logger = logging.getLogger(__name__)

LAYOUT_SECONDS = 30.0
"""So often it is looked whether the key that fixes the layout is there; at once where a partition has been emptied."""


class ClusterAdapter:
    """Values and queues in a Redis Cluster. See `RedisAdapter`.

    A scope belongs to one partition, with everything that its calls touch. How many there are is fixed when the store is new.
    """

    name = "redis"

    def __init__(
        self,
        settings: RedisSettings,
        nodes: Nodes,
        *,
        limits: QueueLimits | None = None,
        history: LogRules | None = NO_LOGS,
    ) -> None:
        self._settings = settings
        self._nodes = nodes
        self._wanted = settings.partitions
        self._limits = limits or QueueLimits()
        self._rules = history
        self._format = Keys(settings.prefix.encode()).format
        self._layout: Layout | None = None
        self._has_started = False
        self._stopping = Stopping(self._stop)
        self._background = Background()
        self._layout_may_be_gone = asyncio.Event()
        self._scans: tuple[ScopeScan | PageScan, ...] = ()
        self._partitions: Partitions[RedisAdapter] = Partitions()
        self._admins: Partitions[RedisAdmin] = Partitions()

        self.sessions = ClusterSessions(self._partitions, self._background)
        self.values = ClusterValues(self._partitions, self.sessions, self._background)
        self.history = ClusterHistory(self._partitions, history or NO_LOGS)
        self.queues = ClusterQueues(self._partitions, self._background)
        self.admin = ClusterAdmin(self._admins)
        self.succession = ClusterSuccession(self._partitions)

    @property
    def store(self) -> str | None:
        """The id of what is stored there: another one when any of the servers has been emptied."""
        return store_of([partition.store for partition in self._partitions.all])

    def figures(self) -> Iterable[Figure]:
        """What has been counted here, of all partitions."""
        return summed(partition.figures() for partition in self._partitions.all)

    async def tells_of_queues(self) -> bool:
        """Of all engines that are asked, one tells."""
        return await self._partitions.first.tells_of_queues()

    def has(self, feature: str) -> bool:
        """What stores itself has all that this version has."""
        return True

    def route(self, visited: list[str]) -> list[str]:
        """What stores itself adds no bridge."""
        return visited

    # -- opening

    async def start(self, wake: Callable[[str], None]) -> None:
        """Find out how the store is laid out, and open all its partitions. When that fails, nothing is left open."""
        if self._has_started:
            raise StoreError("this redis adapter has been started before, and cannot be used again: make another one")
        await self._nodes.start()
        try:
            self._layout = layout = await self._agree()
            self._make_partitions(layout)
            await self._start_partitions()
        except BaseException:
            self._partitions.all, self._admins.all = [], []
            await self._nodes.stop()
            raise
        self._has_started = True
        self.queues.start(wake)
        for scan in self._scans:
            scan.start()
        self._background.start(self._keep_layout(layout), "iii-state layout of the cluster")

    async def _agree(self) -> Layout:
        """What the fleet has agreed on; where this is its first engine, what this one says."""
        found = await self._asked(b"GET", self._format)
        if found is None:
            sharded = await self._nodes.can_shard()
            proposed = str(Layout(self._wanted or PARTITIONS, sharded)).encode()
            await self._asked(b"SET", self._format, proposed, b"NX")
            found = await self._asked(b"GET", self._format) or proposed
        layout = Layout.read(found, str(self._nodes.address))
        layout.check(self._wanted)
        return layout

    async def _asked(self, *words: bytes) -> bytes | None:
        return await asked(self._nodes, self._format, *words)

    def _make_partitions(self, layout: Layout) -> None:
        prefix, names = self._settings.prefix.encode(), tags(layout.partitions)
        instance, pace = secrets.token_hex(6).encode(), pace_of(layout.partitions)
        scripts = SHARDED if layout.is_sharded else PARTED
        slots = [slot_of(tag) for tag in names]
        made: list[RedisAdapter] = []
        for tag, slot in zip(names, slots, strict=True):
            keys = Keys(prefix, tag)
            connection = self._nodes.connection(slot, keys, scripts)
            pubsub = self._nodes.pubsub(slot)
            connection.primary.moved.connect(pubsub.hurry)
            shared = Shared.over(keys, connection, pubsub, self._limits, EngineIdentity(instance), pace)
            partition = RedisAdapter(self._settings, limits=self._limits, history=self._rules, shared=shared)
            partition.began_afresh.connect(self._layout_may_be_gone.set)
            made.append(partition)
        self._partitions.all = made
        self._admins.all = [partition.admin for partition in made]
        masters = partial(self._nodes.masters, slots)
        scan = ScopeScan(self._partitions, masters, names)
        self._scans = (scan, PageScan(self._partitions, masters, names, prefix))
        for partition in made:
            partition.scopes.scan_first = scan.first

    async def _start_partitions(self) -> None:
        starting = [partition.start(partial(self.queues.woken, number)) for number, partition in enumerate(self._partitions.all)]
        outcomes = await asyncio.gather(*starting, return_exceptions=True)
        failures = {number: outcome for number, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)}
        if failures:
            started = [partition for number, partition in enumerate(self._partitions.all) if number not in failures]
            await asyncio.gather(*(partition.stop() for partition in started), return_exceptions=True)
            for failure in failures.values():
                if isinstance(failure, ConfigError):
                    raise failure
            raise self._partitions.failed(failures)

    async def _keep_layout(self, layout: Layout) -> None:
        """Write down again how the store is laid out, where that has gone: its master may have been emptied."""
        while True:
            try:
                async with asyncio.timeout(LAYOUT_SECONDS):
                    await self._layout_may_be_gone.wait()
            except TimeoutError:
                pass
            self._layout_may_be_gone.clear()
            try:
                await self._asked(b"SET", self._format, str(layout).encode(), b"NX")
                found = await self._asked(b"GET", self._format)
            except StoreError as error:
                logger.info("whether the layout of the store is there could not be looked at: %s", error)
                continue
            if found is not None and found != str(layout).encode():
                logger.error(
                    "the store is laid out as %r now, and this engine has %r: another program has changed it, or the cluster was "
                    "emptied and given another number of partitions. This engine has to be started again",
                    *(found.decode("utf-8", "replace")[:200], str(layout)),
                )

    def repair_soon(self) -> None:
        """Look for damage to what is kept in all partitions now, and not with the next sweep."""
        for partition in self._partitions.all:
            partition.repair_soon()

    # -- closing

    async def stop(self) -> None:
        """Give back what is pending, and close."""
        await self._stopping()

    async def _stop(self) -> None:
        await in_turn(*(scan.stop for scan in self._scans), self._stop_partitions, self._background.stop, self._nodes.stop)

    async def _stop_partitions(self) -> None:
        outcomes = await asyncio.gather(*(partition.stop() for partition in self._partitions.all), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def absence(self) -> str | None:
        """In which partitions this engine takes no part, and why; None where it does in all."""
        told = [partition.absence() for partition in self._partitions.all]
        away = {number: words for number, words in enumerate(told) if words is not None}
        return f"{ranges(list(away))} of {len(told)}: {next(iter(away.values()))}" if away else None

    async def health(self) -> str | None:
        """None when all partitions answer, else which do not, and why."""
        all_of_them = self._partitions.all
        told = await asyncio.gather(*(partition.health() for partition in all_of_them))
        ill = {number: words for number, words in enumerate(told) if words is not None}
        if not ill:
            return None
        first = next(iter(ill.values()))
        return first if len(ill) == len(told) else f"{ranges(list(ill))} of {len(told)}: {first}"
