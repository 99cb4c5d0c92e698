"""A way to a Redis on which each call of a script may touch the keys that it names, its channels among them, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import hiredis
import redis.asyncio

from iii_state.adapters.redis.scripts.packing import pack

EVERYTHING = (b"allkeys", b"allchannels")
_LISTENS = (b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE")


class LeastRights:
    """Passes on what clients send, one command after the other, each connection under a user of its own.

    Args:
        target: the port of the Redis.
        admin: a client that may change its users.
    """

    def __init__(self, target: int, admin: Any) -> None:
        self.port = 0
        self.refused: dict[bytes, set[str]] = {}
        """By a script's SHA-1: the keys and channels that it has touched although its call did not name them."""
        self.called: set[bytes] = set()
        """The SHA-1 of each script that has been called."""
        self._target = target
        self._admin = admin
        self._numbers = count()
        self._one_at_a_time = asyncio.Lock()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        user = b"limited%d" % next(self._numbers)
        server_reader, server = await asyncio.open_connection("127.0.0.1", self._target, limit=2**24)
        try:
            await self._admin.execute_command("ACL", "SETUSER", user, "on", "nopass", "+@all", *EVERYTHING)
            server.write(pack((b"AUTH", user, b"")))
            assert await server_reader.readline() == b"+OK\r\n"
            requests, replies = hiredis.Reader(), hiredis.Reader()
            while data := await reader.read(65536):
                requests.feed(data)
                while (words := requests.gets()) is not False:
                    if words[0].upper() in _LISTENS:
                        while words is not False:
                            server.write(pack(tuple(words)))
                            words = requests.gets()
                        await asyncio.gather(_copy(reader, server), _copy(server_reader, writer))
                        return
                    async with self._one_at_a_time:
                        await self._limit(user, words)
                        server.write(pack(tuple(words)))
                        await _one_reply(server_reader, writer, replies)
                        await self._look(user, words)
        except (ConnectionError, RuntimeError, asyncio.IncompleteReadError):
            pass
        finally:
            server.close()
            writer.close()

    async def _limit(self, user: bytes, words: list[bytes]) -> None:
        if words[0].upper() == b"EVALSHA":
            self.called.add(words[1])
            names = [_pattern(key) for key in words[3 : 3 + int(words[2])]]
            rights = [b"resetkeys", b"resetchannels", *(sign + name for name in names for sign in (b"~", b"&"))]
        else:
            rights = list(EVERYTHING)
        await self._admin.execute_command("ACL", "SETUSER", user, *rights)

    async def _look(self, user: bytes, words: list[bytes]) -> None:
        if words[0].upper() != b"EVALSHA":
            return
        for refusal in await self._admin.acl_log():
            if refusal["username"] == user.decode():
                self.refused.setdefault(words[1], set()).add(refusal["object"])
        await self._admin.acl_log_reset()


def _pattern(name: bytes) -> bytes:
    """A pattern that a key matches, and that has no blank, since that would end it: any one character stands there."""
    return re.sub(rb"[\s\0]", b"?", re.sub(rb"([*?\[\]\\^-])", rb"\\\1", name))


async def _one_reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: hiredis.Reader) -> None:
    while replies.gets() is False:
        data = await reader.read(65536)
        if not data:
            raise ConnectionResetError
        replies.feed(data)
        writer.write(data)


async def _copy(source: asyncio.StreamReader, drain: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, RuntimeError):
        while data := await source.read(65536):
            drain.write(data)
    drain.close()


@asynccontextmanager
async def least_rights(port: int) -> AsyncIterator[LeastRights]:
    """That way to the Redis at a port, for the length of a block."""
    async with redis.asyncio.Redis(port=port, protocol=2) as admin:
        way = LeastRights(port, admin)
        server = await asyncio.start_server(way.accept, "127.0.0.1", 0)
        way.port = server.sockets[0].getsockname()[1]
        try:
            yield way
        finally:
            server.close()
