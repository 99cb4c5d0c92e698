"""`state::set`, `get`, `delete`, `update`, and what lists a scope: from the text of a request to the text of a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec
from msgspec import UNSET, Raw, UnsetType

from iii_state import lineages, values
from iii_state.access import Access
from iii_state.adapters.base import Adapter, Updated
from iii_state.errors import Code, FunctionError, InvalidOp, InvalidValue, StoreError, too_large
from iii_state.host import Caller, Handler
from iii_state.sessions import Request, parse_request
from iii_state.state.dispatch.loops import Loops
from iii_state.state.functions import extended
from iii_state.state.functions.declared import (
    UNREADABLE,
    Declared,
    Registration,
    as_it_is,
    failing_with,
    reads_scope,
    refuse,
    writes_scope,
)
from iii_state.state.functions.requests import (
    DeleteRequest,
    EntriesRequest,
    KeyRequest,
    RawUpdateRequest,
    ScopeRequest,
    SetRequest,
    TouchRequest,
    UpdateRequest,
)
from iii_state.state.functions.snapshots import Snapshots
from iii_state.tasks.results import Result, then
from iii_state.values import Json
from iii_state.values.conditions import Conditions
from iii_state.values.ops import compile_text
from iii_state.values.requests import within

LIST_BYTES = 60 * 1024 * 1024
"""The largest reply of `state::list`; more does not fit into a frame."""

MAX_TTL_MS = 10**13

_set = msgspec.json.Decoder(SetRequest)
_key = msgspec.json.Decoder(KeyRequest)
_delete = msgspec.json.Decoder(DeleteRequest)
_update = msgspec.json.Decoder(RawUpdateRequest)
_touch = msgspec.json.Decoder(TouchRequest)
_scope = msgspec.json.Decoder(ScopeRequest)
_entries = msgspec.json.Decoder(EntriesRequest)

_set_failed = failing_with(Code.SET_ERROR, "set value")
_get_failed = failing_with(Code.GET_ERROR, "get value")
_update_failed = failing_with(Code.UPDATE_ERROR, "update value")


class ValueFunctions:
    """The functions `state::*` over any adapter. `limit` is the largest value that they store, in bytes."""

    def __init__(self, adapter: Adapter, snapshots: Snapshots) -> None:
        self.limit = values.MAX_VALUE_BYTES
        self.loops: Loops | None = None
        """Who is told of writes of workers that do not say what they come from."""
        self._values = adapter.values
        self._snapshots = snapshots

    def __iter__(self) -> Iterator[Registration]:
        yield "state::set", self._set, "Set a value at a scope and a key"
        yield "state::get", self._get, "Get the value at a scope and a key"
        yield "state::delete", self._delete(), "Delete the value at a scope and a key"
        yield "state::update", self._update, "Apply a list of operations to a value, atomically"
        yield "state::touch", self._touch(), "Let a value go after a time, or stay, without changing it"
        yield "state::list", self._list(), "List the values of a scope"
        yield "state::list_keys", self._list_keys(), "List the keys of a scope"
        yield "state::list_entries", self._list_entries(), "Read a scope in pages, as it was at one moment: keys and values"
        yield "state::list_groups", self._list_groups, "List the scopes that have values"

    # --- called most: written out, every call of Python counts

    def _set(self, data: Json, caller: Caller) -> Result[bytes | None]:
        try:
            request = _set.decode(data)
            given = request.value
            if given is UNSET:
                given = request.data
            elif request.data is not UNSET:
                raise InvalidValue("`value` and `data` are the same field; give one")
            if given is UNSET:
                raise InvalidValue("missing field `value`")
            if request.ttl_ms is not None:
                within("ttl_ms", request.ttl_ms, 1, MAX_TTL_MS)
            request_id = None if request._iii_state_request is UNSET else _request_id(request._iii_state_request, caller)
            new = values.to_stored(given)
            is_plain = request.only_if is UNSET and not request.meta and request.returned is None
            conditions = None if is_plain else extended.conditions_of(request.only_if)
        except UNREADABLE as error:
            refuse("state::set", data, SetRequest, error)
        if caller.access is not None:
            caller.access.check_write(request.scope)
        if len(new) > self.limit and (size := values.compact_size(new)) > self.limit:
            if conditions is None:
                raise too_large(size, self.limit)
            return self._refuse_too_large(request, new, request_id, conditions)
        if self.loops is not None and self.loops.are_handled:
            self._written(request, caller)
        if not is_plain:
            place = (request.scope, request.key)
            make = partial(self._values.set, *place, new, ttl_ms=request.ttl_ms, request=request_id, conditions=conditions)
            return extended.answered(make, lambda old: extended.replaced(request, old, new), _set_failed, request.if_failed)
        try:
            answer = self._values.set(request.scope, request.key, new, ttl_ms=request.ttl_ms, request=request_id)
        except StoreError as error:
            raise _set_failed(error) from None
        if not isinstance(answer, asyncio.Future):
            return _replaced(new, answer)
        return then(answer, partial(_replaced, new), _set_failed)

    def _get(self, data: Json, caller: Caller) -> Result[bytes | None]:
        try:
            request = _key.decode(data)
        except UNREADABLE as error:
            refuse("state::get", data, KeyRequest, error)
        if caller.access is not None:
            caller.access.check_read(request.scope)
        if request.meta:
            return extended.answered(partial(self._values.read, request.scope, request.key), extended.read, _get_failed, None)
        try:
            answer = self._values.get(request.scope, request.key)
        except StoreError as error:
            raise _get_failed(error) from None
        return answer if answer is None or isinstance(answer, bytes) else then(answer, as_it_is, _get_failed)

    def _update(self, data: Json, caller: Caller) -> Result[bytes | None]:
        try:
            request = _update.decode(data)
            if request.ttl_ms is not None:
                within("ttl_ms", request.ttl_ms, 1, MAX_TTL_MS)
            request_id = None if request._iii_state_request is UNSET else _request_id(request._iii_state_request, caller)
            plan = compile_text(request.ops)
            is_plain = request.only_if is UNSET and not request.meta and request.returned is None and not request.strict
            conditions = None if is_plain else extended.conditions_of(request.only_if)
        except (*UNREADABLE, InvalidOp) as error:
            refuse("state::update", data, UpdateRequest, error)
        if caller.access is not None:
            caller.access.check_write(request.scope)
        if self.loops is not None and self.loops.are_handled:
            self._written(request, caller)
        limit = self.limit if request._iii_state_limit is None else min(self.limit, request._iii_state_limit)
        if not is_plain:
            place = (request.scope, request.key)
            what = partial(self._values.update, *place, plan, limit, ttl_ms=request.ttl_ms, request=request_id)
            make = partial(what, conditions=conditions, strict=bool(request.strict))
            return extended.answered(make, partial(extended.updated, request), _update_failed, request.if_failed)
        try:
            answer = self._values.update(request.scope, request.key, plan, limit, ttl_ms=request.ttl_ms, request=request_id)
        except StoreError as error:
            raise _update_failed(error) from None
        return then(answer, _updated, _update_failed) if isinstance(answer, asyncio.Future) else _updated(answer)

    def _refuse_too_large(
        self, request: SetRequest, new: bytes, request_id: Request | None, conditions: Conditions
    ) -> Result[bytes | None]:
        """Conditions are judged before sizes: an update with the same value finds out which of the two refuses the call."""
        plan = compile_text(b'[{"type":"set","value":%b}]' % values.unframe(new))
        make = partial(self._values.update, request.scope, request.key, plan, self.limit, request=request_id, conditions=conditions)
        return extended.answered(make, partial(extended.updated, request), _set_failed, request.if_failed)

    def _written(self, request: SetRequest | RawUpdateRequest | DeleteRequest, caller: Caller) -> None:
        if self.loops is not None and caller.worker_id and not lineages.within.get():
            self.loops.written(caller, request.scope, request.key)

    def written(self, scope: str, keys: Iterable[str], caller: Caller) -> None:
        """A caller changes these keys by one call."""
        if self.loops is not None and self.loops.are_handled and caller.worker_id and not lineages.within.get():
            for key in keys:
                self.loops.written(caller, scope, key)

    # --- the others

    def _delete(self) -> Handler:
        failed = failing_with(Code.DELETE_ERROR, "delete value")

        def delete(request: DeleteRequest, caller: Caller) -> Result[bytes | None]:
            request_id = None if request._iii_state_request is UNSET else _request_id(request._iii_state_request, caller)
            conditions = extended.conditions_of(request.only_if)
            if self.loops is not None and self.loops.are_handled:
                self._written(request, caller)
            if conditions is None and not request.meta:
                return self._values.delete(request.scope, request.key, request=request_id)
            make = partial(self._values.delete, request.scope, request.key, request=request_id, conditions=conditions)
            return extended.answered(make, extended.removed if request.meta else as_it_is, failed, request.if_failed)

        return Declared("state::delete", DeleteRequest, _delete.decode, delete, as_it_is, failed, writes_scope)

    def _touch(self) -> Handler:
        def touch(request: TouchRequest, caller: Caller) -> Result[bool]:
            request_id = None if request._iii_state_request is UNSET else _request_id(request._iii_state_request, caller)
            if request.ttl_ms is not None:
                within("ttl_ms", request.ttl_ms, 1, MAX_TTL_MS)
            return self._values.touch(request.scope, request.key, request.ttl_ms, request=request_id)

        failed = failing_with(Code.STORE_ERROR, "touch value")
        return Declared("state::touch", TouchRequest, _touch.decode, touch, _touched, failed, writes_scope)

    def _list(self) -> Handler:
        def texts(request: ScopeRequest, caller: Caller) -> Result[list[bytes]]:
            return self._values.texts(request.scope)

        failed = failing_with(Code.LIST_ERROR, "list values")
        return Declared("state::list", ScopeRequest, _scope.decode, texts, _listed, failed, reads_scope)

    def _list_keys(self) -> Handler:
        def keys(request: ScopeRequest, caller: Caller) -> Result[list[str]]:
            return self._values.keys(request.scope)

        failed = failing_with(Code.LIST_KEYS_ERROR, "list keys")
        return Declared("state::list_keys", ScopeRequest, _scope.decode, keys, _keys_listed, failed, reads_scope)

    def _list_entries(self) -> Handler:
        def page(request: EntriesRequest, caller: Caller) -> Result[bytes]:
            return self._snapshots.page(request, caller.worker_id)

        failed = failing_with(Code.LIST_ENTRIES_ERROR, "list entries")
        return Declared("state::list_entries", EntriesRequest, _entries.decode, page, as_it_is, failed, reads_scope)

    def _list_groups(self, data: Json, caller: Caller) -> Result[bytes | None]:
        """It has no request: whatever is sent is passed over. Scopes that the caller may not see are none for it."""
        failed = failing_with(Code.LIST_GROUPS_ERROR, "list groups")
        try:
            return then(self._values.scopes(), partial(_scopes_listed, caller.access), failed)
        except StoreError as error:
            raise failed(error) from None


def request_id_of(text: Raw | UnsetType, caller: Caller) -> Request | None:
    """The request id in a member `_iii_state_request`. Raises `InvalidValue` in words."""
    return None if text is UNSET else _request_id(text, caller)


def _request_id(text: Raw, caller: Caller) -> Request:
    return parse_request(text, None if caller.identity is None else caller.identity.name)


def _replaced(new: bytes, old: bytes | None) -> bytes:
    return b'{"old_value":%b,"new_value":%b}' % (b"null" if old is None else old, new)


def _updated(updated: Updated) -> bytes:
    old, new, errors = updated
    if not errors:
        return _replaced(new, old)
    return b'{"old_value":%b,"new_value":%b,"errors":%b}' % (b"null" if old is None else old, new, values.encode(errors))


def _touched(found: bool) -> bytes:
    return b'{"found":true}' if found else b'{"found":false}'


def _listed(texts: list[bytes]) -> bytes:
    if sum(map(len, texts)) + len(texts) > LIST_BYTES:
        raise FunctionError(
            Code.LIST_ERROR,
            f"Failed to list values: the scope holds more than {LIST_BYTES} bytes; read it in pages with state::list_entries",
        )
    return b"[%b]" % b",".join(texts)


def _keys_listed(keys: list[str]) -> bytes:
    text = b'{"keys":%b}' % values.encode(keys)
    if len(text) > LIST_BYTES:
        raise FunctionError(
            Code.LIST_KEYS_ERROR,
            f"Failed to list keys: they take more than {LIST_BYTES} bytes; read them in pages with state::list_entries",
        )
    return text


def _scopes_listed(access: Access | None, scopes: list[str]) -> bytes:
    if access is not None:
        scopes = [scope for scope in scopes if access.may_read(scope)]
    return b'{"groups":%b}' % values.encode(sorted(scopes))
