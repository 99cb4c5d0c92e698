"""The sessions of callers in a cluster: each is there in all partitions, so that it is wherever its next call goes."""

from __future__ import annotations

import asyncio

from iii_state.adapters.redis.adapter import RedisAdapter
from iii_state.adapters.redis.cluster.partitions import Partitions
from iii_state.adapters.redis.sessions import KeptSessions
from iii_state.errors import SessionError, SessionTaken, StoreError
from iii_state.tasks.background import Background
from iii_state.tasks.results import Result, result_of


class ClusterSessions:
    """See `base.Sessions`."""

    def __init__(self, partitions: Partitions[RedisAdapter], background: Background) -> None:
        self._partitions = partitions
        self._background = background
        self._kept = KeptSessions()

    def open(self, session: str, previous_epoch: int, epoch: int) -> Result[None]:
        """Open a session, or raise its epoch, in all partitions: when this has answered, it holds wherever it is needed."""
        return self._background.call(self._open(session, previous_epoch, epoch))

    async def _open(self, session: str, previous_epoch: int, epoch: int) -> None:
        partitions = self._partitions
        answers = [partition.sessions.open(session, previous_epoch, epoch) for partition in partitions.all]
        outcomes = await asyncio.gather(*map(result_of, answers), return_exceptions=True)
        failures = {number: outcome for number, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)}
        if not failures:
            return
        if previous_epoch == 0 and not any(isinstance(failure, SessionTaken) for failure in failures.values()):
            # Nobody has used it: the caller may open it again under the same name.
            opened = [partition for number, partition in enumerate(partitions.all) if number not in failures]
            await asyncio.gather(*(partition.sessions.forget(session) for partition in opened), return_exceptions=True)
        for failure in failures.values():
            if isinstance(failure, SessionError) or not isinstance(failure, StoreError):
                raise failure
        raise partitions.failed(failures)

    def keep(self, session: str) -> None:
        """It is used: keep it from expiring, also where it is not used just now."""
        if not self._kept.is_due(session):
            return
        for partition in self._partitions.all:
            partition.sessions.keep(session)
