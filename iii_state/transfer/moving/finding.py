"""What there is in a store: scopes, queues and planned attempts, found by going through the keys of its servers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.keyspace.scan import KEYS_PER_STEP, escaped
from iii_state.transfer.moving.part import Part
from iii_state.transfer.moving.parted import PartedStore

PAGE = b"1000"

_OF_SCOPES = (b"deadlines:", b"history:", b"revisions:")
_OF_QUEUES = (b"sub:", b"q:", b"busy:", b"dead:")


@dataclass
class Found:
    """What a store holds. Parts are told by their numbers."""

    scopes: set[bytes] = field(default_factory=set)
    """Those with values, deadlines or a change log."""
    queues: set[bytes] = field(default_factory=set)
    lanes: dict[tuple[int, bytes], list[bytes]] = field(default_factory=lambda: defaultdict(list))
    """Of a part and a queue: the lanes in which events wait behind others."""
    planned: dict[tuple[int, bytes], dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))
    """Of a part and a queue: the entries whose next attempt is planned, and when that is due, as Redis writes it."""
    routes: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    """Of a part: the routes, and the settings beside them."""
    aside: int = 0
    """Keys that were moved aside since they were in the way of one of ours: these stay."""


async def find(store: PartedStore) -> Found:
    """Go through all of it. Raises `StoreError`."""
    found = Found()
    parts = {part.keys.values(b"")[: -len(b"state:")]: part for part in store.parts}
    await asyncio.gather(*(_find_keys(master, store, parts, found) for master in store.masters()))
    for part in store.parts:
        found.routes[part.number] = dict(await pairs(part, b"HSCAN", part.keys.routes))
        found.queues.update(queue for queue in found.routes[part.number] if not queue.startswith(b":"))
        for member, due in await pairs(part, b"ZSCAN", part.keys.later):
            queue, _, entry_id = member.rpartition(b":")
            found.planned[part.number, queue][entry_id] = due
            found.queues.add(queue)
    return found


async def _find_keys(master: Part, store: PartedStore, parts: dict[bytes, Part], found: Found) -> None:
    any_tag = b"" if store.layout is None else b"{iii-*}:"
    async for name in _names(master, any_tag + b"state:*", b"TYPE", b"hash"):
        tag, _, scope = name.partition(b"state:") if store.layout is not None else (b"", b"", name[len(b"state:") :])
        if tag in parts:
            found.scopes.add(scope)
    own = parts[next(iter(parts))].keys
    prefix = own_name(own)[len(own.values(b"")) - len(b"state:") :]
    async for name in _names(master, any_tag + escaped(prefix) + b"*"):
        tag = name.partition(b"}:")[0] + b"}:" if store.layout is not None else b""
        if tag in parts:
            _take(parts[tag].number, name[len(tag) + len(prefix) :], found)


def own_name(keys: Keys, name: bytes = b"") -> bytes:
    """The name of a key of ours; what all of them begin with."""
    return keys.store.removesuffix(b"store") + name


def _take(part: int, name: bytes, found: Found) -> None:
    if Keys.is_aside(name):
        found.aside += 1
        return
    for beginning in _OF_SCOPES:
        if name.startswith(beginning):
            found.scopes.add(name[len(beginning) :])
            return
    for beginning in _OF_QUEUES:
        if name.startswith(beginning):
            found.queues.add(name[len(beginning) :])
            return
    if name.startswith(b"wait:"):
        queue, _, lane = name[len(b"wait:") :].partition(b":")
        found.queues.add(queue)
        found.lanes[part, queue].append(lane)


async def _names(master: Part, pattern: bytes, *more: bytes) -> AsyncIterator[bytes]:
    cursor = b"0"
    while True:
        cursor, page = await master.ask(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % KEYS_PER_STEP, *more)
        for name in page:
            yield name
        if cursor == b"0":
            return


async def pairs(part: Part, command: bytes, key: bytes) -> list[tuple[bytes, bytes]]:
    """All of a hash, or of a sorted set, page by page."""
    found: dict[bytes, bytes] = {}
    cursor = b"0"
    while True:
        cursor, page = await part.ask(command, key, cursor, b"COUNT", PAGE)
        found.update(zip(page[::2], page[1::2], strict=True))
        if cursor == b"0":
            return list(found.items())
