"""Going through the keys of a database, and through the set of scopes, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from iii_state.adapters.redis.keys import Keys

Send = Callable[..., Awaitable[Any]]
"""Sends one command and gives its reply; raises `StoreError`."""


KEYS_PER_STEP = 1000


async def hashes(send: Send, beginning: bytes) -> AsyncIterator[list[bytes]]:
    """The names of all hashes that begin so, page by page; a page may be empty."""
    cursor, pattern = b"0", escaped(beginning) + b"*"
    while True:
        cursor, page = await send(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % KEYS_PER_STEP, b"TYPE", b"hash")
        yield page
        if cursor == b"0":
            return


async def all_scopes(keys: Keys, send: Send) -> AsyncIterator[list[bytes]]:
    """The set of scopes, page by page; one may come twice."""
    cursor = b"0"
    while True:
        cursor, page = await send(b"SSCAN", keys.scopes, cursor, b"COUNT", b"%d" % KEYS_PER_STEP)
        yield page
        if cursor == b"0":
            return


def escaped(text: bytes) -> bytes:
    """A text as a pattern that matches nothing else."""
    for special in b"\\*?[]":
        text = text.replace(bytes((special,)), b"\\%c" % special)
    return text


def is_text(*names: bytes) -> bool:
    """Whether all of these are UTF-8."""
    try:
        for name in names:
            name.decode()
    except UnicodeDecodeError:
        return False
    return True
