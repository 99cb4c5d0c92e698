"""What this engine has counted of its Redis."""

from __future__ import annotations

from collections.abc import Iterator

from iii_state.adapters.figures import DEADLINES_DUE, DEADLINES_LATE, EVENTS_LOST, RECOGNISED, STORE_UP
from iii_state.adapters.redis.fleet.mending import Mending
from iii_state.adapters.redis.fleet.takeover import Takeover
from iii_state.adapters.redis.shared import Shared
from iii_state.figures import Figure, counter, gauge

CALLS = counter("redis_calls", "Calls that were sent to Redis, those sent again among them.")
ROUND_TRIPS = counter("redis_round_trips", "Packets of calls that were sent to Redis together.")
SENT_AGAIN = counter(
    "redis_calls_sent_again", "Calls that were sent to Redis once more: the connection broke, or something had changed."
)
SENT = counter("redis_sent_bytes", "Bytes that were sent to Redis.")
RECEIVED = counter("redis_received_bytes", "Bytes that have come from Redis.")
IN_FLIGHT = gauge("redis_calls_in_flight", "Calls that Redis has not answered yet.")
WAITING = gauge("redis_calls_waiting", "Calls that have not been sent to Redis yet.")
RECONNECTS = counter("redis_reconnects", "Connections to Redis that have replaced one that was lost.")
SCRIPT_LOADS = counter("script_loads", "How often all scripts were loaded: once a connection, and where Redis had lost them.")
TAKEOVERS = counter("takeovers", "Engines that this one has found dead, and whose work was given to others.")
TAKEN_OVER = counter("deliveries_taken_over", "Deliveries that this engine has given to others, since their engine was dead.")
FENCES = counter("fences", "How often this engine was taken for dead, and has begun afresh.")
FOREIGN_WRITES = counter("foreign_writes", "Writes of other programs that this engine has made events of.")


class RedisFigures:
    """Reads what the parts of the adapter count."""

    def __init__(self, shared: Shared, takeover: Takeover, mending: Mending) -> None:
        self._shared = shared
        self._takeover = takeover
        self._mending = mending

    def __iter__(self) -> Iterator[Figure]:
        shared, takeover = self._shared, self._takeover
        traffic, counts = shared.connection.traffic(), shared.fanout.counts
        plain = {
            CALLS: traffic.calls,
            ROUND_TRIPS: traffic.round_trips,
            SENT_AGAIN: traffic.sent_again,
            SENT: traffic.sent_bytes,
            RECEIVED: traffic.received_bytes,
            IN_FLIGHT: traffic.in_flight,
            WAITING: traffic.waiting,
            RECONNECTS: traffic.reconnects,
            SCRIPT_LOADS: traffic.script_loads,
            TAKEOVERS: takeover.engines,
            TAKEN_OVER: takeover.deliveries,
            FENCES: shared.engine.times_lost,
            FOREIGN_WRITES: counts.captured,
        }
        for family, value in plain.items():
            yield Figure(family, value)
        common = {
            STORE_UP: int(shared.connection.is_up),
            RECOGNISED: counts.recognised,
            DEADLINES_DUE: counts.expired,
            DEADLINES_LATE: counts.late,
            EVENTS_LOST: self._mending.lost,
        }
        for family, value in common.items():
            yield Figure(family, value, ("redis",))
