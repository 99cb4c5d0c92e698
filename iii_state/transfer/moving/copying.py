"""Copies of single keys of Redis, page by page: the new one is as the old one was, in any version of Redis or Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from iii_state.transfer.moving.part import Part

PAGE_BYTES = 1_000_000
FIRST_COUNT, MOST_COUNT = 50, 10_000


class KeyPlace(NamedTuple):
    """A key in a part."""

    part: Part
    key: bytes


class Paging:
    """How many items the next page has: about `PAGE_BYTES`, as far as the pages before it tell."""

    def __init__(self) -> None:
        self.count = FIRST_COUNT

    def took(self, count: int, size: int) -> None:
        """A page had so many items, of so many bytes."""
        wanted = MOST_COUNT if size == 0 else PAGE_BYTES * count // size
        self.count = max(1, min(MOST_COUNT, wanted, 4 * self.count))


async def copy_hash(source: KeyPlace, target: KeyPlace) -> int:
    """Copy a hash over whatever the target is; answers how many fields there were."""
    await target.part.ask(b"UNLINK", target.key)
    cursor, paging = b"0", Paging()
    while True:
        cursor, page = await source.part.ask(b"HSCAN", source.key, cursor, b"COUNT", b"%d" % paging.count)
        paging.took(len(page) // 2, sum(map(len, page)))
        if page:
            await target.part.ask(b"HSET", target.key, *page)
        if cursor == b"0":
            break
    return int(await target.part.ask(b"HLEN", target.key))


async def copy_sorted_set(source: KeyPlace, target: KeyPlace, shift: int = 0) -> int:
    """Copy a sorted set over whatever the target is, with `shift` added to all scores; answers how many members there were."""
    await target.part.ask(b"UNLINK", target.key)
    cursor = b"0"
    while True:
        cursor, page = await source.part.ask(b"ZSCAN", source.key, cursor, b"COUNT", b"1000")
        if page:
            words = [word for member, score in zip(page[::2], page[1::2], strict=True) for word in (shifted(score, shift), member)]
            await target.part.ask(b"ZADD", target.key, *words)
        if cursor == b"0":
            break
    return int(await target.part.ask(b"ZCARD", target.key))


async def copy_stream(source: KeyPlace, target: KeyPlace) -> int:
    """Copy a stream without groups over whatever the target is, with its ids; answers how many entries there were."""
    await target.part.ask(b"UNLINK", target.key)
    count = 0
    async for entries in entries_of(source):
        await target.part.all([(b"XADD", target.key, entry_id, *fields) for entry_id, fields in entries])
        count += len(entries)
    if count:
        await target.part.ask(b"XSETID", target.key, await _last_id(source))
    return count


async def _last_id(source: KeyPlace) -> bytes:
    told = await source.part.ask(b"XINFO", b"STREAM", source.key)
    last: bytes = dict(zip(told[::2], told[1::2], strict=True))[b"last-generated-id"]
    return last


async def entries_of(source: KeyPlace) -> AsyncIterator[Sequence[tuple[bytes, list[bytes]]]]:
    """The entries of a stream, page by page: ids and fields."""
    start, paging = b"-", Paging()
    while True:
        page = await source.part.ask(b"XRANGE", source.key, start, b"+", b"COUNT", b"%d" % paging.count)
        if not page:
            return
        asked = paging.count
        paging.took(len(page), sum(len(word) for _, fields in page for word in fields))
        yield page
        if len(page) < asked:
            return
        start = b"(" + page[-1][0]


def shifted(score: bytes, shift: int) -> bytes:
    """A score, as Redis writes it, and so many milliseconds more."""
    return score if shift == 0 else b"%b" % repr(float(score) + shift).encode()
