"""What other programs do to the Redis of the engines: they write values, and damage keys."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.torture.journal import Journal
from tests.torture.writes import OTHER_KEYS, OUTSIDE, Op, applied

PAUSE_SECONDS = (0.0, 0.4)
PREFIX = "iii-state:"

PATTERNS = ("q:{queue}", "busy:{queue}", "wait:{queue}:*")
"""The keys of a queue that are damaged."""

Write = Callable[[str, str | None], bool]
"""Sets a key of the scope `OUTSIDE`, or deletes it, and tells whether that is certain to stay. Raises `redis.RedisError`."""


def writing_to(port: int) -> Write:
    """Writes to one Redis."""

    def write(key: str, text: str | None) -> bool:
        with client_of(port) as client:
            hset_or_hdel(client, f"state:{OUTSIDE}", key, text)
        return True

    return write


def client_of(port: int) -> redis.Redis:
    """A client that makes nothing again: a write would be two."""
    return redis.Redis(port=port, socket_timeout=5, retry=Retry(NoBackoff(), 0))


def hset_or_hdel(client: redis.Redis, name: str, key: str, text: str | None) -> None:
    """Write a field of a hash, or delete it."""
    if text is None:
        client.hdel(name, key)
    else:
        client.hset(name, key, text)


async def write_as_another_program(stopped: asyncio.Event, write: Write, seed: int, directory: Path) -> None:
    """Set and delete values straight in Redis, one after the other."""
    chance = random.Random(f"{seed} another program")
    journal = Journal(directory / "writes-foreign.jsonl")
    number = 0
    while not stopped.is_set():
        await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))
        number += 1
        deletes = chance.random() < 0.25
        op = Op(f"foreign.{number}", f"foreign {'delete' if deletes else 'set'}", OUTSIDE, chance.choice(OTHER_KEYS[OUTSIDE]))
        journal.note(**op.note())
        try:
            is_certain = await asyncio.to_thread(write, op.key, None if deletes else json.dumps(applied("set", op.id, None)))
        except redis.RedisError as error:
            journal.note(answered=op.id, outcome="unknown", error=str(error))
        else:
            journal.note(answered=op.id, outcome="ok" if is_certain else "unknown")
    journal.close()


def damage(client: redis.Redis, verb: str, target: int, function_id: str, prefix: str = PREFIX) -> None:
    """Damage some of the keys of the queue of a function."""
    for queue in _queues(client, function_id, prefix):
        for name in list(client.scan_iter(prefix + PATTERNS[target].format(queue=queue), count=1000)):
            _VERBS[verb](client, cast(bytes, name))


def _delete(client: redis.Redis, name: bytes) -> None:
    client.delete(name)


def _rename(client: redis.Redis, name: bytes) -> None:
    elsewhere = name + b"-elsewhere"
    try:
        client.rename(name, elsewhere)
    except redis.ResponseError:  # it has just gone by itself
        return
    client.delete(elsewhere)


def _replace(client: redis.Redis, name: bytes) -> None:
    client.delete(name)
    client.set(name, "in the way")


_VERBS: dict[str, Callable[[redis.Redis, bytes], None]] = {"delete": _delete, "rename": _rename, "replace": _replace}


def _queues(client: redis.Redis, function_id: str, prefix: str) -> Iterator[str]:
    for name in client.scan_iter(f"{prefix}sub:*", count=1000):
        settings = cast("bytes | None", client.hget(name, "settings"))
        if settings is not None and json.loads(settings)["function_id"] == function_id:
            yield cast(bytes, name).decode().rpartition(":")[2]


def counted_as_lost(client: redis.Redis, prefix: str = PREFIX) -> dict[str, int]:
    """Of each function, how many of its events the engines say are lost."""
    lost: dict[str, int] = {}
    for name in client.scan_iter(f"{prefix}sub:*", count=1000):
        fields = cast("dict[bytes, Any]", client.hgetall(name))
        if b"settings" in fields and b"lost" in fields:
            function_id = json.loads(fields[b"settings"])["function_id"]
            lost[function_id] = lost.get(function_id, 0) + int(fields[b"lost"])
    return lost
