"""What calls of `state::*` can ask for beyond the plain: conditions, meta, which values to return; and the replies to that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from msgspec import UNSET, Raw, UnsetType

from iii_state import values
from iii_state.adapters.base import Reading, Replaced, Updated
from iii_state.errors import ConditionFailed, OldValueUnknown, StoreError
from iii_state.state.functions.declared import ErrorTranslation
from iii_state.state.functions.requests import IfFailed, RawUpdateRequest, SetRequest
from iii_state.tasks.results import Result, then
from iii_state.values.conditions import Conditions, parse

T = TypeVar("T")

Replacement = SetRequest | RawUpdateRequest


def conditions_of(text: Raw | UnsetType) -> Conditions | None:
    """The member `if` of a request, None where there is none. Raises `InvalidValue`."""
    return None if text is UNSET else parse(text)


def answered(
    make: Callable[[], Result[T]], reply: Callable[[T], bytes | None], failed: ErrorTranslation, if_failed: IfFailed
) -> Result[bytes | None]:
    """Make a call of an adapter, and word what it answers. With `if_failed`, a condition that does not hold is worded, too."""
    try:
        try:
            answer = make()
        except ConditionFailed as error:
            if if_failed is None:
                raise
            return _unmet(error)
    except StoreError as error:
        raise failed(error) from None
    if not isinstance(answer, asyncio.Future):
        return reply(answer)
    following = then(answer, reply, failed)
    if if_failed is None or not isinstance(following, asyncio.Future):
        return following
    told: asyncio.Future[bytes | None] = following.get_loop().create_future()

    def settle(settled: asyncio.Future[bytes | None]) -> None:
        if told.cancelled():
            settled.cancelled() or settled.exception()
        elif settled.cancelled():
            told.cancel()
        elif (error := settled.exception()) is None:
            told.set_result(settled.result())
        elif isinstance(error, ConditionFailed):
            try:
                told.set_result(_unmet(error))
            except Exception as failure:
                told.set_exception(failed(failure))
        else:
            told.set_exception(error)

    following.add_done_callback(settle)
    return told


def _unmet(error: ConditionFailed) -> bytes:
    """The result of a call of which a condition did not hold. Whoever may write a scope may read it, too."""
    if not error.is_recorded:
        raise OldValueUnknown(
            f"an earlier attempt was refused by condition {error.index}; the value that was there was too large to be recorded"
        )
    step = b"" if error.step is None else b'"step":%d,' % error.step
    text = error.text
    return b'{"applied":false,"condition":%d,%b"value":%b,"etag":%b}' % (
        error.index,
        step,
        b"null" if text is None else text,
        _etag(text),
    )


def replaced(request: Replacement, new: bytes, old: bytes | None) -> bytes:
    """The reply of `state::set`."""
    return b"{%b}" % b",".join(_members(request, old, new, None))


def replaced_with_meta(request: Replacement, new: bytes, found: Replaced) -> bytes:
    """The reply of `state::set` with `meta`."""
    return b"{%b}" % b",".join(_members(request, found.old, new, found.revision))


def updated(request: Replacement, found: Updated) -> bytes:
    """The reply of `state::update`."""
    members = _members(request, found.old, found.new, found.revision)
    if found.errors:
        members.append(b'"errors":%b' % values.encode(found.errors))
    return b"{%b}" % b",".join(members)


def removed(found: Replaced) -> bytes:
    """The reply of `state::delete` with `meta`: nothing is stored now, since this revision."""
    return b'{"old_value":%b,%b}' % (b"null" if found.old is None else found.old, _meta(None, found.revision))


def read(found: Reading) -> bytes:
    """The reply of `state::get` with `meta`."""
    left = b"null" if found.ttl_ms is None else b"%d" % found.ttl_ms
    text = b"null" if found.text is None else found.text
    return b'{"value":%b,"ttl_ms":%b,%b}' % (text, left, _meta(found.text, found.revision))


def _members(request: Replacement, old: bytes | None, new: bytes, revision: int | None) -> list[bytes]:
    wanted = request.returned
    members: list[bytes] = []
    if wanted is None or wanted == "both" or wanted == "old":
        members.append(b'"old_value":%b' % (b"null" if old is None else old))
    if wanted is None or wanted == "both" or wanted == "new":
        members.append(b'"new_value":%b' % new)
    if request.meta:
        members.append(_meta(new, revision))
    return members


def _meta(stored: bytes | None, revision: int | None) -> bytes:
    return b'"etag":%b,"revision":%b' % (_etag(stored), b"null" if revision is None else b"%d" % revision)


def _etag(stored: bytes | None) -> bytes:
    return b"null" if stored is None else b'"%b"' % values.etag(stored).encode()
