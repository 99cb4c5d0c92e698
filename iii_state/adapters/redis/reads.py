"""The calls that read values at their keys, each at one instant."""

from __future__ import annotations

from collections.abc import Sequence

from iii_state.adapters.base import Reading
from iii_state.adapters.redis.connection.call import RedisCall, Reply
from iii_state.adapters.redis.mutations.foreign_text import checked, is_ours
from iii_state.adapters.redis.scripts.loader import Scripts
from iii_state.adapters.redis.scripts.packing import pack


class Get(RedisCall[bytes | None]):
    """Reads one value. `names` are its key in Redis, and those of its scope's deadlines and of the clock where it has any."""

    __slots__ = ("_key", "_names", "_scripts")

    scope: str

    def __init__(self, scope: str, key: str, names: tuple[bytes, ...], scripts: Scripts) -> None:
        super().__init__(scope=scope)
        self._key = key
        self._names = names
        self._scripts = scripts

    def command(self, session: bytes, epoch: int) -> bytes:
        if len(self._names) == 1:
            return pack((b"HGET", self._names[0], self._key.encode()))
        return pack((b"EVALSHA", self._scripts.of("values/get").sha1, b"3", *self._names, self._key.encode()))

    def result(self, reply: Reply) -> bytes | None:
        if reply is None or is_ours(reply):
            return reply  # type: ignore[no-any-return]
        return checked(self.scope, self._key, reply)


class Read(RedisCall[Reading]):
    """Reads one value, what is left of its time, and its revision. `names` are as of `Get`, or, of a scope whose change log has a
    `generation`, all of those and that of its revisions."""

    __slots__ = ("_generation", "_key", "_names", "_scripts")

    scope: str

    def __init__(self, scope: str, key: str, names: tuple[bytes, ...], scripts: Scripts, generation: bytes | None) -> None:
        super().__init__(scope=scope)
        self._key = key
        self._names = names
        self._scripts = scripts
        self._generation = generation

    def command(self, session: bytes, epoch: int) -> bytes:
        if len(self._names) == 1:
            return pack((b"HGET", self._names[0], self._key.encode()))
        words = (self._key.encode(), b"1") if self._generation is None else (self._key.encode(), b"1", self._generation)
        return pack((b"EVALSHA", self._scripts.of("values/get").sha1, b"%d" % len(self._names), *self._names, *words))

    def result(self, reply: Reply) -> Reading:
        text, ttl_ms, revision = (reply, None, None) if len(self._names) == 1 else reply
        if text is None:
            return Reading(None)
        return Reading(text if is_ours(text) else checked(self.scope, self._key, text), ttl_ms, revision)


class GetMany(RedisCall[list[bytes | None]]):
    """Reads several values of a scope, as `Get` reads one."""

    __slots__ = ("_keys", "_names", "_scripts")

    scope: str

    def __init__(self, scope: str, keys: Sequence[str], names: tuple[bytes, ...], scripts: Scripts) -> None:
        super().__init__(scope=scope)
        self._keys = keys
        self._names = names
        self._scripts = scripts

    def command(self, session: bytes, epoch: int) -> bytes:
        keys = [key.encode() for key in self._keys]
        if len(self._names) == 1:
            return pack((b"HMGET", self._names[0], *keys))
        return pack((b"EVALSHA", self._scripts.of("values/get_many").sha1, b"3", *self._names, *keys))

    def result(self, reply: Reply) -> list[bytes | None]:
        pairs = zip(self._keys, reply, strict=True)
        return [text if text is None or is_ours(text) else checked(self.scope, key, text) for key, text in pairs]
