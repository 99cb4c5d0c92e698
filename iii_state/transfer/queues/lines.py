"""The lines of queues in an export, behind those of the values: a queue, behind it its events, and behind those its dead letters.

    {"queue":{"id":"9c0e…","subscription":{"function_id":"orders::changed",…},"dropped":0,"paused_at_ms":null,"fence":3}}
    {"event":{"write_id":"1-2-3","event_type":"state:created","scope":"orders","key":"17","new_value":{},"attempt":2,"due_ms":1795…}}
    {"dead_letter":{"function_id":…,"write_id":…,…,"attempts":5,"error":"FAILED: it failed","buried_at_ms":1795…}}

What was no value has no member; what a trigger's `payload` leaves out of its events is named in `left_out`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.errors import TransferError
from iii_state.events import Change, EventType, Subscription
from iii_state.filters import LEFT_OUT
from iii_state.lineages import Lineage
from iii_state.transfer.queues.rows import BuriedEvent, QueuedEvent, QueueHead, QueueItem

_NOTHING = Raw(b"")
_SIDES = ("old_value", "new_value")


class _Queue(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    subscription: Subscription | None = None
    dropped: int = 0
    paused_at_ms: int | None = None
    fence: int = 0


class _Event(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    write_id: str
    event_type: EventType
    scope: str
    key: str
    old_value: Raw = _NOTHING
    new_value: Raw = _NOTHING
    left_out: list[str] = []

    def change(self, lineage: Lineage | None = None) -> Change:
        old, new = (
            LEFT_OUT if name in self.left_out else None if raw == _NOTHING else values.to_stored(raw)
            for name, raw in zip(_SIDES, (self.old_value, self.new_value), strict=True)
        )
        return Change(self.write_id, self.scope, self.key, self.event_type, old, new, lineage=lineage)


class _Waiting(_Event, forbid_unknown_fields=True, kw_only=True):
    attempt: int = 1
    crashes: int = 0
    due_ms: int | None = None
    lineage: Lineage | None = None


class _Buried(_Event, forbid_unknown_fields=True, kw_only=True):
    function_id: str
    attempts: int
    error: str
    buried_at_ms: int


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """One of the members is there: the one that the line begins with."""

    queue: _Queue | None = None
    event: _Waiting | None = None
    dead_letter: _Buried | None = None


_decoder = msgspec.json.Decoder(_Line)
_BEGINNINGS = (b'{"queue":', b'{"event":', b'{"dead_letter":')


def is_queue_line(line: bytes) -> bool:
    """Whether a line is one of these."""
    return line.startswith(_BEGINNINGS)


def queue_line(item: QueueItem) -> bytes:
    """The line of an item."""
    if isinstance(item, QueueHead):
        return b'{"queue":%b}\n' % values.encode(item._asdict())
    members = _members(item.event)
    if isinstance(item, QueuedEvent):
        if item.attempt != 1:
            members["attempt"] = item.attempt
        if item.crashes:
            members["crashes"] = item.crashes
        if item.due_ms is not None:
            members["due_ms"] = item.due_ms
        if item.event.lineage is not None:
            members["lineage"] = item.event.lineage
        return b'{"event":%b}\n' % values.encode(members)
    told = {"function_id": item.function_id, "attempts": item.attempts, "error": item.error, "buried_at_ms": item.buried_at_ms}
    return b'{"dead_letter":%b}\n' % values.encode({**members, **told})


def _members(event: Change) -> dict[str, Any]:
    members: dict[str, Any] = {"write_id": event.write_id, "event_type": event.event_type, "scope": event.scope, "key": event.key}
    left_out = []
    for name, text in zip(_SIDES, (event.old, event.new), strict=True):
        if text == LEFT_OUT:
            left_out.append(name)
        elif text is not None:
            members[name] = Raw(values.unframe(text) if text.startswith(values.FRAME_START) else text)
    if left_out:
        members["left_out"] = left_out
    return members


def item_of(line: bytes) -> QueueItem:
    """The item of a line. Raises `TransferError`, and what values and msgspec raise for what is not as it has to be."""
    read = _decoder.decode(line)
    if (head := read.queue) is not None:
        if head.subscription is not None and head.subscription.id != head.id:
            raise TransferError(f"the queue {head.id!r} is not that of its subscription, which is {head.subscription.id!r}")
        return QueueHead(head.id, head.subscription, head.dropped, head.paused_at_ms, head.fence)
    if (waiting := read.event) is not None:
        if waiting.attempt < 1 or waiting.crashes < 0:
            raise TransferError(f"attempt {waiting.attempt} with {waiting.crashes} crashes is none")
        return QueuedEvent(waiting.change(waiting.lineage), waiting.attempt, waiting.crashes, waiting.due_ms)
    if (buried := read.dead_letter) is not None:
        return BuriedEvent(buried.change(), buried.function_id, buried.attempts, buried.error, buried.buried_at_ms)
    raise TransferError("there is no queue, event or dead letter")
