"""The results of a remote's functions, as this side of a bridge has them: stored texts, keys, scopes.

Values are checked and brought into the stored form here, once. What is framed already comes from an engine of this project, and is
taken as it is: a large document costs a look at its first bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from iii_state import values
from iii_state.adapters.base import Reading, Replaced, Updated
from iii_state.adapters.bridge.remote.calls import RemoteFunction
from iii_state.errors import InvalidValue, StoreError
from iii_state.history import Logged, LogPage
from iii_state.values import Json
from iii_state.values.ops import OpError
from iii_state.values.transactions import Done


class _Replaced(msgspec.Struct):
    old_value: Raw = Raw(b"null")
    revision: int | None = None


class NotApplied(Exception):
    """A condition did not hold: the index of which, and what is stored (None for nothing)."""

    def __init__(self, condition: int, text: bytes | None, step: int | None = None) -> None:
        super().__init__(condition)
        self.condition = condition
        self.text = text
        self.step = step
        """Of a transaction."""


class NoConditions(Exception):
    """The remote has answered as one that knows no conditions, and so has made the change without them."""


class _Conditional(msgspec.Struct):
    """What there is of a change with `if`, `if_failed` and `meta`. One that was applied has an etag, or null for nothing stored."""

    applied: bool = True
    condition: int = 0
    step: int | None = None
    value: Raw = Raw(b"null")
    etag: str | UnsetType | None = UNSET


class Meta(msgspec.Struct):
    """`state::get` with `meta`."""

    value: Raw
    etag: str | None
    ttl_ms: int | None = None
    revision: int | None = None


class _Touched(msgspec.Struct):
    found: bool


class _Updated(msgspec.Struct):
    new_value: Raw
    old_value: Raw = Raw(b"null")
    errors: list[OpError] = []
    revision: int | None = None


class _Found(msgspec.Struct):
    found: bool
    value: Raw = Raw(b"null")


class _Many(msgspec.Struct):
    values: list[_Found]


class _StepResult(msgspec.Struct):
    old_value: Raw = Raw(b"null")
    new_value: Raw | UnsetType = UNSET
    errors: list[OpError] = []


class _Steps(msgspec.Struct):
    results: list[_StepResult] | UnsetType = UNSET


class _Scopes(msgspec.Struct):
    groups: list[str]


class _Keys(msgspec.Struct):
    keys: list[str]


class _Succession(msgspec.Struct):
    before: list[str]


class Page(msgspec.Struct):
    """A page of `state::list_entries`: pairs of key and value as they came, and how long those with a deadline have left.

    Engines that do not know to be asked for `ttl_ms` leave it out.
    """

    entries: list[tuple[str, Raw]]
    next_cursor: str | None = None
    ttl_ms: dict[str, int] = {}


class _Logged(msgspec.Struct):
    revision: int
    at_ms: int
    event: Raw


class _LogPage(msgspec.Struct):
    changes: list[_Logged]
    next_after: str
    first: int


_replaced = msgspec.json.Decoder(_Replaced)
_updated = msgspec.json.Decoder(_Updated)
_many = msgspec.json.Decoder(_Many)
_steps = msgspec.json.Decoder(_Steps)
_scopes = msgspec.json.Decoder(_Scopes)
_keys = msgspec.json.Decoder(_Keys)
_succession = msgspec.json.Decoder(_Succession)
_conditional = msgspec.json.Decoder(_Conditional)
_meta = msgspec.json.Decoder(Meta)
_touched = msgspec.json.Decoder(_Touched)
_texts = msgspec.json.Decoder(list[Raw])
_page = msgspec.json.Decoder(Page)
_log_page = msgspec.json.Decoder(_LogPage)


def stored(text: Json) -> bytes:
    """The stored form of a value of the remote's. Raises `InvalidValue` for what is never stored."""
    text = bytes(text)
    return text if text.startswith(values.FRAME_START) else values.to_stored(text)


def _stored_or_none(text: Json) -> bytes | None:
    """The stored form of a value before a change: null stands for there was none."""
    text = bytes(text)
    return None if text == b"null" else stored(text)


def value(text: bytes | None) -> bytes | None:
    """`state::get`, `state::delete`: no result is no value, a result of null is a stored null."""
    return None if text is None else stored(text)


def replaced(text: bytes | None) -> bytes | None:
    """`state::set`."""
    return _stored_or_none(_replaced.decode(text or b"null").old_value)


def updated(text: bytes | None) -> Updated:
    """`state::update`."""
    result = _updated.decode(text or b"null")
    return Updated(_stored_or_none(result.old_value), stored(result.new_value), result.errors, result.revision)


def check_applied(text: bytes | None) -> None:
    """Of a change with conditions. Raises `NotApplied` or `NoConditions`."""
    try:
        result = _conditional.decode(text or b"null")
    except msgspec.ValidationError:
        raise NoConditions from None
    if not result.applied:
        raise NotApplied(result.condition, None if result.etag is None else stored(result.value), result.step)
    if result.etag is UNSET:
        raise NoConditions


def replaced_if(text: bytes | None) -> bytes | None:
    """`state::set` and `state::delete` with conditions."""
    check_applied(text)
    return replaced(text)


def replaced_with_meta(text: bytes | None) -> Replaced:
    """`state::set` and `state::delete` with `meta`, and conditions if there are any."""
    check_applied(text)
    result = _replaced.decode(text or b"null")
    return Replaced(_stored_or_none(result.old_value), result.revision)


def updated_if(text: bytes | None) -> Updated:
    """`state::update` with conditions."""
    check_applied(text)
    return updated(text)


def meta(text: bytes | None) -> Reading:
    """`state::get` with `meta`."""
    found = _meta.decode(text or b"null")
    return Reading(None if found.etag is None else stored(found.value), found.ttl_ms, found.revision)


def touched(text: bytes | None) -> bool:
    """`state::touch`."""
    return _touched.decode(text or b"null").found


def found(text: bytes | None) -> list[bytes | None]:
    """`state::get_many`."""
    return [stored(one.value) if one.found else None for one in _many.decode(text or b"null").values]


def steps(text: bytes | None) -> list[Done]:
    """`state::transact`: of a set or a delete the new text is not looked at. Raises `NotApplied`."""
    told = _steps.decode(text or b"null")
    if told.results is UNSET:
        check_applied(text)
        raise InvalidValue("there are no results")
    return [
        Done(_stored_or_none(one.old_value), None if one.new_value is UNSET else stored(one.new_value), one.errors)
        for one in told.results
    ]


def texts(text: bytes | None) -> list[bytes]:
    """`state::list`."""
    return list(map(stored, _texts.decode(text or b"null")))


def scopes(text: bytes | None) -> list[str]:
    """`state::list_groups`."""
    return _scopes.decode(text or b"null").groups


def keys(text: bytes | None) -> list[str]:
    """`state::list_keys`."""
    return _keys.decode(text or b"null").keys


def before(text: bytes | None) -> list[str]:
    """`iii-state::line_up`."""
    return _succession.decode(text or b"null").before


def page(text: bytes | None) -> Page:
    """`state::list_entries`."""
    return _page.decode(text or b"null")


def log_page(text: bytes | None) -> LogPage:
    """`state::history`. The events are passed on as they came."""
    found = _log_page.decode(text or b"null")
    changes = [Logged(change.revision, change.at_ms, bytes(change.event)) for change in found.changes]
    return LogPage(changes, found.next_after, found.first)


def function(url: str, function_id: str, read: Callable[[bytes | None], Any], *, is_mutation: bool = False) -> RemoteFunction:
    """A function of the remote at `url`; a result that `read` cannot take is a `StoreError` in words."""

    def read_checked(text: bytes | None) -> Any:
        try:
            return read(text)
        except (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeError) as error:
            raise StoreError(f"the answer of {url} to {function_id} cannot be used: {error}") from None

    return RemoteFunction(values.encode_string(function_id), read_checked, is_mutation)
