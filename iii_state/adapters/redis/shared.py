"""What the parts of the Redis adapter share."""

from __future__ import annotations

from dataclasses import dataclass

from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.connection.pubsub import Listens
from iii_state.adapters.redis.identity import EngineIdentity
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.mutations.wake_ups import WakeUps
from iii_state.adapters.redis.pace import ALONE, Pace
from iii_state.adapters.redis.store_id import StoreId
from iii_state.events import QueueLimits
from iii_state.tasks.background import Background
from iii_state.tasks.maintenance import Maintenance


@dataclass(frozen=True, slots=True)
class Shared:
    """One engine's side of a Redis."""

    keys: Keys
    connection: RedisConnection
    pubsub: Listens
    """Another connection, on which is heard what is published."""
    engine: EngineIdentity
    store: StoreId
    fanout: Fanout
    """What mutations share, the routes among it."""
    wake_ups: WakeUps
    maintenance: Maintenance
    """Of the queues."""
    background: Background
    """Calls that take several commands."""
    pace: Pace

    @classmethod
    def over(
        cls,
        keys: Keys,
        connection: RedisConnection,
        pubsub: Listens,
        limits: QueueLimits,
        engine: EngineIdentity | None = None,
        pace: Pace = ALONE,
    ) -> Shared:
        """What the parts share of what lies under these keys, nothing of it opened yet."""
        engine = engine or EngineIdentity()
        wake_ups = WakeUps(keys, connection.session)

        def following(swept_at: float) -> float:
            return pace.after(swept_at, pace.seconds)

        return cls(
            keys=keys,
            connection=connection,
            pubsub=pubsub,
            engine=engine,
            store=StoreId(keys, connection),
            fanout=Fanout(keys, connection, engine, wake_ups, limits, Maintenance(following)),
            wake_ups=wake_ups,
            maintenance=Maintenance(following),
            background=Background(),
            pace=pace,
        )
