"""`state::set`, `get`, `delete` and `update`: from the text of a request to the text of a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec
from msgspec import UNSET, Raw, UnsetType

from iii_state import lineages, values
from iii_state.adapters.base import Adapter, Updated
from iii_state.errors import Code, InvalidOp, InvalidValue, StoreError, too_large
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
    refuse,
    writes_scope,
)
from iii_state.state.functions.requests import (
    DeleteRequest,
    KeyRequest,
    RawUpdateRequest,
    SetRequest,
    TouchRequest,
    UpdateRequest,
)
from iii_state.tasks.results import Result, then
from iii_state.values import Json
from iii_state.values.ops import Plan, compile_text
from iii_state.values.requests import within

MAX_TTL_MS = 10**13

_set = msgspec.json.Decoder(SetRequest)
_key = msgspec.json.Decoder(KeyRequest)
_delete = msgspec.json.Decoder(DeleteRequest)
_update = msgspec.json.Decoder(RawUpdateRequest)
_touch = msgspec.json.Decoder(TouchRequest)

_set_failed = failing_with(Code.SET_ERROR, "set value")
_get_failed = failing_with(Code.GET_ERROR, "get value")
_update_failed = failing_with(Code.UPDATE_ERROR, "update value")


class ValueFunctions:
    """The functions `state::*` over any adapter. `limit` is the largest value that they store, in bytes."""

    def __init__(self, adapter: Adapter) -> None:
        self.limit = values.MAX_VALUE_BYTES
        self.loops: Loops | None = None
        """Who is told of writes of workers that do not say what they come from."""
        self._values = adapter.values

    def __iter__(self) -> Iterator[Registration]:
        yield "state::set", self._set, "Set a value at a scope and a key"
        yield "state::get", self._get, "Get the value at a scope and a key"
        yield "state::delete", self._delete(), "Delete the value at a scope and a key"
        yield "state::update", self._update, "Apply a list of operations to a value, atomically"
        yield "state::touch", self._touch(), "Let a value go after a time, or stay, without changing it"

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
        except UNREADABLE as error:
            refuse("state::set", data, SetRequest, error)
        if request.only_if is not UNSET or request.meta or request.returned is not None:
            return self._set_extended(data, caller, request, new, request_id)
        if caller.access is not None:
            caller.access.check_write(request.scope)
        if len(new) > self.limit and (size := values.compact_size(new)) > self.limit:
            raise too_large(size, self.limit)
        if self.loops is not None and self.loops.are_handled:
            self._written(request, caller)
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
        except (*UNREADABLE, InvalidOp) as error:
            refuse("state::update", data, UpdateRequest, error)
        if caller.access is not None:
            caller.access.check_write(request.scope)
        if self.loops is not None and self.loops.are_handled:
            self._written(request, caller)
        limit = self.limit if request._iii_state_limit is None else min(self.limit, request._iii_state_limit)
        if request.only_if is not UNSET or request.meta or request.returned is not None or request.strict:
            return self._update_extended(data, request, plan, limit, request_id)
        try:
            answer = self._values.update(request.scope, request.key, plan, limit, ttl_ms=request.ttl_ms, request=request_id)
        except StoreError as error:
            raise _update_failed(error) from None
        return then(answer, _updated, _update_failed) if isinstance(answer, asyncio.Future) else _updated(answer)

    def _set_extended(
        self, data: Json, caller: Caller, request: SetRequest, new: bytes, request_id: Request | None
    ) -> Result[bytes | None]:
        """A `set` with conditions, meta, or a choice of what is returned."""
        try:
            conditions = extended.conditions_of(request.only_if)
        except UNREADABLE as error:
            refuse("state::set", data, SetRequest, error)
        if caller.access is not None:
            caller.access.check_write(request.scope)
        place, size = (request.scope, request.key), values.compact_size(new)
        if size > self.limit and conditions is not None:
            # Conditions are judged before sizes: an update with the same value finds out which of the two refuses the call.
            plan = compile_text(b'[{"type":"set","value":%b}]' % values.unframe(new))
            make = partial(self._values.update, *place, plan, self.limit, request=request_id, conditions=conditions)
            return extended.answered(make, partial(extended.updated, request), _set_failed, request.if_failed)
        if size > self.limit:
            raise too_large(size, self.limit)
        if self.loops is not None and self.loops.are_handled:
            self._written(request, caller)
        ttl_ms, if_failed = request.ttl_ms, request.if_failed
        if request.meta:
            replace = partial(self._values.replace, *place, new, ttl_ms=ttl_ms, request=request_id, conditions=conditions)
            return extended.answered(replace, partial(extended.replaced_with_meta, request, new), _set_failed, if_failed)
        store = partial(self._values.set, *place, new, ttl_ms=ttl_ms, request=request_id, conditions=conditions)
        return extended.answered(store, partial(extended.replaced, request, new), _set_failed, if_failed)

    def _update_extended(
        self, data: Json, request: RawUpdateRequest, plan: Plan, limit: int, request_id: Request | None
    ) -> Result[bytes | None]:
        """The same of an `update`, or a strict one."""
        try:
            conditions = extended.conditions_of(request.only_if)
        except UNREADABLE as error:
            refuse("state::update", data, UpdateRequest, error)
        make = partial(
            self._values.update,
            *(request.scope, request.key, plan, limit),
            ttl_ms=request.ttl_ms,
            request=request_id,
            conditions=conditions,
            strict=bool(request.strict),
            meta=bool(request.meta),
        )
        return extended.answered(make, partial(extended.updated, request), _update_failed, request.if_failed)

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
            is_plain = request.only_if is UNSET and not request.meta
            conditions = None if is_plain else extended.conditions_of(request.only_if)
            if self.loops is not None and self.loops.are_handled:
                self._written(request, caller)
            if is_plain:
                return self._values.delete(request.scope, request.key, request=request_id)
            place = (request.scope, request.key)
            if request.meta:
                remove = partial(self._values.replace, *place, None, request=request_id, conditions=conditions)
                return extended.answered(remove, extended.removed, failed, request.if_failed)
            make = partial(self._values.delete, *place, request=request_id, conditions=conditions)
            return extended.answered(make, as_it_is, failed, request.if_failed)

        return Declared("state::delete", DeleteRequest, _delete.decode, delete, as_it_is, failed, writes_scope)

    def _touch(self) -> Handler:
        def touch(request: TouchRequest, caller: Caller) -> Result[bool]:
            request_id = None if request._iii_state_request is UNSET else _request_id(request._iii_state_request, caller)
            if request.only_if is not UNSET:
                raise InvalidValue("if: a touch takes no conditions; set, update, delete and the steps of a transaction do")
            if request.ttl_ms is not None:
                within("ttl_ms", request.ttl_ms, 1, MAX_TTL_MS)
            return self._values.touch(request.scope, request.key, request.ttl_ms, request=request_id)

        failed = failing_with(Code.STORE_ERROR, "touch value")
        return Declared("state::touch", TouchRequest, _touch.decode, touch, _touched, failed, writes_scope)


def request_id_of(text: Raw | UnsetType, caller: Caller) -> Request | None:
    """The request id in a member `_iii_state_request`. Raises `InvalidValue` in words."""
    return None if text is UNSET else _request_id(text, caller)


def _request_id(text: Raw, caller: Caller) -> Request:
    return parse_request(text, None if caller.identity is None else caller.identity.name)


def _replaced(new: bytes, old: bytes | None) -> bytes:
    return b'{"old_value":%b,"new_value":%b}' % (b"null" if old is None else old, new)


def _updated(updated: Updated) -> bytes:
    old, new, errors, _ = updated
    if not errors:
        return _replaced(new, old)
    return b'{"old_value":%b,"new_value":%b,"errors":%b}' % (b"null" if old is None else old, new, values.encode(errors))


def _touched(found: bool) -> bytes:
    return b'{"found":true}' if found else b'{"found":false}'
