"""What lists a scope: `state::list`, `list_keys`, `list_entries`; and `list_groups`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import msgspec

from iii_state import values
from iii_state.access import Access
from iii_state.adapters.base import Adapter
from iii_state.adapters.selection import KeySelection
from iii_state.errors import Code, FunctionError, StoreError
from iii_state.host import Caller, Handler
from iii_state.state.functions.declared import Declared, Registration, as_it_is, failing_with, reads_scope
from iii_state.state.functions.requests import EntriesRequest, KeysRequest, ListRequest
from iii_state.state.functions.snapshots import Snapshots
from iii_state.tasks.results import Result, then
from iii_state.values import Json
from iii_state.values.requests import within

LIST_BYTES = 60 * 1024 * 1024
"""The largest reply of `state::list`; more does not fit into a frame."""

MAX_LIMIT = 100_000
"""The most values or keys that may be asked for by a number. Without one, all are."""

_list = msgspec.json.Decoder(ListRequest)
_keys = msgspec.json.Decoder(KeysRequest)
_entries = msgspec.json.Decoder(EntriesRequest)


class ListFunctions:
    """The functions over any adapter."""

    def __init__(self, adapter: Adapter, snapshots: Snapshots) -> None:
        self._values = adapter.values
        self._snapshots = snapshots

    def __iter__(self) -> Iterator[Registration]:
        yield "state::list", self._list(), "List the values of a scope"
        yield "state::list_keys", self._list_keys(), "List the keys of a scope"
        yield "state::list_entries", self._list_entries(), "Read a scope in pages, as it was at one moment: keys and values"
        yield "state::list_groups", self._list_groups, "List the scopes that have values"

    def _list(self) -> Handler:
        def texts(request: ListRequest, caller: Caller) -> Result[list[bytes]]:
            if request.prefix is None and request.limit is None and request.order is None:
                return self._values.texts(request.scope)
            if request.limit is not None:
                _check_limit(request.limit)
            return self._values.texts(request.scope, KeySelection(request.prefix or "", request.order, request.limit))

        failed = failing_with(Code.LIST_ERROR, "list values")
        return Declared("state::list", ListRequest, _list.decode, texts, _listed, failed, reads_scope)

    def _list_keys(self) -> Handler:
        def keys(request: KeysRequest, caller: Caller) -> Result[bytes]:
            if request.prefix is None and request.limit is None and request.order is None and request.after is None:
                return then(self._values.keys(request.scope), _keys_listed)
            limit, order = request.limit, request.order
            if limit is not None:
                _check_limit(limit)
            if limit is not None or request.after is not None:
                order = order or "asc"  # without one, nobody could go on from here
            one_more = None if limit is None else limit + 1
            selection = KeySelection(request.prefix or "", order, one_more, request.after)
            return then(self._values.keys(request.scope, selection), partial(_keys_selected, limit))

        failed = failing_with(Code.LIST_KEYS_ERROR, "list keys")
        return Declared("state::list_keys", KeysRequest, _keys.decode, keys, as_it_is, failed, reads_scope)

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


def _check_limit(limit: int) -> None:
    """An engine with a bridge to this one asks for one more than it was asked for."""
    if limit != MAX_LIMIT + 1:
        within("limit", limit, 1, MAX_LIMIT)


def _listed(texts: list[bytes]) -> bytes:
    if sum(map(len, texts)) + len(texts) > LIST_BYTES:
        raise FunctionError(
            Code.LIST_ERROR,
            f"Failed to list values: the scope holds more than {LIST_BYTES} bytes; read it in pages with state::list_entries",
        )
    return b"[%b]" % b",".join(texts)


def _keys_listed(keys: list[str]) -> bytes:
    return _checked(b'{"keys":%b}' % values.encode(keys))


def _keys_selected(limit: int | None, keys: list[str]) -> bytes:
    """One more than the `limit` has been asked for, to know whether there is one. `next` is what to give as `after`."""
    following = b"null"
    if limit is not None and len(keys) > limit:
        keys = keys[:limit]
        following = values.encode_string(keys[-1])
    return _checked(b'{"keys":%b,"next":%b}' % (values.encode(keys), following))


def _checked(text: bytes) -> bytes:
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
