"""The change logs in a cluster: each lies in the partition of its scope."""

from __future__ import annotations

from iii_state.adapters.redis.adapter import RedisAdapter
from iii_state.adapters.redis.cluster.partitions import Partitions
from iii_state.history import LogPage, LogRules, no_log
from iii_state.tasks.results import Result


class ClusterHistory:
    """See `base.History`."""

    def __init__(self, partitions: Partitions[RedisAdapter], rules: LogRules) -> None:
        self._partitions = partitions
        self._rules = rules

    def page(self, scope: str, key: str | None, after: str | None, limit: int) -> Result[LogPage]:
        """Up to so many changes of a scope behind a position."""
        if self._rules.of(scope) is None:
            raise no_log(scope)
        return self._partitions.of(scope).history.page(scope, key, after, limit)
