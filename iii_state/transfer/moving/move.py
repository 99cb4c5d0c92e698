"""The move of a store: part by part, noted on the way so that one that was cut off goes on, and compared in the end."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from iii_state import values
from iii_state.adapters.redis.connection.checks import MOVING
from iii_state.adapters.redis.keys import FORMAT, LOG_FORMAT
from iii_state.adapters.redis.mutations.logs import LogSetting
from iii_state.adapters.redis.mutations.routes import BEGAN, FOREIGN_WRITES, HISTORY, scope_with_deadlines
from iii_state.errors import StateError, TransferError
from iii_state.transfer.moving.clocks import fleet_now, redis_now
from iii_state.transfer.moving.counting import StoreCount, count
from iii_state.transfer.moving.finding import Found, find, pairs
from iii_state.transfer.moving.part import Part
from iii_state.transfer.moving.parted import PartedStore
from iii_state.transfer.moving.queues import QueueMove
from iii_state.transfer.moving.scopes import ScopeMove

logger = logging.getLogger(__name__)

SCOPES_AT_ONCE = 64
QUEUES_AT_ONCE = 16

SAME_CLOCK_MS = 1000
"""Clocks that are no further apart count as the same: deadlines stay what they are."""


@dataclass
class Moved:
    """What a move has come to so far."""

    holding: StoreCount = field(default_factory=StoreCount)
    """What the source holds, once it has been counted."""
    values: int = 0
    events: int = 0
    resumed: bool = False
    skipped: int = 0
    """Entries of queues that were no events, and were left behind."""
    aside: int = 0
    """Keys that were set aside since they had been damaged, and were left behind."""


class _Note(msgspec.Struct, frozen=True):
    """How far a move is. `clocks` are those of the source: an engine that has run there since has set them."""

    clocks: list[str]
    scope: str = ""
    """Behind which scope it goes on, as hexadecimal digits."""
    queue: str = ""
    has_scopes: bool = False


_note = msgspec.json.Decoder(_Note)


class Move:
    """A move of all that one store holds into another, which holds nothing yet but what an earlier move of this one has brought.

    Args:
        progress: hears of it after every step.
    """

    def __init__(self, source: PartedStore, target: PartedStore, progress: Callable[[Moved], None] = lambda moved: None) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._done = Moved()
        self._note = _Note([])
        self._shifts: dict[tuple[int, int], tuple[int, int]] = {}

    async def dry_run(self) -> Moved:
        """What would be moved. Raises `StateError` where it cannot be."""
        await self._look()
        found = await self._find()
        if not await self._held():
            await self._refuse_values(found)
        self._done.holding, self._done.aside = await count(self._source, found), found.aside
        return self._done

    async def run(self) -> Moved:
        """Move. Raises `StateError`; what has been moved is gone on with by the next `run`."""
        await self._look()
        found = await self._find()
        self._done.aside = found.aside
        self._done.holding = await count(self._source, found)
        is_new = not await self._held()
        shares = await self._begin(found, is_new)
        try:
            await self._move(found, shares)
            await self._compare()
        except StateError as error:
            raise TransferError(f"{error}; the same command goes on from there") from None
        await self._finish()
        return self._done

    # -- before anything is moved

    async def _find(self) -> Found:
        found = await find(self._source)
        if not found.scopes and not found.queues:
            raise TransferError(f"the {self._source.name} holds nothing that could be moved under this prefix")
        return found

    async def _look(self) -> None:
        for store in (self._source, self._target):
            await store.refuse_living()
        held = await self._source.at(self._source.format_key, b"GET", self._source.format_key)
        if held is not None and held.startswith(MOVING):
            raise TransferError(
                f"the {self._source.name} holds a store that has not been moved there as a whole: move that to its end"
            )
        if self._source.layout is None and held is not None and held not in (b"%d" % FORMAT, b"%d" % LOG_FORMAT):
            raise TransferError(f"the data in the {self._source.name} has the format {held!r}, which this version does not know")

    async def _held(self) -> bytes:
        """What the target's layout key says: nothing, or that this move has begun. Raises `TransferError` for anything else."""
        target = self._target
        held: bytes = await target.at(target.format_key, b"GET", target.format_key) or b""
        if held and not held.startswith(MOVING):
            raise TransferError(
                f"the {target.name} holds a store already under this prefix: empty it, or give --to-prefix another one"
            )
        if held and held != await self._marker():
            raise TransferError(
                f"another store is being moved to the {target.name}: end that, or empty it ({held.decode(errors='replace')[:100]})"
            )
        return held

    async def _marker(self) -> bytes:
        """What stands in the target's layout key while the source is being moved there."""
        first = self._source.parts[0]
        source = b"store %b" % (await first.ask(b"GET", first.keys.store) or self._source.name.encode())
        layout = b"" if self._target.layout is None else b": " + str(self._target.layout).encode()
        return MOVING + source + layout

    async def _refuse_values(self, found: Found) -> None:
        """Raises `TransferError` where the target has values under names that are to be moved; not where these are the same."""
        target = self._target
        by_part: dict[int, list[bytes]] = {}
        for scope in found.scopes:
            by_part.setdefault(target.of(scope).number, []).append(scope)
        for number, scopes in by_part.items():
            keys = target.parts[number].keys
            told = await target.parts[number].all([(b"EXISTS", keys.values(scope)) for scope in scopes])
            taken = [scope for scope, is_there in zip(scopes, told, strict=True) if is_there]
            if taken:
                raise TransferError(
                    f"the {target.name} has values in {len(taken)} of the scopes already, as in "
                    f"{taken[0].decode('utf-8', 'replace')!r}: nothing was moved"
                )

    async def _begin(self, found: Found, is_new: bool) -> bool:
        """Note that the move has begun, or how far it is; answers whether both stores lie in one database."""
        target, source = self._target, self._source
        trial = target.parts[0].keys.moving
        token = secrets.token_hex(8).encode()
        await target.parts[0].ask(b"HSET", trial, b"token", token)
        shares = bool(await source.at(trial, b"HGET", trial, b"token") == token)
        if is_new:
            try:
                if not shares:
                    await self._refuse_values(found)
            except StateError:
                await target.parts[0].ask(b"DEL", trial)
                raise
            await target.at(target.format_key, b"SET", target.format_key, await self._marker())
        clocks = await asyncio.gather(*map(_clock_of, source.parts))
        noted = await target.parts[0].ask(b"HGET", trial, b"note")
        self._note = _note.decode(noted) if noted is not None and not is_new else _Note(clocks)
        self._done.resumed = noted is not None and not is_new
        if self._note.clocks != clocks:
            logger.warning("an engine has run on the %s since the move began: it begins anew", source.name)
            self._note, self._done.resumed = _Note(clocks), False
            await self._remove(found, shares)
        await self._write_note()
        now = dict(zip((part.number for part in target.parts), await asyncio.gather(*map(redis_now, target.parts)), strict=True))
        for part in source.parts:
            source_now, passed = await fleet_now(part)
            own = await redis_now(target.parts[0])
            for number in now:
                shift = now[number] + (own - now[0]) - source_now
                self._shifts[part.number, number] = (shift if abs(shift) > SAME_CLOCK_MS else 0, passed)
        return shares

    async def _remove(self, found: Found, shares: bool) -> None:
        """What was moved and is not in the source any more."""
        there = await find(self._target)
        for scope in there.scopes - found.scopes:
            part = self._target.of(scope)
            keys = part.keys
            names = [keys.deadlines_of(scope), keys.history(scope), keys.revisions(scope)]
            await part.all([(b"UNLINK", *names, *(() if shares else (keys.values(scope),))), (b"SREM", keys.scopes, scope)])
        for part in self._target.parts:
            keys = part.keys
            lists = [
                keys.wait(queue, lane) for (number, queue), lanes in there.lanes.items() if number == part.number for lane in lanes
            ]
            names = [name for queue in there.queues for name in (keys.subscription(queue), keys.stream(queue), keys.busy(queue))]
            names += [name for queue in there.queues for name in (keys.dead(queue), keys.lineages(queue))]
            names += [keys.routes, keys.later, keys.orphans, keys.dead_queues, keys.deadlines, keys.paused]
            await part.all([(b"UNLINK", name) for name in (*lists, *names)])

    async def _write_note(self) -> None:
        part = self._target.parts[0]
        await part.ask(b"HSET", part.keys.moving, b"note", values.encode(self._note))

    # -- moving

    async def _move(self, found: Found, shares: bool) -> None:
        await self._move_settings(found)
        settings = [_logs(found.routes[part.number].get(HISTORY)) for part in self._source.parts]
        kept = next((setting for setting in settings if setting is not None), None)
        if not self._note.has_scopes:
            await self._move_scopes(found, shares, settings, kept)
        queues = sorted(queue for queue in found.queues if queue.hex() > self._note.queue)
        for start in range(0, len(queues), QUEUES_AT_ONCE):
            batch = queues[start : start + QUEUES_AT_ONCE]
            await asyncio.gather(*(self._move_queue(queue, found) for queue in batch))
            self._note = msgspec.structs.replace(self._note, queue=batch[-1].hex())
            await self._write_note()
            self._progress(self._done)

    async def _move_scopes(
        self, found: Found, shares: bool, settings: Sequence[LogSetting | None], kept: LogSetting | None
    ) -> None:
        moves = [ScopeMove(shares, (setting, kept)) for setting in settings]
        scopes = sorted(scope for scope in found.scopes if scope.hex() > self._note.scope or not self._note.scope)
        for start in range(0, len(scopes), SCOPES_AT_ONCE):
            batch = scopes[start : start + SCOPES_AT_ONCE]
            await asyncio.gather(*(self._move_scope(scope, moves) for scope in batch))
            self._note = msgspec.structs.replace(self._note, scope=batch[-1].hex() or "00")
            await self._write_note()
            self._progress(self._done)
        self._note = msgspec.structs.replace(self._note, has_scopes=True)
        await self._write_note()

    async def _move_scope(self, scope: bytes, moves: Sequence[ScopeMove]) -> None:
        source, target = self._source.of(scope), self._target.of(scope)
        shift, _ = self._shifts[source.number, target.number]
        count = await moves[source.number].move(scope, source, target, shift)
        self._done.values += count
        self._progress(self._done)

    async def _move_queue(self, queue: bytes, found: Found) -> None:
        shifts = {number: shift for (number, target), shift in self._shifts.items() if target == 0}
        move = QueueMove(queue, self._source, self._target, found, shifts, await redis_now(self._target.parts[0]))
        await move.run()
        self._done.events += move.events
        self._done.skipped += move.skipped
        self._progress(self._done)

    async def _move_settings(self, found: Found) -> None:
        """Which scopes have deadlines, the change logs, and which subscriptions are paused. What is watched is agreed on anew."""
        for part in reversed(self._source.parts):
            for name, text in found.routes[part.number].items():
                if not name.startswith(b":") or name in (BEGAN, FOREIGN_WRITES):
                    continue
                scope = scope_with_deadlines(name)
                targets = self._target.parts if scope is None else [self._target.of(scope)]
                await asyncio.gather(*(target.ask(b"HSET", target.keys.routes, name, text) for target in targets))
            paused = [word for pair in await pairs(part, b"HSCAN", part.keys.paused) for word in pair]
            if paused:
                await asyncio.gather(*(target.ask(b"HSET", target.keys.paused, *paused) for target in self._target.parts))

    # -- afterwards

    async def _compare(self) -> None:
        """Raises `TransferError` where the target does not hold what the source does."""
        clocks = await asyncio.gather(*map(_clock_of, self._source.parts))
        if clocks != self._note.clocks:
            raise TransferError(f"an engine has run on the {self._source.name} meanwhile, and may have changed what was moved")
        await self._target.refuse_living()
        holding = await count(self._target, await find(self._target))
        wanted = self._done.holding
        wanted.events -= self._done.skipped
        if differences := wanted.differences(holding):
            raise TransferError(
                f"the {self._target.name} does not hold what the {self._source.name} does ({'; '.join(differences)}): was anything "
                "written meanwhile, or a slot moved?"
            )

    async def _finish(self) -> None:
        """Write down the layout: from now on engines start there."""
        target = self._target
        logged = [part for part in target.parts if await part.ask(b"HEXISTS", part.keys.routes, HISTORY)]
        layout = b"%d" % (LOG_FORMAT if logged else FORMAT)
        for part in target.parts:
            now = await redis_now(part)
            clock = (b"offset", b"0", b"last", b"%d" % now, b"until", b"%d" % now)
            await part.all(
                [
                    (b"HSET", part.keys.clock, *clock),
                    (b"SET", part.keys.clock_copy, b"0 %d %d" % (now, now)),
                    *([(b"SET", part.keys.format, layout)] if target.layout is not None else []),
                ]
            )
        whole = layout if target.layout is None else str(target.layout).encode()
        await target.at(target.format_key, b"SET", target.format_key, whole)
        await target.parts[0].ask(b"DEL", target.parts[0].keys.moving)


def _logs(text: bytes | None) -> LogSetting | None:
    return None if text is None else LogSetting(text)


async def _clock_of(part: Part) -> str:
    """When an engine lived there last."""
    return (await part.ask(b"HGET", part.keys.clock, b"last") or b"").decode("utf-8", "replace")
