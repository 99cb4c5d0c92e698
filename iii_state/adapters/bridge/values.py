"""The values of a remote engine, by its `state::*` functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from iii_state import values
from iii_state.adapters.base import Entries, Reading, Replaced, Updated
from iii_state.adapters.bridge.remote import results
from iii_state.adapters.bridge.remote.calls import RemoteFunction
from iii_state.adapters.bridge.remote.remote import Remote
from iii_state.adapters.selection import KeySelection
from iii_state.errors import Code, FunctionError, OutcomeUnknown, StoreError
from iii_state.sessions import Request
from iii_state.tasks.background import Background
from iii_state.tasks.results import Result, then
from iii_state.values.conditions import Conditions
from iii_state.values.ops import Plan
from iii_state.values.transactions import Done, Step

MAX_READINGS = 10
"""So often a scope is begun to be read that connections break on."""

DEADLINES = "deadlines: ttl_ms would be ignored"
"""What a stock engine has not: one that would be ignored is worse than one that is refused."""

PAGE = b',"limit":1000,"max_bytes":8000000,"_iii_state_deadlines":true'


class BridgeValues:
    """See `base.Values`."""

    def __init__(self, remote: Remote, tasks: Background) -> None:
        self._url = remote.url
        self._call = remote.call
        self._tasks = tasks
        url = remote.url
        self._get = results.function(url, "state::get", results.value)
        self._set = results.function(url, "state::set", results.replaced, is_mutation=True)
        self._delete = results.function(url, "state::delete", results.value, is_mutation=True)
        self._update = results.function(url, "state::update", results.updated, is_mutation=True)
        self._read = results.function(url, "state::get", results.meta)
        self._set_if = results.function(url, "state::set", results.replaced_if, is_mutation=True)
        self._delete_if = results.function(url, "state::delete", results.replaced_if, is_mutation=True)
        self._update_if = results.function(url, "state::update", results.updated_if, is_mutation=True)
        self._set_with_meta = results.function(url, "state::set", results.replaced_with_meta, is_mutation=True)
        self._delete_with_meta = results.function(url, "state::delete", results.replaced_with_meta, is_mutation=True)
        self._touch = results.function(url, "state::touch", results.touched, is_mutation=True)
        self._list = results.function(url, "state::list", results.texts)
        self._list_groups = results.function(url, "state::list_groups", results.scopes)
        self._list_keys = results.function(url, "state::list_keys", results.keys)
        self._get_many = results.function(url, "state::get_many", results.found)
        self._transact = results.function(url, "state::transact", results.steps, is_mutation=True)
        self._list_entries = results.function(url, "state::list_entries", results.page)

    def get(self, scope: str, key: str) -> asyncio.Future[bytes | None]:
        return self._call(self._get, _place(scope, key))

    def read(self, scope: str, key: str) -> Result[Reading]:
        return self._call(self._read, b'%b,"meta":true' % _place(scope, key), feature="meta")

    def set(
        self,
        scope: str,
        key: str,
        value: bytes,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
    ) -> Result[bytes | None]:
        data = b'%b,"value":%b' % (_place(scope, key), value)
        needs = ""
        if ttl_ms is not None:
            data, needs = b'%b,"ttl_ms":%d' % (data, ttl_ms), DEADLINES
        if conditions is None:
            return self._call(self._set, data, request=_text(request), needs=needs)
        return self._if(self._set_if, data, (scope, key), conditions, request)

    def delete(
        self, scope: str, key: str, *, request: Request | None = None, conditions: Conditions | None = None
    ) -> Result[bytes | None]:
        if conditions is None:
            return self._call(self._delete, _place(scope, key), request=_text(request))
        return self._if(self._delete_if, _place(scope, key), (scope, key), conditions, request)

    def update(
        self,
        scope: str,
        key: str,
        plan: Plan,
        limit: int,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
        strict: bool = False,
        meta: bool = False,
    ) -> Result[Updated]:
        data = b'%b,"ops":%b' % (_place(scope, key), plan.text)
        needs = ""
        if ttl_ms is not None:
            data, needs = b'%b,"ttl_ms":%d' % (data, ttl_ms), DEADLINES
        if limit < values.MAX_VALUE_BYTES:
            data = b'%b,"_iii_state_limit":%d' % (data, limit)
        if strict:
            data = data + b',"strict":true'
        if conditions is not None:
            answer: Result[Updated] = self._if(self._update_if, data, (scope, key), conditions, request)
            return answer if meta else then(answer, _without_meta)
        if meta:
            data = data + b',"meta":true'
        return self._call(self._update, data, request=_text(request), needs=needs, feature="meta" if strict or meta else "")

    def replace(
        self,
        scope: str,
        key: str,
        value: bytes | None,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
    ) -> Result[Replaced]:
        function, data = self._delete_with_meta, _place(scope, key)
        if value is not None:
            function, data = self._set_with_meta, b'%b,"value":%b' % (data, value)
        needs = ""
        if ttl_ms is not None:
            data, needs = b'%b,"ttl_ms":%d' % (data, ttl_ms), DEADLINES
        if conditions is not None:
            return self._if(function, data, (scope, key), conditions, request)
        return self._call(function, data + b',"meta":true', request=_text(request), needs=needs, feature="meta")

    def _if(
        self, function: RemoteFunction, data: bytes, place: tuple[str, str], conditions: Conditions, request: Request | None
    ) -> Result[Any]:
        """Make a change if conditions hold. That the answer has an etag shows that the remote has judged them."""
        data = b'%b,"if":%b,"if_failed":"return","meta":true' % (data, conditions.text)
        answer = self._call(function, data, request=_text(request), feature="if")
        return then(answer, _as_it_is, partial(self._why_not, conditions, place))

    def _why_not(self, conditions: Conditions, place: tuple[str, str], error: BaseException) -> BaseException:
        if isinstance(error, results.NotApplied):
            return conditions.failure(error.condition, *place, error.text)
        if isinstance(error, results.NoConditions):
            return OutcomeUnknown(
                f"the engine at {self._url} does not know conditions any more, and has made the change without them"
            )
        return error

    def touch(self, scope: str, key: str, ttl_ms: int | None, *, request: Request | None = None) -> Result[bool]:
        data = b'%b,"ttl_ms":%b' % (_place(scope, key), b"null" if ttl_ms is None else b"%d" % ttl_ms)
        return self._call(self._touch, data, request=_text(request), feature="touch")

    def get_many(self, scope: str, keys: Sequence[str]) -> Result[list[bytes | None]]:
        data = b'{"scope":%b,"keys":%b' % (values.encode_string(scope), values.encode(keys))
        return self._call(self._get_many, data, feature="many")

    def transact(self, scope: str, steps: Sequence[Step], limit: int, *, request: Request | None = None) -> Result[list[Done]]:
        data = b'{"scope":%b,"steps":[%b]' % (values.encode_string(scope), b",".join(map(_step, steps)))
        if limit < values.MAX_VALUE_BYTES:
            data = b'%b,"_iii_state_limit":%d' % (data, limit)
        if any(step.conditions is not None for step in steps):
            data += b',"if_failed":"return"'
        answer: Result[list[Done]] = self._call(self._transact, data, request=_text(request), feature="transact")
        return then(answer, partial(self._transacted, steps), partial(self._no_step, scope, steps))

    def texts(self, scope: str, selection: KeySelection | None = None) -> Result[list[bytes]]:
        data = b'{"scope":%b%b' % (values.encode_string(scope), _selected(selection))
        return self._call(self._list, data, feature="" if selection is None else "prefix")

    def count(self, scope: str) -> None:
        """The remote would send all the keys."""

    def scopes(self) -> Result[list[str]]:
        return self._call(self._list_groups, b"{")

    def keys(self, scope: str, selection: KeySelection | None = None) -> Result[list[str]]:
        return self._tasks.call(self._keys_of(scope, selection))

    def entries(self, scope: str, selection: KeySelection | None = None) -> Result[Entries]:
        return self._tasks.call(self._entries_of(scope, selection))

    def now(self) -> int:
        """By this engine's clock: the remote tells how long its values have left."""
        return time.monotonic_ns() // 1_000_000

    def _transacted(self, steps: Sequence[Step], found: list[Done]) -> list[Done]:
        if len(found) != len(steps):
            raise OutcomeUnknown(f"{self._url} has answered a transaction of {len(steps)} steps with {len(found)} results")
        return [done if step.value is None else done._replace(new=step.value) for step, done in zip(steps, found, strict=True)]

    def _no_step(self, scope: str, steps: Sequence[Step], error: BaseException) -> BaseException:
        if not isinstance(error, results.NotApplied) or error.step is None:
            return error
        step = steps[error.step]
        assert step.conditions is not None
        return step.conditions.failure(error.condition, scope, step.key, error.text, step=error.step)

    # -- by functions that older engines do not have

    async def _keys_of(self, scope: str, selection: KeySelection | None = None) -> list[str]:
        data = b'{"scope":%b%b' % (values.encode_string(scope), _selected(selection))
        keys: list[str] = await self._newer(self._list_keys, data, "" if selection is None else "prefix")
        return keys

    async def _entries_of(self, scope: str, selection: KeySelection | None) -> Entries:
        """The pages of one snapshot. A cursor ends with its connection: where that breaks, the scope is read from its beginning."""
        for _ in range(MAX_READINGS):
            try:
                return await self._pages(scope, selection)
            except FunctionError as error:
                if error.code != Code.INVALID_CURSOR:
                    raise
        raise StoreError(
            f"the connection to {self._url} broke {MAX_READINGS} times while the scope was read in pages: nothing was read"
        )

    async def _pages(self, scope: str, selection: KeySelection | None) -> Entries:
        name = values.encode_string(scope) + _selected(selection)
        feature = "" if selection is None else "prefix"
        found: list[tuple[str, bytes]] = []
        deadlines: dict[str, int] = {}
        cursor = b""
        while True:
            asked_at = self.now()
            try:
                page: results.Page = await self._newer(self._list_entries, b'{"scope":%b%b%b' % (name, PAGE, cursor), feature)
            except FunctionError as error:
                if error.code != Code.ROW_TOO_LARGE:
                    raise
                return Entries([*found, *await self._large_entries(scope, selection, dict(found))], deadlines, self.now())
            found.extend((key, results.stored(text)) for key, text in page.entries)
            # From when it was asked, and a millisecond less: what is over at the remote must not be seen here for a moment longer.
            deadlines.update((key, asked_at + ttl_ms - 1) for key, ttl_ms in page.ttl_ms.items())
            if page.next_cursor is None:
                return Entries(found, deadlines, self.now())
            cursor = b',"cursor":%b' % values.encode_string(page.next_cursor)

    async def _large_entries(self, scope: str, selection: KeySelection | None, known: dict[str, bytes]) -> list[tuple[str, bytes]]:
        """What is too large for a page: it comes last, and is read one by one, as it is now."""
        found = []
        for key in await self._keys_of(scope, selection):
            if key not in known and (value := await self.get(scope, key)) is not None:
                found.append((key, value))
        return found

    async def _newer(self, function: RemoteFunction, data: bytes, feature: str) -> Any:
        try:
            return await self._call(function, data, feature=feature)
        except FunctionError as error:
            if error.code != Code.FUNCTION_NOT_FOUND:
                raise
            raise StoreError(
                f"the engine at {self._url} has no {values.decode(function.id)} (stock engines have it since 0.24), and without it "
                "tells the values of a scope, not their keys"
            ) from None


def _text(request: Request | None) -> bytes | None:
    return None if request is None else values.encode(request)


def _step(step: Step) -> bytes:
    """A step without what is not given."""
    head = b'{"key":%b' % values.encode_string(step.key)
    if step.plan is not None:
        head = b'%b,"type":"update","ops":%b' % (head, step.plan.text)
    elif step.value is not None:
        head = b'%b,"type":"set","value":%b' % (head, step.value)
    else:
        head += b',"type":"delete"'
    if step.conditions is not None:
        head = b'%b,"if":%b' % (head, step.conditions.text)
    if step.strict:
        head += b',"strict":true'
    return head + (b"}" if step.ttl_ms is None else b',"ttl_ms":%d}' % step.ttl_ms)


def _selected(selection: KeySelection | None) -> bytes:
    """The members of a request that say what is asked for."""
    if selection is None:
        return b""
    members = b',"prefix":%b' % values.encode_string(selection.prefix)
    if selection.order is not None:
        members = b'%b,"order":"%b"' % (members, selection.order.encode())
    if selection.limit is not None:
        members = b'%b,"limit":%d' % (members, selection.limit)
    if selection.after is not None:
        members = b'%b,"after":%b' % (members, values.encode_string(selection.after))
    return members


def _place(scope: str, key: str) -> bytes:
    return b'{"scope":%b,"key":%b' % (values.encode_string(scope), values.encode_string(key))


def _without_meta(updated: Updated) -> Updated:
    return updated._replace(revision=None)


def _as_it_is(result: Any) -> Any:
    return result
