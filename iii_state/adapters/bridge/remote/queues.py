"""What a remote of this project keeps for the subscriptions of its bridges: how much waits, and dead letters.

A subscription's function at the remote is named after it, so that its dead letters can be told from others, and read by people.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from iii_state import values
from iii_state.adapters.bridge.remote import results
from iii_state.adapters.bridge.remote.remote import Remote
from iii_state.errors import Code, FunctionError
from iii_state.events import BRIDGE_FUNCTIONS, Change, DeadLetter, EventType, Subscription, known_cause
from iii_state.filters import LEFT_OUT

_OF_ONE_BRIDGE = re.compile("^[0-9a-f]{16}::")
"""What follows the subscription in the name of a function that one bridge alone has: its id."""

MAX_SHOWN = 1000
"""The most dead letters of one answer."""


class RemoteQueue(msgspec.Struct, frozen=True):
    """A queue at the remote, and what it holds."""

    function_id: str
    waiting: int
    pending: int
    retrying: int
    dead: int
    dropped: int
    oldest_at_ms: int | None
    looping: bool = False
    id: str = ""
    """Of the subscription there; empty where the remote is of 0.2.0 or before."""
    paused_at_ms: int | None = None


NOTHING = RemoteQueue("", 0, 0, 0, 0, 0, None)


class _Queues(msgspec.Struct):
    triggers: list[RemoteQueue]


class _Event(msgspec.Struct):
    event_type: EventType
    scope: str
    key: str
    old_value: Raw | UnsetType = UNSET
    new_value: Raw | UnsetType = UNSET
    cause: Any = None


class _DeadLetter(msgspec.Struct):
    id: str
    function_id: str
    attempts: int
    error: str
    buried_at_ms: int
    event: _Event | None = None


class _DeadLetters(msgspec.Struct):
    dead: list[_DeadLetter]


_queues = msgspec.json.Decoder(_Queues)
_dead_letters = msgspec.json.Decoder(_DeadLetters)


def function_of(subscription: Subscription, bridge: str | None) -> str:
    """The name of a subscription's function at the remote; with a bridge's id, of that bridge alone."""
    mark = "" if bridge is None else f"{bridge}::"
    return f"{BRIDGE_FUNCTIONS}{subscription.id}::{mark}{subscription.function_id}"


async def queues(remote: Remote) -> dict[str, RemoteQueue]:
    """The queues of all bridges at the remote, by their functions."""
    triggers = results.function(remote.url, "iii-state::triggers", lambda text: _queues.decode(text or b"null"))
    found = await remote.call(triggers, b'{"of":null')
    return {queue.function_id: queue for queue in found.triggers if queue.function_id.startswith(BRIDGE_FUNCTIONS)}


async def dead_letters(remote: Remote) -> list[DeadLetter]:
    """The dead letters of all bridges at the remote, oldest first."""
    listed = await _pages(remote, "iii-state::dead_list", b"")
    functions = {row.function_id: None for row in listed if row.function_id.startswith(BRIDGE_FUNCTIONS)}
    found: list[DeadLetter] = []
    for function_id in functions:
        shown = await _pages(remote, "iii-state::dead_show", b',"function_id":%b' % values.encode_string(function_id))
        found += [_dead_letter(row, row.event) for row in shown if row.event is not None]
    return sorted(found, key=lambda dead_letter: dead_letter.buried_at_ms)


async def _pages(remote: Remote, name: str, chosen: bytes) -> list[_DeadLetter]:
    """All that the remote answers, page after page. One of 0.2.0 or before knows no `after`, and answers the first one alone."""
    function = results.function(remote.url, name, _read_dead_letters)
    found: dict[str, _DeadLetter] = {}
    after = b""
    while True:
        try:
            page = await remote.call(function, b'{"limit":%d%b%b' % (MAX_SHOWN, chosen, after))
        except FunctionError as error:
            if not after or error.code != Code.NOT_FOUND:
                raise
            page, found = await remote.call(function, b'{"limit":%d%b' % (MAX_SHOWN, chosen)), {}  # it has gone meanwhile
        known = len(found)
        found.update((row.id, row) for row in page)
        if len(found) == known:
            return list(found.values())
        after = b',"after":%b' % values.encode_string(page[-1].id)


async def dead_retry(remote: Remote, dead_letter_id: str) -> bool:
    """Retry a dead letter at the remote; False if it is not there."""
    return await _each(remote, "iii-state::dead_retry", "retried", dead_letter_id)


async def dead_drop(remote: Remote, dead_letter_id: str) -> bool:
    """Drop a dead letter at the remote; False if it is not there."""
    return await _each(remote, "iii-state::dead_drop", "dropped", dead_letter_id)


async def _each(remote: Remote, function_id: str, counted: str, dead_letter_id: str) -> bool:
    function = results.function(remote.url, function_id, lambda text: values.decode(text or b"null"))
    try:
        result = await remote.call(function, b'{"id":%b' % values.encode_string(dead_letter_id))
    except FunctionError as error:
        if error.code == Code.NOT_FOUND:
            return False
        raise
    return bool(result[counted])


async def pause(remote: Remote, subscription_id: str) -> int:
    """Pause a subscription at the remote; answers how many of its events are out."""
    return int((await _control(remote, "pause", subscription_id))["out"])


async def resume(remote: Remote, subscription_id: str) -> bool:
    """Resume a subscription at the remote; False where it was not paused."""
    return bool((await _control(remote, "resume", subscription_id))["resumed"])


async def purge(remote: Remote, subscription_id: str) -> int:
    """Drop what waits for a subscription at the remote; answers how many events that were."""
    return int((await _control(remote, "purge", subscription_id))["dropped"])


async def _control(remote: Remote, word: str, subscription_id: str) -> Any:
    function = results.function(remote.url, f"iii-state::trigger_{word}", lambda text: values.decode(text or b"null"))
    return await remote.call(function, b'{"id":%b' % values.encode_string(subscription_id))


def _read_dead_letters(text: bytes | None) -> list[_DeadLetter]:
    return _dead_letters.decode(text or b"null").dead


def _dead_letter(row: _DeadLetter, event: _Event) -> DeadLetter:
    subscription_id, _, function_id = row.function_id.removeprefix(BRIDGE_FUNCTIONS).partition("::")
    function_id = _OF_ONE_BRIDGE.sub("", function_id)
    old = None if event.event_type == "state:created" else _value(event.old_value)
    new = None if event.event_type == "state:deleted" else _value(event.new_value)
    return DeadLetter(
        id=row.id,
        subscription_id=subscription_id,
        function_id=function_id,
        event=Change(row.id, event.scope, event.key, event.event_type, old, new, known_cause(event.cause)),
        attempts=row.attempts,
        error=row.error,
        buried_at_ms=row.buried_at_ms,
    )


def _value(text: Raw | UnsetType) -> bytes | None:
    return LEFT_OUT if isinstance(text, UnsetType) else results.value(bytes(text))
