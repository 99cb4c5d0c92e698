"""Calls of the scripts that the engines of a fleet know each other by: what they take."""

from __future__ import annotations

from collections.abc import Sequence

from iii_state.adapters.redis.keys import FORMAT, LOG_FORMAT, Keys


def join(
    keys: Keys,
    engine: bytes,
    name: bytes,
    ttl_ms: int,
    foreign_writes: bool,
    others: Sequence[bytes],
    count: int = 0,
    now_ms: int | None = None,
    stood: bytes = b"",
    history: tuple[bytes, bytes] = (b"", b""),
) -> list[bytes]:
    """What follows the digest of join.lua in EVALSHA; `now_ms` is the time of the fleet by the engine's own clock, `stood` where it
    has stood still for as long as the script has said. `history` is the setting of the change logs, as found and as it is to be."""
    names = (keys.routes, keys.routes_version, keys.routes_log, keys.engines, keys.format)
    more = (keys.engine(engine), keys.clock, keys.clock_copy, keys.orphans, *(keys.engine(other) for other in others))
    words = (
        engine,
        b"%d" % ttl_ms,
        b"%d" % (LOG_FORMAT if history[1] else FORMAT),
        b"%d" % foreign_writes,
        name,
        heartbeat_text(ttl_ms, count),
        _optional(now_ms),
        stood,
        *history,
    )
    return [b"%d" % (len(names) + len(more)), *names, *more, *words, *others]


def change_setting(keys: Keys, setting: bytes, before: bytes, after: bytes) -> list[bytes]:
    """What follows the digest of fleet/swap_setting.lua in EVALSHA."""
    return [b"3", keys.routes, keys.routes_version, keys.routes_log, setting, before, after]


def heartbeat_text(ttl_ms: int, count: int) -> bytes:
    """What stands among the engines for one whose heartbeats were so many."""
    return b"%d %d" % (ttl_ms, count)


def _optional(number: int | None) -> bytes:
    return b"" if number is None else b"%d" % number


def heartbeat(keys: Keys, engine: bytes, ttl_ms: int, name: bytes, count: int = 0, now_ms: int | None = None) -> list[bytes]:
    """What follows the digest of fleet/heartbeat.lua in EVALSHA; `now_ms` is the time of the fleet by the engine's own clock."""
    call = [b"4", keys.engines, keys.engine(engine), keys.clock, keys.clock_copy, engine, b"%d" % ttl_ms, name]
    return [*call, heartbeat_text(ttl_ms, count), _optional(now_ms)]


def join_succession(keys: Keys, worker: bytes, ttl_ms: int) -> list[bytes]:
    """What follows the digest of fleet/join_succession.lua in EVALSHA."""
    return [b"3", keys.line, keys.clock, keys.clock_copy, worker, b"%d" % ttl_ms]


def fence(keys: Keys, engine: bytes, seen: bytes = b"") -> list[bytes]:
    """What follows the digest of fleet/fence.lua in EVALSHA; `seen` is what has stood among the engines for its time to live."""
    return [b"3", keys.engines, keys.engine(engine), keys.fenced, engine, seen]


def takeover(keys: Keys, queue: bytes, engine: bytes, count: int) -> list[bytes]:
    """What follows the digest of fleet/takeover.lua in EVALSHA."""
    names = (keys.stream(queue), keys.engines, keys.busy(queue), keys.subscription(queue), keys.orphans, keys.hosts(engine))
    return [b"8", *names, keys.clock, keys.clock_copy, engine, queue, b"%d" % count]
