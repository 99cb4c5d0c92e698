"""What the parts of the Redis adapter share."""

from __future__ import annotations

from dataclasses import dataclass

from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.connection.pubsub import Listens
from iii_state.adapters.redis.identity import EngineIdentity
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.mutations.wake_ups import WakeUps
from iii_state.adapters.redis.store_id import StoreId
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
