"""The succession of attached workers in a cluster: it belongs to no scope, and lies in the first partition."""

from __future__ import annotations

from iii_state.adapters.redis.adapter import RedisAdapter
from iii_state.adapters.redis.cluster.partitions import Partitions
from iii_state.tasks.results import Result


class ClusterSuccession:
    """See `base.Succession`."""

    def __init__(self, partitions: Partitions[RedisAdapter]) -> None:
        self._partitions = partitions

    def enter(self, worker: str, ttl_ms: int) -> Result[list[str]]:
        """Take a place, or keep it."""
        return self._partitions.first.succession.enter(worker, ttl_ms)

    def leave(self, worker: str) -> Result[None]:
        """Give up the place."""
        return self._partitions.first.succession.leave(worker)
