"""What callers send to `state::*`. Requests hold nothing that could be part of a cycle, so the collector need not know of them."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from iii_state.adapters.selection import Order
from iii_state.values.ops import OpRequest

IfFailed = Literal["return"] | None
"""With `"return"`, that a condition does not hold is a result, which says what is there, and no error."""

Returned = Literal["both", "new", "old", "none"] | None
"""Which values the reply has; both, if it is not said."""


class SetRequest(msgspec.Struct, gc=False):
    """`state::set`; `data` is an alias of `value`."""

    scope: str
    key: str
    value: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    _iii_state_request: Raw | UnsetType = UNSET
    ttl_ms: int | None = None
    only_if: Raw | UnsetType = msgspec.field(default=UNSET, name="if")
    if_failed: IfFailed = None
    meta: bool | None = None
    returned: Returned = msgspec.field(default=None, name="return")


class KeyRequest(msgspec.Struct, gc=False):
    """`state::get`."""

    scope: str
    key: str
    meta: bool | None = None


class DeleteRequest(msgspec.Struct, gc=False):
    """`state::delete`."""

    scope: str
    key: str
    _iii_state_request: Raw | UnsetType = UNSET
    only_if: Raw | UnsetType = msgspec.field(default=UNSET, name="if")
    if_failed: IfFailed = None
    meta: bool | None = None


class TouchRequest(msgspec.Struct, gc=False):
    """`state::touch`: the value is to go after `ttl_ms` from now on, or, with null, to stay."""

    scope: str
    key: str
    ttl_ms: int | None
    _iii_state_request: Raw | UnsetType = UNSET
    only_if: Raw | UnsetType = msgspec.field(default=UNSET, name="if")
    """It takes no conditions, and does not pass them over."""


class UpdateRequest(msgspec.Struct):
    """`state::update`, to say what is wrong with one: calls are decoded into `RawUpdateRequest`."""

    scope: str
    key: str
    ops: list[OpRequest]
    _iii_state_request: Raw | UnsetType = UNSET
    ttl_ms: int | None = None
    _iii_state_limit: int | None = None
    """What an engine with a bridge to this one allows (bytes)."""
    only_if: Raw | UnsetType = msgspec.field(default=UNSET, name="if")
    if_failed: IfFailed = None
    meta: bool | None = None
    returned: Returned = msgspec.field(default=None, name="return")
    strict: bool | None = None


class RawUpdateRequest(msgspec.Struct, gc=False):
    """`state::update` with the ops left as text, which are compiled as they are read."""

    scope: str
    key: str
    ops: Raw
    _iii_state_request: Raw | UnsetType = UNSET
    ttl_ms: int | None = None
    _iii_state_limit: int | None = None
    only_if: Raw | UnsetType = msgspec.field(default=UNSET, name="if")
    if_failed: IfFailed = None
    meta: bool | None = None
    returned: Returned = msgspec.field(default=None, name="return")
    strict: bool | None = None


class ListRequest(msgspec.Struct):
    """`state::list`."""

    scope: str
    prefix: str | None = None
    limit: int | None = None
    order: Order | None = None


class KeysRequest(msgspec.Struct):
    """`state::list_keys`."""

    scope: str
    prefix: str | None = None
    limit: int | None = None
    order: Order | None = None
    after: str | None = None
    """A key: those behind it are asked for, in this order."""


class HistoryRequest(msgspec.Struct):
    """`state::history`."""

    scope: str
    key: str | None = None
    after: str | None = None
    limit: int | None = None


class EntriesRequest(msgspec.Struct):
    """`state::list_entries`."""

    scope: str
    cursor: str | None = None
    limit: int | None = None
    max_bytes: int | None = None
    prefix: str | None = None
    order: Order | None = None
    _iii_state_deadlines: bool = False
    """Whether to tell, as `ttl_ms`, how long the entries of the page have left: for an engine with a bridge to this one."""
