"""`--queues` of `iii-state export` and `import`: what is asked, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from iii_state.errors import StateError, TransferError
from iii_state.transfer.exporting import Exported
from iii_state.transfer.importing import ExportFile
from iii_state.transfer.queue_stores import queue_target
from iii_state.transfer.queues.importing import QueuesImported, QueuesPlan, look, put
from iii_state.transfer.queues.rows import BuriedEvent, QueuedEvent, QueueHead, QueueSource
from iii_state.transfer.rows import OnConflict
from iii_state.transfer.stores import StorePlace

queues_option = click.option(
    "--queues",
    is_flag=True,
    help="Also subscriptions, the events that wait, and dead letters. All engines of the store have to be stopped.",
)


def refuse_parts(queues: bool, scopes: Sequence[str], prefixes: Sequence[str]) -> None:
    """Queues are of subscriptions, not of scopes."""
    if queues and (scopes or prefixes):
        raise click.UsageError("--queues takes all queues as they are: leave out --scope and --prefix.")


@dataclass
class QueuesJob:
    """The queues of an export that has been checked, and the store that they are for."""

    file: ExportFile
    place: StorePlace
    on_conflict: OnConflict
    plan: QueuesPlan = field(default_factory=QueuesPlan)

    async def look(self, *, is_dry: bool) -> None:
        """Look whether they can be put there. Raises `StateError`."""
        if self.file.end is None or not self.file.has_queues:
            raise TransferError(f"{self.file.name} holds no queues: leave out --queues, or export with it")
        async with queue_target(self.place, is_dry=is_dry) as target:
            self.plan = await look(self.file.queue_items(), target, self.file.end.sha256, self.on_conflict)

    async def put(self) -> QueuesImported:
        """Put them there. Raises `StateError`."""
        assert self.file.end is not None
        try:
            async with queue_target(self.place, is_dry=False) as target:
                return await put(self.file.queue_items(), target, self.file.end.sha256, self.plan)
        except StateError as error:
            raise TransferError(f"{error}; the values are there, and not all queues: the same command goes on from there") from None

    def would_put(self) -> QueuesImported:
        """What would be put."""
        end = self.file.end
        assert end is not None
        done = QueuesImported(skipped=len(self.plan.taken))
        done.counts.update({QueueHead: end.queues - done.skipped, QueuedEvent: end.events, BuriedEvent: end.dead_letters})
        return done


def told_of_exported(done: Exported, source: QueueSource | None) -> tuple[dict[str, Any], list[str]]:
    """What was exported of queues, for programs and in words."""
    if source is None:
        return {}, []
    told = _counts(done.queues)
    words = [_of_queues(told)]
    if source.left_out:
        told["broadcast"] = source.left_out
        words.append(f"{source.left_out:,} broadcast queues left out, since they end with their engines")
    if source.skipped:
        told["skipped"] = source.skipped
        words.append(f"{source.skipped:,} entries left out that are no events")
    return told, words


def told_of_imported(done: QueuesImported) -> tuple[dict[str, Any], list[str]]:
    """What was imported of queues, for programs and in words."""
    told = {**_counts(done.counts), "queues_skipped": done.skipped, "queues_resumed": done.resumed}
    words = [_of_queues(told)]
    if done.skipped:
        words.append(f"{done.skipped:,} queues left alone, since they hold something")
    if done.resumed:
        words.append(f"{done.resumed:,} queues put before it was cut off")
    return told, words


def told_of_ignored(file: ExportFile) -> str | None:
    """That a file holds queues which are not imported."""
    end = file.end
    if end is None or not file.has_queues:
        return None
    return f"its {end.queues:,} queues with {end.events:,} events and {end.dead_letters:,} dead letters left out (--queues)"


def _counts(counts: Any) -> dict[str, Any]:
    return {"queues": counts[QueueHead], "events": counts[QueuedEvent], "dead_letters": counts[BuriedEvent]}


def _of_queues(told: dict[str, Any]) -> str:
    return f"{told['queues']:,} queues with {told['events']:,} events and {told['dead_letters']:,} dead letters"
