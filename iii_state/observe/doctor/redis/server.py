"""The server itself: its version and settings, its memory, its replicas, its clock, and whether it has the scripts."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any, Protocol

from hiredis import ReplyError

from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.durability import SETTINGS, Findings
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.keyspace.notifications import ALL_CLASSES, SETTING
from iii_state.adapters.redis.scripts.loader import names, script
from iii_state.errors import StoreError
from iii_state.observe.doctor.findings import Finding, size

OLDEST_VERSION = (6, 2)
SKEW_SECONDS = 5.0
LAG_SECONDS = 10
NEARLY_FULL, LARGE_SHARE = 0.8, 0.5

_LINE = re.compile(r"^(\w+):(.*?)\r?$", re.MULTILINE)
_REPLICA = re.compile(r"lag=(\d+)")


class Sending(Protocol):
    """What a command is sent with; it raises `StoreError` for what is refused."""

    def send(self, *words: bytes) -> Awaitable[Any]: ...


class SendingBefore:
    """Sends commands before a session is open, which needs a server that takes writes."""

    def __init__(self, socket: Carrier) -> None:
        self._socket = socket

    async def send(self, *words: bytes) -> Any:
        """The reply."""
        (reply,) = await self._socket.ask(words)
        if isinstance(reply, ReplyError):
            raise StoreError(explain(self._socket.address, str(reply)))
        return reply


async def of_server(connection: Sending, *, foreign_writes: bool) -> list[Finding]:
    """What is to be known of the server."""
    text = await _ask(connection, b"INFO")
    info = dict(_LINE.findall(text.decode("utf-8", "replace"))) if isinstance(text, bytes) else {}
    settings = [await _ask(connection, b"CONFIG", b"GET", name) for name in SETTINGS]
    return [
        *_version(info),
        *_durability(Findings.read(text, settings)),
        *_saving(info),
        *_memory(info),
        *_replication(info),
        *await _notifications(connection, "Kghx" if foreign_writes else "Kx"),
        *await _clock(connection),
    ]


def used_memory(info: object) -> int:
    """The bytes of memory that a server uses, by its INFO; 0 where that is not known."""
    text = info if isinstance(info, bytes) else b""
    found = [line.partition(b":")[2] for line in text.splitlines() if line.startswith(b"used_memory:")]
    return int(found[0]) if found else 0


async def _ask(connection: Sending, *words: bytes) -> object:
    """The reply; None where the command is refused, or unknown."""
    try:
        return await connection.send(*words)
    except StoreError:
        return None


def _version(info: Mapping[str, str]) -> Iterator[Finding]:
    told = info.get("redis_version", "")
    found = tuple(int(part) for part in told.split(".")[:2] if part.isdigit())
    if found and found < OLDEST_VERSION:
        yield Finding(
            "warning",
            "server-version",
            f"this Redis is of version {told}",
            "iii-state uses commands that came with 6.2.",
            "Upgrade Redis to 6.2 or later, or to Valkey",
        )


def _durability(server: Findings) -> Iterator[Finding]:
    """`Findings.warnings` says the same in the log of an engine."""
    if server.policy is not None and server.policy != "noeviction":
        yield Finding(
            "fault",
            "eviction-policy",
            f"maxmemory-policy is {server.policy}",
            "When it is full, Redis removes values, triggers, heartbeats and events that wait, and tells nobody.",
            "CONFIG SET maxmemory-policy noeviction, and in redis.conf",
        )
    if server.has_aof is False and server.has_snapshots is False:
        yield Finding(
            "warning",
            "no-persistence",
            'nothing is kept on disk (appendonly no, save "")',
            "When it restarts, all values, triggers and events that wait are gone.",
            "CONFIG SET appendonly yes, and in redis.conf",
        )
    if server.is_replica:
        yield Finding(
            "warning",
            "is-replica",
            "this is a replica",
            "What is written to it is refused, or gone when it next synchronises with its primary.",
            "redis_url has to name the primary, or the Sentinels (redis+sentinel://)",
        )
    unseen = [name for name, value in (("maxmemory-policy", server.policy), ("role", server.is_replica)) if value is None]
    if unseen or (server.has_aof is None and server.has_snapshots is None):
        yield Finding(
            "note",
            "settings-unseen",
            f"this user may not see all settings ({', '.join(unseen) or 'appendonly, save'}): CONFIG GET or INFO is refused",
            "Whether it evicts or keeps its data is not known.",
            "Look it up where the Redis is managed: maxmemory-policy noeviction, appendonly yes",
        )


def _saving(info: Mapping[str, str]) -> Iterator[Finding]:
    failing = [
        name for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status") if info.get(name) == "err"
    ]
    if failing:
        yield Finding(
            "warning",
            "saving-fails",
            f"Redis could not write to its disk ({', '.join(failing)})",
            "What has been written since is lost when it restarts; it may refuse writes.",
            "Its log says why: as a rule the disk is full",
        )


def _memory(info: Mapping[str, str]) -> Iterator[Finding]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most and used >= NEARLY_FULL * most:
        yield Finding(
            "warning",
            "memory-nearly-full",
            f"{size(used)} of {size(most)} (maxmemory) are used",
            "When it is full, writes fail.",
            "Raise maxmemory, or have values go by themselves (ttl_ms)",
        )


def of_share(queued: int, used: int) -> Iterator[Finding]:
    """That what waits in queues is most of what Redis holds."""
    if used and queued > 64 * 1024 * 1024 and queued >= LARGE_SHARE * used:
        yield Finding(
            "warning",
            "queues-large",
            f"events that wait take {size(queued)} of {size(used)}",
            "Handlers do not keep up, and Redis may become full of events.",
            "iii-state triggers says of which functions; max_queue_bytes bounds them",
        )


def _replication(info: Mapping[str, str]) -> Iterator[Finding]:
    if info.get("master_link_status") == "down":
        yield Finding(
            "warning", "primary-away", "this replica has lost its primary", "What it holds grows old.", "Look at the primary"
        )
    for name, told in info.items():
        lag = _REPLICA.search(told) if re.fullmatch(r"slave\d+", name) else None
        if lag is not None and int(lag[1]) >= LAG_SECONDS:
            yield Finding(
                "warning",
                "replica-lags",
                f"a replica has not answered for {lag[1]} s ({told})",
                "A failover to it would lose what was written since; calls with wait_replicas are NOT_CONFIRMED.",
                "Look at the replica, and at the network to it",
            )


async def _notifications(connection: Sending, needed: str) -> list[Finding]:
    told = await _ask(connection, b"CONFIG", b"GET", SETTING)
    if not isinstance(told, list) or len(told) != 2:
        return []
    classes = told[1].decode().replace("A", ALL_CLASSES)
    missing = [letter for letter in needed if letter not in classes]
    if not missing:
        return []
    return [
        Finding(
            "warning",
            "notifications",
            f"keyspace notifications lack {''.join(missing)} (notify-keyspace-events is {told[1].decode()!r})",
            "Engines that die are noticed a little later, and so are foreign writes. Engines set it themselves, where they may.",
            f"CONFIG SET notify-keyspace-events {told[1].decode()}{''.join(missing)}",
        )
    ]


async def _clock(connection: Sending) -> list[Finding]:
    before = time.time()
    seconds, microseconds = await connection.send(b"TIME")
    theirs = int(seconds) + int(microseconds) / 1_000_000
    skew = theirs - (before + time.time()) / 2
    if abs(skew) < SKEW_SECONDS + (time.time() - before):
        return []
    return [
        Finding(
            "warning",
            "clock-skew",
            f"Redis's clock shows {abs(skew):.0f} s {'more' if skew > 0 else 'less'} than the one here",
            "Ages that are shown are wrong by that. Deadlines and heartbeats go by the fleet's own time.",
            "Have both machines keep time (NTP)",
        )
    ]


async def of_scripts(socket: Carrier) -> list[Finding]:
    """Whether the scripts of this version are there."""
    scripts = [script(name) for name in names()]
    (there,) = await socket.ask((b"SCRIPT", b"EXISTS", *(each.sha1 for each in scripts)))
    missing = [each.name for each, is_there in zip(scripts, there, strict=True) if not is_there] if isinstance(there, list) else []
    if not missing:
        return []
    return [
        Finding(
            "note",
            "scripts-missing",
            f"{len(missing)} of the {len(scripts)} scripts of this version are not loaded",
            "Engines load what they miss with their first call; of other versions they have others.",
            "Nothing has to be done; iii-state lua-load does it ahead of a rollout",
        )
    ]
