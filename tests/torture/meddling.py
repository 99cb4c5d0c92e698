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
ELSEWHERE = "torture-elsewhere"

PATTERNS = ("q:{queue}", "busy:{queue}", "wait:{queue}:*")
"""The keys of a queue that are damaged."""


async def write_as_another_program(stopped: asyncio.Event, port: int, seed: int, directory: Path) -> None:
    """Set and delete values straight in Redis, one after the other."""
    chance = random.Random(f"{seed} another program")
    journal = Journal(directory / "writes-foreign.jsonl")
    client = redis.Redis(port=port, socket_timeout=5, retry=Retry(NoBackoff(), 0))  # made again, a write would be two
    number = 0
    while not stopped.is_set():
        await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))
        number += 1
        deletes = chance.random() < 0.25
        op = Op(f"foreign.{number}", f"foreign {'delete' if deletes else 'set'}", OUTSIDE, chance.choice(OTHER_KEYS[OUTSIDE]))
        journal.note(**op.note())
        name = f"state:{OUTSIDE}"
        text = json.dumps(applied("set", op.id, None))
        try:
            if deletes:
                await asyncio.to_thread(client.hdel, name, op.key)
            else:
                await asyncio.to_thread(client.hset, name, op.key, text)
        except redis.RedisError as error:
            journal.note(answered=op.id, outcome="unknown", error=str(error))
        else:
            journal.note(answered=op.id, outcome="ok")
    client.close()
    journal.close()


def damage(client: redis.Redis, verb: str, target: int, function_id: str) -> None:
    """Damage some of the keys of the queue of a function."""
    for queue in _queues(client, function_id):
        for name in list(client.scan_iter("iii-state:" + PATTERNS[target].format(queue=queue), count=1000)):
            _VERBS[verb](client, cast(bytes, name))


def _delete(client: redis.Redis, name: bytes) -> None:
    client.delete(name)


def _rename(client: redis.Redis, name: bytes) -> None:
    try:
        client.rename(name, ELSEWHERE)
    except redis.ResponseError:  # it has just gone by itself
        return
    client.delete(ELSEWHERE)


def _replace(client: redis.Redis, name: bytes) -> None:
    client.delete(name)
    client.set(name, "in the way")


_VERBS: dict[str, Callable[[redis.Redis, bytes], None]] = {"delete": _delete, "rename": _rename, "replace": _replace}


def _queues(client: redis.Redis, function_id: str) -> Iterator[str]:
    for name in client.scan_iter("iii-state:sub:*", count=1000):
        settings = cast("bytes | None", client.hget(name, "settings"))
        if settings is not None and json.loads(settings)["function_id"] == function_id:
            yield cast(bytes, name).decode().rpartition(":")[2]


def counted_as_lost(client: redis.Redis) -> dict[str, int]:
    """Of each function, how many of its events the engines say are lost."""
    lost: dict[str, int] = {}
    for name in client.scan_iter("iii-state:sub:*", count=1000):
        fields = cast("dict[bytes, Any]", client.hgetall(name))
        if b"settings" in fields and b"lost" in fields:
            function_id = json.loads(fields[b"settings"])["function_id"]
            lost[function_id] = lost.get(function_id, 0) + int(fields[b"lost"])
    return lost
