"""What a remote calls a bridge's functions with: an event, and, from a remote of this project, which delivery of it this is."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from iii_state import lineages
from iii_state.adapters.bridge.remote import results
from iii_state.errors import Code, FunctionError, InvalidValue
from iii_state.events import Change, EventType, known_cause
from iii_state.filters import LEFT_OUT
from iii_state.values import Json


class _Event(msgspec.Struct):
    event_type: EventType
    scope: str
    key: str
    old_value: Raw | UnsetType = UNSET
    new_value: Raw | UnsetType = UNSET
    cause: Any = None


class Mark(msgspec.Struct):
    """What a remote of this project says of the delivery: the event's id there, attempt, fence, crashes, and how many events were
    dropped before it, where the trigger bounds its queue so."""

    event_id: str
    attempt: int = 1
    fence: int = 0
    crashes: int = 0
    dropped: int = 0


class _Metadata(msgspec.Struct):
    iii_state: Mark | None = None


_event = msgspec.json.Decoder(_Event)
_metadata = msgspec.json.Decoder(_Metadata)


def read_mark(metadata: Json | None) -> Mark | None:
    """What the metadata of a call say of the delivery; None from any remote that is not of this project."""
    if metadata is None:
        return None
    try:
        return _metadata.decode(metadata).iii_state
    except (msgspec.MsgspecError, RecursionError):
        return None


def read_event(data: Json, write_id: str) -> Change:
    """The event of a call. Raises `FunctionError` for what is none."""
    try:
        event = _event.decode(data)
        old = None if event.event_type == "state:created" else _stored(event.old_value)
        if event.event_type == "state:deleted" and old == b"null":  # which is said of a missing key, too
            old = None
        new = None if event.event_type == "state:deleted" else _stored(event.new_value)
    except (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeError) as error:
        raise FunctionError(Code.DESERIALIZATION_ERROR, f"this is no event of a state trigger: {error}") from None
    place = (write_id, event.scope, event.key, event.event_type)
    return Change(*place, old, new, known_cause(event.cause), lineages.before_delivery(lineages.current()))


def _stored(text: Raw | UnsetType) -> bytes | None:
    """The stored form of a value; one that is absent has been left out, as the trigger's `payload` has it."""
    return LEFT_OUT if text is UNSET or isinstance(text, UnsetType) else results.stored(text)
