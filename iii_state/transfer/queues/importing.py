"""An import of queues: looked at first, so that a queue that holds something already is a conflict before anything is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from iii_state.errors import TransferError
from iii_state.transfer.queues.rows import QueueHead, QueueItem, QueueTarget
from iii_state.transfer.rows import OnConflict


@dataclass(slots=True)
class QueuesImported:
    """What an import of queues has come to. `resumed` of the queues had been put by an earlier one."""

    counts: Counter[type[QueueItem]] = field(default_factory=Counter)
    skipped: int = 0
    resumed: int = 0


@dataclass(slots=True)
class QueuesPlan:
    """What is to be done: which queues are left alone since they hold something, and behind which an earlier import had come."""

    taken: set[str] = field(default_factory=set)
    resumed: str | None = None


async def look(items: Iterable[QueueItem], target: QueueTarget, import_id: str, on_conflict: OnConflict) -> QueuesPlan:
    """Look what can be put. Raises `StateError` where it cannot be; nothing is changed."""
    plan = QueuesPlan(resumed=await target.resumed(import_id))
    for head in [item for item in items if isinstance(item, QueueHead)]:
        held = 0 if plan.resumed is not None else await target.held(head.id)
        if held and on_conflict == "error":
            raise TransferError(
                f"the queue of {head.name} in {target.name} holds {held} events and dead letters already: give --on-conflict skip, "
                "which leaves it alone, or overwrite, which drops these; nothing was imported"
            )
        if held and on_conflict == "skip":
            plan.taken.add(head.id)
    return plan


async def put(items: Iterable[QueueItem], target: QueueTarget, import_id: str, plan: QueuesPlan) -> QueuesImported:
    """Fill the queues. Raises `StateError`; where the target can, the same goes on with the queue that it has come to."""
    done = QueuesImported()
    await target.start(import_id)
    is_left, is_begun = True, False
    for item in items:
        if isinstance(item, QueueHead):
            if is_begun:
                await target.end()
            is_resumed = plan.resumed is not None and item.id <= plan.resumed
            is_left = is_resumed or item.id in plan.taken
            is_begun = not is_left
            done.resumed += is_resumed
            done.skipped += is_left and not is_resumed
            if is_begun:
                await target.begin(item)
        elif not is_left:
            await target.put(item)
        done.counts[type(item)] += not is_left
    if is_begun:
        await target.end()
    await target.finish()
    return done
