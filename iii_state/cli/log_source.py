"""A scope's values and its change log as a running engine has them, for `iii-state history` and `watch`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.cli.calls import request
from iii_state.client.client import Client
from iii_state.client.following import NO_PAGE, Followed, FollowedPage
from iii_state.errors import Code, FunctionError


class _Change(msgspec.Struct):
    revision: int
    at_ms: int
    event: Raw


class _Page(msgspec.Struct):
    changes: list[_Change]
    next_after: str
    first: int


class _Entries(msgspec.Struct):
    entries: list[tuple[str, Raw]]
    next_cursor: str | None


class _Keys(msgspec.Struct):
    keys: list[str]


class _Meta(msgspec.Struct):
    value: Raw
    etag: str | None


class _Event(msgspec.Struct):
    event_type: str
    key: str
    new_value: Raw


_page = msgspec.json.Decoder(_Page)
_entries = msgspec.json.Decoder(_Entries)
_keys = msgspec.json.Decoder(_Keys)
_meta = msgspec.json.Decoder(_Meta)
_event = msgspec.json.Decoder(_Event)


class LogSource:
    """See `following.ScopeSource`. Values and events are JSON text as the engine has sent it."""

    def __init__(self, client: Client, scope: str, key: str | None) -> None:
        self._client = client
        self._scope = scope
        self._key = key

    async def page(self, after: str | None, limit: int) -> FollowedPage:
        asked = request(scope=self._scope, key=self._key, after=after, limit=limit)
        try:
            found = _page.decode(await self._client.call("state::history", asked) or b"{}")
        except FunctionError as error:
            if error.code != Code.FUNCTION_NOT_FOUND:
                raise
            raise FunctionError(Code.UNSUPPORTED, "this engine has no change logs (feature `history`)") from None
        return FollowedPage([self._seen(change, found.next_after) for change in found.changes], found.next_after, found.first)

    async def present(self) -> AsyncIterator[tuple[str, Raw]]:
        if self._key is not None:
            async for found in self._values_at([self._key]):
                yield found
            return
        cursor = None
        told = set()
        while True:
            asked = request(scope=self._scope, cursor=cursor, limit=1000, max_bytes=8_000_000)
            try:
                page = _entries.decode(await self._client.call("state::list_entries", asked) or b"{}")
            except FunctionError as error:
                if error.code not in NO_PAGE:
                    raise
                break
            for key, value in page.entries:
                told.add(key)
                yield key, value
            if page.next_cursor is None:
                return
            cursor = page.next_cursor
        listed = _keys.decode(await self._client.call("state::list_keys", request(scope=self._scope)) or b"{}")
        async for found in self._values_at([key for key in listed.keys if key not in told]):
            yield found

    async def _values_at(self, keys: list[str]) -> AsyncIterator[tuple[str, Raw]]:
        """Those that are there, each as it is when it is read."""
        for key in keys:
            asked = request(scope=self._scope, key=key, meta=True)
            found = _meta.decode(await self._client.call("state::get", asked) or b"{}")
            if found.etag is not None:
                yield key, found.value

    def event_of(self, seen: Followed) -> Raw:
        members = {"type": b'"state"', "event_type": b'"state:created"', "scope": values.encode_string(self._scope)}
        members |= {"key": values.encode_string(seen.key), "old_value": b"null", "new_value": bytes(seen.value)}
        return Raw(values.compact_members(members))

    def _seen(self, change: _Change, next_after: str) -> Followed:
        event = _event.decode(change.event)
        after = f"{next_after.rpartition(':')[0]}:{change.revision}"
        is_there = event.event_type != "state:deleted"
        return Followed(event.key, is_there, event.new_value, change.event, after, change.revision, change.at_ms)
