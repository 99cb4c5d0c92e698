"""The config of a `state` trigger: read, checked, and made a subscription of."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from iii_state import config as configuration
from iii_state import values
from iii_state.config import Settings
from iii_state.errors import ConfigError, InvalidValue
from iii_state.events import Batch, EventType, OnFull, Payload, Subscription
from iii_state.filters import Filter
from iii_state.host import Trigger
from iii_state.values.conditions import parse
from iii_state.values.ops import MAX_SEGMENT_BYTES, MAX_SEGMENTS

logger = logging.getLogger(__name__)

MAX_PATHS = 32
"""So many paths may `changed` have, and so many conditions `when`."""

MAX_BATCH = 1000
MAX_BATCH_WAIT_MS = 60_000

_EVENT_TYPES: dict[str, EventType] = {
    "state:created": "state:created",
    "state:updated": "state:updated",
    "state:deleted": "state:deleted",
    "created": "state:created",
    "updated": "state:updated",
    "deleted": "state:deleted",
}


class BatchConfig(msgspec.Struct):
    """The member `batch`: how many events at most, and how long the first waits for others."""

    max: Annotated[int, Meta(ge=1, le=MAX_BATCH)]
    wait_ms: Annotated[int, Meta(ge=0, le=MAX_BATCH_WAIT_MS)] = 0


class TriggerConfig(msgspec.Struct):
    """The config of a `state` trigger; unknown members are ignored, with a warning."""

    scope: str | None = None
    key: str | None = None
    condition_function_id: str | None = None
    delivery: Literal["once", "broadcast"] | None = None
    retry: dict[str, Any] | None = None
    retention_ms: int | Literal["forever"] | None = None
    concurrency: int | None = None
    scope_prefix: str | None = None
    key_prefix: str | None = None
    event_types: list[str] | None = None
    changed: list[str | list[str]] | None = None
    when: list[dict[str, Raw]] | None = None
    coalesce: bool | None = None
    payload: Payload | None = None
    batch: BatchConfig | None = None
    on_full: OnFull | None = None
    max_queue_length: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    max_queue_bytes: Annotated[int, Meta(ge=1, le=2**53)] | None = None


_MEMBERS = TriggerConfig.__struct_fields__
_trigger = msgspec.json.Decoder(TriggerConfig)
_members = msgspec.json.Decoder(dict[str, Raw])


def subscription_of(trigger: Trigger, settings: Settings, *, warns: bool = False) -> Subscription:
    """What a trigger subscribes to; `settings` are what its config may leave out. With `warns` the log tells of members that
    nobody knows.

    Raises `ConfigError`, or what `values.requests.describe` makes words of, for a config that cannot be used.
    """
    is_given = trigger.config is not None and trigger.config != b"null"
    given = _trigger.decode(trigger.config) if is_given and trigger.config is not None else TriggerConfig()
    if warns and is_given and trigger.config is not None:
        _warn_of_unknown(trigger.function_id, _members.decode(trigger.config))
    retry = configuration.section("retry.", given.retry or {}, configuration.RETRY_CHECKS)
    if given.retention_ms is not None:
        configuration.retention("retention_ms", given.retention_ms)
    if given.concurrency is not None:
        configuration.integer(1, 100_000)("concurrency", given.concurrency)
    for name in ("scope", "key"):
        if getattr(given, name) is not None and getattr(given, f"{name}_prefix") is not None:
            raise ConfigError(f"`{name}` and `{name}_prefix` cannot be given together")
    return Subscription(
        function_id=trigger.function_id,
        namespace=trigger.namespace,
        scope=given.scope,
        key=given.key,
        condition_function_id=given.condition_function_id,
        delivery=given.delivery or "once",
        retry=msgspec.structs.replace(settings.retry, **retry),
        concurrency=given.concurrency,
        retention_ms=settings.retention_ms if given.retention_ms is None else given.retention_ms,
        metadata=trigger.metadata,
        scope_prefix=given.scope_prefix or None,
        key_prefix=given.key_prefix or None,
        filter=_filter(given),
        coalesce=bool(given.coalesce),
        payload=given.payload or "full",
        batch=None if given.batch is None else Batch(given.batch.max, given.batch.wait_ms),
        on_full=given.on_full,
        max_queue_length=given.max_queue_length,
        max_queue_bytes=given.max_queue_bytes,
    )


def _warn_of_unknown(function_id: str, members: dict[str, Raw]) -> None:
    for name in members:
        if name not in _MEMBERS:
            near = difflib.get_close_matches(name, _MEMBERS, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_MEMBERS)}"
            logger.warning(
                "the config of a state trigger of %s has an unknown member %.100r, which is ignored; %s", function_id, name, hint
            )


def _filter(given: TriggerConfig) -> Filter | None:
    narrowing = Filter(_event_types(given.event_types), _changed(given.changed), *_when(given.when))
    return None if narrowing == Filter() else narrowing


def _event_types(given: Sequence[str] | None) -> tuple[str, ...]:
    """In their canonical form: all of them are none."""
    if given is None:
        return ()
    if not given:
        raise ConfigError("event_types has to name one type at least")
    unknown = [name for name in given if name not in _EVENT_TYPES]
    if unknown:
        raise ConfigError(f"event_types may have state:created, state:updated and state:deleted, not {unknown[0]!r:.100}")
    types = sorted({_EVENT_TYPES[name] for name in given})
    return () if len(types) == 3 else tuple(types)


def _changed(given: Sequence[str | Sequence[str]] | None) -> tuple[tuple[str, ...], ...]:
    if given is None:
        return ()
    if not 1 <= len(given) <= MAX_PATHS:
        raise ConfigError(f"changed has to have 1 to {MAX_PATHS} paths, not {len(given)}")
    return tuple(sorted({_path(path) for path in given}))


def _when(given: Sequence[dict[str, Raw]] | None) -> tuple[str, str]:
    """The conditions on the old value, and those on the new one, each in their canonical form; empty for none."""
    if given is None:
        return "", ""
    if not 1 <= len(given) <= MAX_PATHS:
        raise ConfigError(f"when has to have 1 to {MAX_PATHS} conditions, not {len(given)}")
    canonical: dict[str, set[bytes]] = {"old": set(), "new": set()}
    for index, members in enumerate(given):
        of = bytes(members.pop("of", b'"new"'))
        if of not in (b'"old"', b'"new"'):
            raise ConfigError(f'when[{index}].of has to be "old" or "new"')
        try:
            [condition] = parse(b"[%b]" % values.compact_members(members)).all
        except InvalidValue as error:
            raise ConfigError(str(error).replace("if[0]", f"when[{index}]", 1)) from None
        if condition.test == "revision":
            raise ConfigError(f"when[{index}]: a trigger cannot go by the `revision`")
        canonical[of[1:-1].decode()].add(condition.canonical())
    old, new = (b"[%b]" % b",".join(sorted(texts)) if texts else b"" for texts in canonical.values())
    return old.decode(), new.decode()


def _path(given: str | Sequence[str]) -> tuple[str, ...]:
    if not given:
        return ()
    names = (given,) if isinstance(given, str) else tuple(given)
    if len(names) > MAX_SEGMENTS:
        raise ConfigError(f"changed: path depth {len(names)} exceeds maximum of {MAX_SEGMENTS}")
    for name in names:
        if not name or len(name.encode()) > MAX_SEGMENT_BYTES:
            raise ConfigError(f"changed: a path segment has 1 to {MAX_SEGMENT_BYTES} bytes of UTF-8, not {name!r:.100}")
    return names
