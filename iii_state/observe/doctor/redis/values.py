"""The values: those that are no JSON, those that another program has written, and large ones; and scopes that are not listed."""

from __future__ import annotations

from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.keyspace.scan import hashes
from iii_state.adapters.redis.mutations.foreign_text import stored_form
from iii_state.adapters.redis.scripts.inspections import inspect_values
from iii_state.errors import InvalidValue, StoreError
from iii_state.observe.doctor.findings import Finding, Progress, counted, named, size

LARGE_BYTES = 1024 * 1024
READ_BYTES = 4 * 1024 * 1024
"""So much is looked at by one call, as far as can be guessed."""

MOST_AT_ONCE = 500


class ValueLook:
    """Looks at every value. Texts that begin and end as this module writes them stay in Redis."""

    def __init__(self, connection: RedisConnection, keys: Keys, progress: Progress) -> None:
        self._connection = connection
        self._keys = keys
        self._progress = progress
        self._count = MOST_AT_ONCE // 10
        self.values = 0
        self.unreadable: list[str] = []
        self.unframed: list[str] = []
        self.large: list[tuple[int, str]] = []
        self.unlisted: list[str] = []
        self.other_types: list[str] = []

    async def look(self) -> list[Finding]:
        """Look at all."""
        scopes = 0
        async for page in hashes(self._connection.send, self._keys.values(b"")):
            names = [scope for name in page if (scope := self._keys.scope_of(name)) is not None]
            if names:
                listed = await self._connection.send(b"SMISMEMBER", self._keys.scopes, *names)
                self.unlisted += [_name(scope) for scope, is_listed in zip(names, listed, strict=True) if not is_listed]
            for scope in names:
                await self._look_at(scope)
            scopes += len(names)
            self._progress(f"{self.values:,} values in {scopes:,} scopes")
        return self._findings()

    async def _look_at(self, scope: bytes) -> None:
        cursor = b"0"
        while True:
            call = inspect_values(self._keys.values(scope), cursor, self._count, LARGE_BYTES)
            try:
                cursor, count, read, large, others = await self._connection.run("repair/inspect_values", call)
            except StoreError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                return  # it has been replaced meanwhile
            self.values += count
            self._count = max(1, min(MOST_AT_ONCE, READ_BYTES * max(1, count) // max(1, read)))
            self.large += [(length, f"{_name(scope)} {_name(key)} ({size(length)})") for key, length in large]
            for key, text in others:
                self._judge(f"{_name(scope)} {_name(key)}", text)
            if cursor == b"0":
                return

    def _judge(self, place: str, text: bytes) -> None:
        try:
            stored = stored_form(text)
        except InvalidValue as error:
            self.unreadable.append(f"{place}: {error}")
            return
        if stored.startswith(b"{") and stored != text:
            self.unframed.append(place)

    def _findings(self) -> list[Finding]:
        found = []
        if self.unreadable:
            found.append(
                Finding(
                    "fault",
                    "values-unreadable",
                    f"{counted(len(self.unreadable), 'value is', 'values are')} no JSON: {named(self.unreadable)}",
                    "Another program has written them, or damaged them: get, list and update of them fail.",
                    "Set or delete them (iii-state set, iii-state delete); find the program (CLIENT LIST)",
                )
            )
        if self.unframed:
            found.append(
                Finding(
                    "note",
                    "values-unframed",
                    f"{len(self.unframed):,} objects were written by another program: {named(self.unframed)}",
                    "They are read all the same, and checked each time; the first update brings each into the form that is fast.",
                    "Nothing has to be done",
                )
            )
        if self.large:
            self.large.sort(reverse=True)
            found.append(
                Finding(
                    "warning",
                    "values-large",
                    f"{counted(len(self.large), 'value is', 'values are')} larger than {size(LARGE_BYTES)}: "
                    f"{named([name for _, name in self.large])}",
                    "Each update moves the whole value, its event holds it twice, and all other callers of Redis wait meanwhile.",
                    "Split them into several keys; max_value_bytes bounds them",
                )
            )
        if self.unlisted:
            found.append(
                Finding(
                    "note",
                    "scopes-unlisted",
                    f"{len(self.unlisted):,} scopes are not in the list of scopes: {named(self.unlisted)}",
                    "Another program has made them; engines find them by and by.",
                    "Nothing has to be done while an engine runs",
                )
            )
        return found


def _name(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))
