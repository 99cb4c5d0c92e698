"""What a remote of this project keeps for the subscriptions of its bridges: how much waits, and dead letters.

A subscription's function at the remote is named after it, so that its dead letters can be told from others, and read by people.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.adapters.bridge import answers
from iii_state.adapters.bridge.remote import Remote
from iii_state.errors import Code, FunctionError
from iii_state.events import DeadLetter, Event, EventType, Subscription

PREFIX = "iii-state::bridge::"

MAX_SHOWN = 1000
"""The most dead letters of one answer."""


class Queue(msgspec.Struct, frozen=True):
    """A queue at the remote, and what it holds."""

    function_id: str
    waiting: int
    pending: int
    retrying: int
    dead: int
    dropped: int
    oldest_at_ms: int | None


NOTHING = Queue("", 0, 0, 0, 0, 0, None)


class _Queues(msgspec.Struct):
    triggers: list[Queue]


class _Event(msgspec.Struct):
    event_type: EventType
    scope: str
    key: str
    old_value: Raw
    new_value: Raw


class _Letter(msgspec.Struct):
    id: str
    function_id: str
    attempts: int
    error: str
    buried_at_ms: int
    event: _Event | None = None


class _Letters(msgspec.Struct):
    dead: list[_Letter]


_queues = msgspec.json.Decoder(_Queues)
_letters = msgspec.json.Decoder(_Letters)


def function_of(subscription: Subscription, bridge: str | None) -> str:
    """The name of a subscription's function at the remote; with a bridge's id, of that bridge alone."""
    mark = "" if bridge is None else f"{bridge}::"
    return f"{PREFIX}{subscription.id}::{mark}{subscription.function_id}"


async def queues(remote: Remote) -> dict[str, Queue]:
    """The queues of all bridges at the remote, by their functions."""
    read = answers.checked(remote.url, "iii-state::triggers", lambda text: _queues.decode(text or b"null"))
    found = await remote.call(b'"iii-state::triggers"', b'{"of":null', read)
    return {queue.function_id: queue for queue in found.triggers if queue.function_id.startswith(PREFIX)}


async def dead_letters(remote: Remote) -> list[DeadLetter]:
    """The dead letters of all bridges at the remote, oldest first."""
    read = answers.checked(remote.url, "iii-state::dead_list", lambda text: _letters.decode(text or b"null"))
    listed = await remote.call(b'"iii-state::dead_list"', b'{"limit":%d' % MAX_SHOWN, read)
    functions = {letter.function_id: None for letter in listed.dead if letter.function_id.startswith(PREFIX)}
    found: list[DeadLetter] = []
    for function_id in functions:
        data = b'{"limit":%d,"function_id":%b' % (MAX_SHOWN, values.encode_string(function_id))
        shown = await remote.call(b'"iii-state::dead_show"', data, read)
        found += [_dead_letter(letter, letter.event) for letter in shown.dead if letter.event is not None]
    return sorted(found, key=lambda letter: letter.buried_at_ms)


def _dead_letter(letter: _Letter, event: _Event) -> DeadLetter:
    subscription_id, _, function_id = letter.function_id.removeprefix(PREFIX).partition("::")
    old = None if event.event_type == "state:created" else answers.value(bytes(event.old_value))
    new = None if event.event_type == "state:deleted" else answers.value(bytes(event.new_value))
    return DeadLetter(
        id=letter.id,
        subscription_id=subscription_id,
        function_id=function_id,
        event=Event(letter.id, event.scope, event.key, event.event_type, old, new),
        attempts=letter.attempts,
        error=letter.error,
        buried_at_ms=letter.buried_at_ms,
    )


async def each(remote: Remote, name: str, word: str, dead_letter_id: str) -> bool:
    """Retry or drop a dead letter at the remote; False if it is not there."""
    function_id = f"iii-state::{name}"
    read = answers.checked(remote.url, function_id, lambda text: values.decode(text or b"null"))
    try:
        data = b'{"id":%b' % values.encode_string(dead_letter_id)
        answer = await remote.call(values.encode_string(function_id), data, read)
    except FunctionError as error:
        if error.code == Code.NOT_FOUND:
            return False
        raise
    return bool(answer[word])
