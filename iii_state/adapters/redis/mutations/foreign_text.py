"""Texts that may be another writer's: checked before they go anywhere."""

from __future__ import annotations

import logging

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.errors import InvalidValue, StoreError
from iii_state.events import Change
from iii_state.filters import LEFT_OUT

logger = logging.getLogger(__name__)

OURS = values.FRAME_START + b'"'
"""How a stored object begins that this module has written; no serialiser writes it."""

OURS_END = b"\n}"
"""How it ends. What only begins so has been cut off, or is another writer's."""

_raw = msgspec.json.Decoder(Raw)


def is_ours(text: bytes) -> bool:
    """Whether a text is a framed object, as only this module writes them."""
    return text.startswith(OURS) and text.endswith(OURS_END)


def stored_form(text: bytes) -> bytes:
    """The stored form of a text that lies in Redis; what begins and ends as ours is trusted.

    Raises `InvalidValue` for what is no JSON, no UTF-8, or more than is ever stored.
    """
    if is_ours(text):
        return text
    try:
        text.decode()
        return values.to_stored(_raw.decode(text))
    except (UnicodeDecodeError, RecursionError, msgspec.MsgspecError) as error:
        raise values.unreadable(error) from None


def checked(scope: str, key: str, text: bytes) -> bytes:
    """The stored form of a text that lies at this place. Raises `StoreError` where it is no JSON."""
    try:
        return stored_form(text)
    except InvalidValue as error:
        raise StoreError(f"the value at scope {scope!r}, key {key!r} is not ours, and no JSON: {error}") from None


def check_event(event: Change) -> None:
    """The old value may be another writer's, the new one of a foreign write is: what is no JSON counts as null."""
    event.old = _checked(event, event.old, "what was replaced")
    if event.cause == "foreign":
        event.new = _checked(event, event.new, "what is there now")


def _checked(event: Change, text: bytes | None, which: str) -> bytes | None:
    if text is None or is_ours(text) or text == LEFT_OUT:
        return text
    try:
        return stored_form(text)
    except InvalidValue as error:
        name = f"scope {event.scope!r}, key {event.key!r}"
        logger.warning("the event of %s has null for %s, which is not ours, and no JSON: %s", name, which, error)
        return None
