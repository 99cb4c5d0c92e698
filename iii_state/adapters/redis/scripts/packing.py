"""The bytes of a mutation's call, put together from parts that are the same from call to call.

The general way is `pack` of `mutations.mutation`; this one is for calls without queues, which are most, and gives the same
bytes in a third of the time (`tests/adapters/redis/test_packing.py`, `scripts/benchmarks/redis_connection.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import hiredis

from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.loader import Script

pack: Callable[[tuple[bytes, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # hiredis types it as a tuple of one
"""The bytes of a command."""

FIXED_WORDS = 14
"""Words of a mutation without queues before its own arguments: EVALSHA, digest, number of keys, 5 keys, 6 arguments. In a
cluster there is one key more."""


def packed(words: Sequence[bytes]) -> bytes:
    """Words as a part of a command, without its head."""
    if len(words) == 1:
        return b"$%d\r\n%b\r\n" % (len(words[0]), words[0])
    return pack(tuple(words))[len(b"*%d\r\n" % len(words)) :] if words else b""


PlainChange = tuple[bytes, bytes, bytes, int, int, bytes, int]
"""One of the changes of `values/change_many`: its letter, scope, key, slot, sequence number, and its own arguments, packed, with
how many they are."""


class Packing:
    """Puts calls of one engine together. Not for calls whose event goes to queues."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        guard = () if keys.guard is None else (keys.guard,)
        self._guard = guard
        self._words = FIXED_WORDS + len(guard)
        self._count = b"%d" % (5 + len(guard))
        self._heads: dict[bytes, bytes] = {}
        self._slots: list[bytes] = []
        self._session = b""
        self._epoch = 0
        self._middle = b""

    def mutation(
        self,
        script: Script,
        values_key: bytes,
        session: bytes,
        epoch: int,
        slot: int,
        sequence: int,
        routes_version: int,
        scope: bytes,
        key: bytes,
        own: bytes,
        own_words: int,
    ) -> bytes:
        """The bytes of EVALSHA. `own` are the command's own arguments, packed, and `own_words` how many they are."""
        digest = script.sha1
        head = self._heads.get(digest)
        if head is None:
            head = self._heads[digest] = packed((b"EVALSHA", digest, self._count))
        if epoch != self._epoch or session != self._session:
            self._session, self._epoch = session, epoch
            keys = self._keys
            names = (keys.scopes, keys.session(session), keys.routes_version, keys.routes_log, *self._guard)
            self._middle = packed((*names, b"%d" % epoch))
        while slot >= len(self._slots):
            self._slots.append(packed((b"%d" % len(self._slots),)))
        number, version = b"%d" % sequence, b"%d" % routes_version
        return b"*%d\r\n%b$%d\r\n%b\r\n%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (
            self._words + own_words,
            head,
            len(values_key),
            values_key,
            self._middle,
            self._slots[slot],
            len(number),
            number,
            len(version),
            version,
            len(scope),
            scope,
            len(key),
            key,
            own,
        )

    def changes(self, script: Script, session: bytes, epoch: int, routes_version: int, changes: Sequence[PlainChange]) -> bytes:
        """The bytes of EVALSHA of `values/change_many`."""
        keys, slots = self._keys, self._slots
        places: dict[bytes, bytes] = {}
        words = 6 * len(changes)
        parts = []
        for kind, scope, key, slot, sequence, own, own_words in changes:
            if (place := places.get(scope)) is None:
                place = places[scope] = packed((b"%d" % (len(places) + 1),))
            while slot >= len(slots):
                slots.append(packed((b"%d" % len(slots),)))
            number, count = b"%d" % sequence, b"%d" % own_words
            parts.append(
                b"$1\r\n%b\r\n%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b"
                % (kind, slots[slot], len(number), number, place, len(key), key, len(count), count, own)
            )
            words += own_words
        head = (
            *(b"EVALSHA", script.sha1, b"%d" % (4 + len(places) + len(self._guard))),
            *(keys.scopes, keys.session(session), keys.routes_version, keys.routes_log),
            *(*map(keys.values, places), *self._guard),
            *(b"%d" % epoch, b"%d" % routes_version, b"%d" % len(changes), *places),
        )
        return b"*%d\r\n%b%b" % (len(head) + words, packed(head), b"".join(parts))
