"""Moves a scope: its values, their deadlines, and its change log."""

from __future__ import annotations

from dataclasses import dataclass

from iii_state.adapters.redis.mutations.logs import LogSetting
from iii_state.transfer.moving.copying import KeyPlace, copy_hash, copy_sorted_set, copy_stream
from iii_state.transfer.moving.part import Part


@dataclass(frozen=True)
class ScopeMove:
    """What holds for all scopes.

    Args:
        shares_values: whether both stores lie in one database, where values of one name are the same.
        logs: of a source's part and a target's, the settings of the change logs; None for none.
    """

    shares_values: bool
    logs: tuple[LogSetting | None, LogSetting | None]

    async def move(self, scope: bytes, source: Part, target: Part, shift: int) -> int:
        """Move one; answers how many values it has.

        Args:
            shift: milliseconds from the time of the source to that of the target.
        """
        keys, new = source.keys, target.keys
        count = 0
        if self.shares_values and keys.values(scope) == new.values(scope):
            count = int(await source.ask(b"HLEN", keys.values(scope)))
        else:
            count = await copy_hash(KeyPlace(source, keys.values(scope)), KeyPlace(target, new.values(scope)))
        deadlines = KeyPlace(target, new.deadlines_of(scope))
        has_deadlines = await copy_sorted_set(KeyPlace(source, keys.deadlines_of(scope)), deadlines, shift)
        await copy_stream(KeyPlace(source, keys.history(scope)), KeyPlace(target, new.history(scope)))
        if await copy_hash(KeyPlace(source, keys.revisions(scope)), KeyPlace(target, new.revisions(scope))):
            await self._keep_generation(scope, target)
        if has_deadlines:
            ((_, earliest),) = _pairs(await target.ask(b"ZRANGE", deadlines.key, b"0", b"0", b"WITHSCORES"))
            await target.ask(b"ZADD", new.deadlines, earliest, scope)
        if count:
            await target.ask(b"SADD", new.scopes, scope)
        return count

    async def _keep_generation(self, scope: bytes, target: Part) -> None:
        """Parts that had settings of their own have one now: its log goes on as it was."""
        name = scope.decode("utf-8", "replace")
        before, after = (None if setting is None else setting.of(name) for setting in self.logs)
        if before is None or after is None or before.generation == after.generation:
            return
        key = target.keys.revisions(scope)
        if await target.ask(b"HGET", key, b"generation") == before.generation:
            await target.ask(b"HSET", key, b"generation", after.generation)


def _pairs(reply: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(reply[::2], reply[1::2], strict=True))
