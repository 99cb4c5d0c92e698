"""The engines of the fleet: those that are gone, those of other versions, and sessions that nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterator

from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.keys import Keys
from iii_state.events import TRIGGERS_PAUSE
from iii_state.observe.doctor.findings import Finding, counted, named


async def of_engines(connection: RedisConnection, keys: Keys, *, is_partition: bool = False) -> list[Finding]:
    """Engines that are gone and have not been taken over, and older ones where something is paused.

    In a partition of a cluster those that are gone have ids of their own: they are counted, and not named, so that what all
    partitions have alike is told once.
    """
    engines = await connection.send(b"HKEYS", keys.engines)
    table = await connection.send(b"HGETALL", keys.features)
    features = dict(zip(table[::2], table[1::2], strict=True))
    alive = {engine: await connection.send(b"GET", keys.engine(engine)) for engine in engines}
    has_pauses = bool(await connection.send(b"EXISTS", keys.paused))
    gone = [engine.decode("utf-8", "replace") for engine, name in alive.items() if name is None]
    older = [
        name.decode("utf-8", "replace")
        for engine, name in alive.items()
        if name is not None and TRIGGERS_PAUSE.encode() not in features.get(engine, b"").split()
    ]
    return [*_gone(gone, is_partition=is_partition, all_gone=len(gone) == len(engines)), *_older(older, has_pauses=has_pauses)]


def _gone(gone: list[str], *, is_partition: bool, all_gone: bool) -> Iterator[Finding]:
    if gone:
        yield Finding(
            "warning",
            "engines-gone",
            f"{counted(len(gone), 'engine is', 'engines are')} gone without a word" + ("" if is_partition else f": {named(gone)}"),
            "What they had taken waits to be taken over"
            + (", and no engine lives that could do it." if all_gone else ", which the others do within seconds."),
            "Start an engine" if all_gone else "Look again; if they stay, the log of the other engines says why",
        )


def _older(older: list[str], *, has_pauses: bool) -> Iterator[Finding]:
    if older and has_pauses:
        yield Finding(
            "warning",
            "engines-older",
            f"{counted(len(older), 'engine knows', 'engines know')} of no pause, and subscriptions are paused: {named(older)}",
            "They deliver events of paused subscriptions.",
            "Bring them up to date, or stop them",
        )
    elif older:
        yield Finding(
            "note",
            "engines-older",
            f"{counted(len(older), 'engine is', 'engines are')} of an earlier version: {named(older)}",
            "Until all are up to date the fleet does without what these do not know: pauses, narrowed triggers.",
            "Finish the rollout",
        )


async def of_sessions(connection: RedisConnection, keys: Keys) -> list[Finding]:
    """Records of calls that would stay for ever: all of ours have a time to live."""
    cursor, staying = b"0", list[bytes]()
    while True:
        cursor, page = await connection.send(b"SCAN", cursor, b"MATCH", keys.session(b"*"), b"COUNT", b"1000")
        staying += [name for name in page if await connection.send(b"PTTL", name) == -1]
        if cursor == b"0":
            break
    if not staying:
        return []
    shown = named([name.decode("utf-8", "replace") for name in staying])
    return [
        Finding(
            "warning",
            "sessions-staying",
            f"{len(staying):,} records of calls have no time to live: {shown}",
            "Another program has made or changed them; they take memory for ever.",
            "Remove those whose engine is gone: redis-cli DEL KEY",
        )
    ]
