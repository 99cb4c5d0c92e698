"""A scope's values and its change log as an engine in the same process has them, for `State.watch`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

from iii_state.client.following import NO_PAGE, Followed, FollowedPage, Following, Woken
from iii_state.errors import Code, FunctionError
from iii_state.events import known_cause
from iii_state.state.handlers import Event

PAGE_BYTES = 8_000_000


class FollowedScope:
    """What a watch reads of a scope, or of one of its keys. `call` calls `state::<name>` with the members of a payload.

    It is the source of its own `Following`: values and events are Python objects.
    """

    def __init__(self, call: Callable[..., Awaitable[Any]], scope: str, key: str | None, log: Following) -> None:
        self._call = call
        self._scope = scope
        self._key = {} if key is None else {"key": key}
        self._log = log

    @property
    def position(self) -> str | None:
        """Up to here everything has been handed out."""
        return self._log.position

    async def begin(self) -> None:
        """Find out where to begin. Raises `FunctionError`: `COMPACTED`, `HISTORY_ERROR` for a scope without a change log."""
        await self._log.begin(self)

    async def next(self, woken: Woken) -> Event | None:
        """The next event, None when it is over. Raises `FunctionError`: `COMPACTED` where what follows is kept no more."""
        seen = await self._log.next(self, woken)
        return None if seen is None else seen.event

    # -- as a source

    async def page(self, after: str | None, limit: int) -> FollowedPage:
        """See `following.ScopeSource`."""
        given = {} if after is None else {"after": after}
        try:
            page = await self._call("history", scope=self._scope, limit=limit, **self._key, **given)
        except FunctionError as error:
            if error.code != Code.FUNCTION_NOT_FOUND:
                raise
            raise FunctionError(Code.UNSUPPORTED, "this engine has no change logs (feature `history`)") from None
        changes = [self._seen(change, page["next_after"]) for change in page["changes"]]
        return FollowedPage(changes, page["next_after"], page["first"])

    async def present(self) -> AsyncIterator[tuple[str, Any]]:
        """See `following.ScopeSource`."""
        if self._key:
            async for found in self._values_at(self._key["key"]):
                yield found
            return
        cursor: dict[str, str] = {}
        told = set()
        while True:
            try:
                page = await self._call("list_entries", scope=self._scope, limit=1000, max_bytes=PAGE_BYTES, **cursor)
            except FunctionError as error:
                if error.code not in NO_PAGE:
                    raise
                break
            for key, value in page["entries"]:
                told.add(key)
                yield key, value
            if page["done"]:
                return
            cursor["cursor"] = page["next_cursor"]
        async for found in self._values_at(*(await self._call("list_keys", scope=self._scope))["keys"], besides=told):
            yield found

    async def _values_at(self, *keys: str, besides: Collection[str] = ()) -> AsyncIterator[tuple[str, Any]]:
        """Those that are there, each as it is when it is read."""
        for key in keys:
            if key not in besides:
                found = await self._call("get", scope=self._scope, key=key, meta=True)
                if found["etag"] is not None:
                    yield key, found["value"]

    def event_of(self, seen: Followed) -> Event:
        """See `following.ScopeSource`."""
        return Event(self._scope, seen.key, "state:created", None, seen.value, after=seen.after)

    def _seen(self, change: dict[str, Any], next_after: str) -> Followed:
        told = change["event"]
        after = f"{next_after.rpartition(':')[0]}:{change['revision']}"
        old, new, cause = told["old_value"], told["new_value"], known_cause(told.get("cause"))
        event = Event(self._scope, told["key"], told["event_type"], old, new, cause, after=after)
        return Followed(told["key"], told["event_type"] != "state:deleted", new, event, after, change["revision"], change["at_ms"])
