"""What operators see and put right in a kv store."""

from __future__ import annotations

from iii_state.adapters.base import Backup, EngineSeen
from iii_state.adapters.kv.journal.journal import Journal
from iii_state.adapters.kv.queues import KvQueues
from iii_state.adapters.local_dead_letters import DeadLetters
from iii_state.errors import StoreError
from iii_state.events import DeadLetter, QueueStats, nothing_of
from iii_state.host import engine_name


class KvAdmin:
    """See `base.Admin`. `journal` is None where the store lives in memory."""

    def __init__(self, queues: KvQueues, dead_letters: DeadLetters, journal: Journal | None) -> None:
        self._journal = journal
        self._queues = queues
        self._dead_letters = dead_letters
        self.pause, self.resume = queues.pause, queues.resume
        self.purge, self.remove = queues.purge, queues.remove

    def stats(self) -> list[QueueStats]:
        dead = self._dead_letters.counts()
        paused = dict(self._queues.paused())
        found = [
            QueueStats(
                subscription=queue.subscription,
                waiting=len(queue) - queue.pending,
                pending=queue.pending,
                retrying=queue.retrying,
                dead=dead[queue.id],
                dropped=queue.dropped,
                hosts=[engine_name()] if queue.hosted else [],
                oldest_at_ms=next((delivery.queued_at_ms for delivery in queue), None),
                is_looping=queue.is_looping,
                ready=queue.ready,
                paused_at_ms=paused.pop(queue.id, (None, None))[1],
            )
            for queue in self._queues
        ]
        return found + [nothing_of(*pause) for pause in paused.values()]

    def engines(self) -> list[EngineSeen]:
        return [EngineSeen(engine_name(), engine_name(), [])]

    def dead_letters(self, function_id: str | None = None) -> list[DeadLetter]:
        return [
            dead_letter for dead_letter in self._dead_letters.all() if function_id is None or dead_letter.function_id == function_id
        ]

    def dead_retry(self, dead_letter_id: str) -> bool:
        dead_letter = self._dead_letters.get(dead_letter_id)
        if dead_letter is None:
            return False
        self._queues.deliver_again(dead_letter)
        return True

    def dead_drop(self, dead_letter_id: str) -> bool:
        return self._queues.drop_dead_letter(dead_letter_id)

    async def backup(self, name: str) -> Backup:
        if self._journal is None:
            raise StoreError("this store lives in memory, and has no file: iii-state export writes its values to one")
        return await self._journal.backup(name)
