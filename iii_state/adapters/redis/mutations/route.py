"""A route: which events a queue wants, and what of them, as it lies in Redis beside those of all other queues."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import msgspec

from iii_state.adapters.prefix_routes import Wanted
from iii_state.events import OnFull, Payload, QueueLimits, Subscription
from iii_state.filters import Filter

_encode = msgspec.json.Encoder().encode


_BITS = {"state:created": 1, "state:updated": 2, "state:deleted": 4}


class Route(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """What lies in Redis for a queue: which events it wants (None for any), and whose it is.

    Engines of 0.2.0 know the first three alone, and read all others as absent: they queue more than is wanted, never less, and what
    does not match is found before it is handed out. A route without the others is the text that it always was.
    """

    scope: str | None
    key: str | None
    function_id: str
    scope_prefix: str | None = None
    key_prefix: str | None = None
    filter: Filter | None = None
    coalesce: bool = False
    payload: Payload = "full"
    on_full: OnFull | None = None
    max_queue_length: int | None = None
    max_queue_bytes: int | None = None

    @cached_property
    def prefixes(self) -> Wanted | None:
        """What it wants where it has a prefix, None where it has none."""
        if self.scope_prefix is None and self.key_prefix is None:
            return None
        return Wanted(self.scope, self.key, self.scope_prefix, self.key_prefix)

    @cached_property
    def filter_words(self) -> tuple[bytes, tuple[bytes, ...]]:
        """What lua/lib/queues/narrow.lua is told: the queue's head without its number, and the words behind it; an empty head where
        it wants every event as it is."""
        if self.filter is None and not self.coalesce and self.payload == "full":
            return b"", ()
        narrowing = self.filter or Filter()
        types = sum(_BITS[event_type] for event_type in narrowing.event_types)
        is_simple = not narrowing.conditions and all(line and not names for line, names in narrowing.tokens)
        head = b"%b%d%d%c%b" % (
            self.payload[0].encode(),
            self.coalesce,
            types,
            48 + len(narrowing.changed),
            b"gs"[is_simple : is_simple + 1],
        )
        if is_simple:
            return head, tuple(line for line, _ in narrowing.tokens)
        words: list[bytes] = []
        for line, names in narrowing.tokens:
            words += (b"%d" % (1 + len(names)), line, *names) if line else (b"0",)
        for of_old in (True, False):
            conditions = narrowing.condition_words(of_old=of_old)
            words += (b"%d" % len(conditions), *conditions)
        return head, (b"%d" % len(words), *words)

    @cached_property
    def is_narrowed(self) -> bool:
        """Whether its queue does not want every event as it is."""
        return bool(self.filter_words[0])

    @cached_property
    def own_limits(self) -> bool:
        """Whether any bound of its queue is its own."""
        return self.on_full is not None or self.max_queue_length is not None or self.max_queue_bytes is not None

    def limits(self, others: QueueLimits) -> QueueLimits:
        """The bounds of its queue: its own, where it has any, and otherwise the adapter's."""
        if not self.own_limits:
            return others
        own = {name: getattr(self, name) for name in ("on_full", "max_queue_length", "max_queue_bytes")}
        return msgspec.structs.replace(others, **{name: value for name, value in own.items() if value is not None})


def route_of(subscription: Subscription) -> Route:
    """The route of a subscription's queue."""
    return Route(**{name: getattr(subscription, name) for name in Route.__struct_fields__})


def route_text(subscription: Subscription) -> bytes:
    """The same as it lies in Redis."""
    return _encode(route_of(subscription))


def with_filters(arguments: Sequence[bytes], wanted: list[tuple[bytes, Route]]) -> list[bytes]:
    """The own arguments of a mutation, with the group that tells what the queues want that do not want every event as it is."""
    words: list[bytes] = []
    for number, (_, route) in enumerate(wanted, 1):
        if route.is_narrowed:
            head, more = route.filter_words
            words += (b"%b%d" % (head, number), *more)
    conditions = 2 + int(arguments[1]) if arguments and arguments[0] == b"if" else 0
    return [*arguments[:conditions], b"want", b"%d" % len(words), *words, *arguments[conditions:]]
