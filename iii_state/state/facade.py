"""State for the program that embeds the engine: `state::*` as typed Python calls, handlers as decorated functions, watches."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar, overload

from iii_state.client.following import Following
from iii_state.events import TRIGGERS_V2, EventType, OnFull
from iii_state.history import MOST_CHANGES
from iii_state.state.conditions import Condition
from iii_state.state.features import check_features
from iii_state.state.handlers import EmbeddingEngine, EventHandler, Handlers
from iii_state.state.log_source import FollowedScope
from iii_state.state.ops import OpPath
from iii_state.state.outcomes import (
    SetResult,
    StateChange,
    StepResult,
    Stored,
    UpdateResult,
    check_met,
    check_steps_met,
    op_errors,
)
from iii_state.state.steps import Step
from iii_state.state.watch import WATCH_BOUNDS, Watch, Watches

H = TypeVar("H", bound=EventHandler)

Order = Literal["asc", "desc"]
Returned = Literal["both", "new", "old", "none"]
Changed = Literal["created", "updated", "deleted"]

WATCH_EVENTS = 1000
"""How many events a watch keeps for its reader, if it is not told otherwise."""

PAGE_ENTRIES, PAGE_BYTES = 1000, 8_000_000
"""The largest page that `state::list_entries` gives."""


class Retry(TypedDict, total=False):
    """How often and when a failing handler is called again; what is left out is as configured (`dispatch`).

    `max_attempts` counts the first one, too; the event is a dead letter then. The times are milliseconds: the pause doubles from
    `backoff_ms` to `max_backoff_ms`; a handler that takes longer than `timeout_ms` has failed.

    >>> patient = Retry(max_attempts=20, backoff_ms=500, max_backoff_ms=600_000)
    >>> @state.on_change(scope="mail", retry=patient)
    ... async def send(event: Event) -> None: ...
    """

    max_attempts: int
    backoff_ms: int
    max_backoff_ms: int
    timeout_ms: int


class State:
    """The state of an engine in this process.

        >>> async with Engine() as engine:
        ...     await engine.add_module(StateModule())
        ...     state = State(engine)
        ...     await state.set("orders", "o1", {"n": 1, "items": []})
        ...     result = await state.update("orders", "o1", [ops.increment("n"), ops.append("items", "book")])
        ...     print(result.new_value)
        SetResult(old_value=None, new_value={'n': 1, 'items': []})
        {'n': 2, 'items': ['book']}

    `scope` and `key` are any strings. Values are Python objects of JSON: dict, list, str, int of any size (64 bits for arithmetic),
    finite float, bool, None, and what msgspec encodes as such (dataclasses, structs, datetimes). They come back as they were
    written: an int as an int, `1.0` as a float, the members of a dict in their order.

    It may be made before the engine runs. Each call is a call of the function of the same name (`State.set` is `state::set`), and
    fails as that does, with a `FunctionError` whose `code` says why: `deserialization_error` for what is no JSON,
    `VALUE_TOO_LARGE`, `SET_ERROR`, `GET_ERROR` and so on for what the store could not do, `function_not_found` in an engine without
    state, `UNSUPPORTED` where its state worker is an older one, which lacks what is asked for: then nothing was done.
    `RuntimeError` is raised where the engine does not run.
    """

    def __init__(self, engine: EmbeddingEngine) -> None:
        self._engine = engine
        self._handlers = Handlers(engine)
        self._watches = Watches(engine, self.start)

    async def _call(self, function: str, **payload: Any) -> Any:
        if self._handlers.pending:
            await self._handlers.register()
        return await self._engine.trigger({"function_id": f"state::{function}", "payload": payload})

    async def _ask(self, function: str, needs: Mapping[str, Any], **payload: Any) -> Any:
        """A call that the engine has to have these features for, of which each is needed that is set."""
        features = [feature for feature, is_needed in needs.items() if is_needed]
        if features:
            await check_features(self._engine, features)
        return await self._call(function, **payload)

    # -- values

    async def set(
        self,
        scope: str,
        key: str,
        value: Any,
        *,
        ttl_ms: int | None = None,
        only_if: Sequence[Condition] | None = None,
        meta: bool = False,
        return_: Returned = "both",
    ) -> SetResult:
        """Store a value in place of the one there is. With `ttl_ms` (milliseconds) it goes by itself then; without, it stays.

        `only_if` are conditions on what is stored, made by the functions of `iii_state.conditions`: where one does not hold,
        nothing is changed, and `ConditionUnmet` is raised, which has what is there. `meta` asks for `etag` and `revision` of
        the result. `return_` says which values are wanted back; the others are None: of a large value that saves its way.

        >>> await state.set("orders", "o1", {"n": 1})
        SetResult(old_value=None, new_value={'n': 1})
        >>> await state.set("orders", "o1", [1.0, 2**63], ttl_ms=60_000)
        SetResult(old_value={'n': 1}, new_value=[1.0, 9223372036854775808])
        >>> first = await state.set("orders", "o9", "large", only_if=[conditions.absent()], meta=True, return_="none")
        >>> await state.set("orders", "o9", "other", only_if=[conditions.etag(first.etag)])
        SetResult(old_value='large', new_value='other')
        """
        needs = {"if": only_if is not None, "meta": meta or return_ != "both"}
        given = _deadline(ttl_ms) | _conditions(only_if) | _reply(meta, return_)
        result = await self._ask("set", needs, scope=scope, key=key, value=value, **given)
        check_met(result, scope, key, only_if)
        return SetResult(result.get("old_value"), result.get("new_value"), result.get("etag"), result.get("revision"))

    @overload
    async def get(self, scope: str, key: str, *, meta: Literal[False] = False) -> Any: ...

    @overload
    async def get(self, scope: str, key: str, *, meta: Literal[True]) -> Stored: ...

    async def get(self, scope: str, key: str, *, meta: bool = False) -> Any:
        """The value; None where there is none, and for a stored null. With `meta` it is a `Stored`, which tells them apart.

        >>> await state.set("users", "ada", {"name": "Ada"})
        SetResult(old_value=None, new_value={'name': 'Ada'})
        >>> await state.get("users", "ada")
        {'name': 'Ada'}
        >>> print(await state.get("users", "nobody"))
        None
        >>> stored = await state.get("users", "ada", meta=True)
        >>> stored.value, stored.ttl_ms
        ({'name': 'Ada'}, None)
        """
        if not meta:
            return await self._call("get", scope=scope, key=key)
        found = await self._ask("get", {"meta": True}, scope=scope, key=key, meta=True)
        return Stored(found["value"], found["etag"], found["ttl_ms"], found["revision"])

    async def get_many(self, scope: str, keys: Sequence[str]) -> dict[str, Any]:
        """The values at up to 1,000 keys of a scope, at one instant; of a key without a value there is none in the result.

        >>> await state.set("prices", "tea", 3)
        SetResult(old_value=None, new_value=3)
        >>> await state.get_many("prices", ["tea", "milk"])
        {'tea': 3}
        """
        found = (await self._ask("get_many", {"many": True}, scope=scope, keys=keys))["values"]
        return {key: value["value"] for key, value in zip(keys, found, strict=True) if value["found"]}

    async def delete(self, scope: str, key: str, *, only_if: Sequence[Condition] | None = None) -> Any:
        """Delete a value, and return it; None where there was none. `only_if` is as in `set`.

        >>> await state.set("users", "bob", {"name": "Bob"})
        SetResult(old_value=None, new_value={'name': 'Bob'})
        >>> await state.delete("users", "bob", only_if=[conditions.equals("name", "Bob")])
        {'name': 'Bob'}
        """
        if only_if is None:
            return await self._call("delete", scope=scope, key=key)
        # With `meta`, a value that was deleted cannot be taken for the result of a condition that did not hold.
        needs = {"if": True, "meta": True}
        result = await self._ask("delete", needs, scope=scope, key=key, meta=True, **_conditions(only_if))
        check_met(result, scope, key, only_if)
        return result["old_value"]

    async def update(
        self,
        scope: str,
        key: str,
        ops: Sequence[Mapping[str, Any]],
        *,
        ttl_ms: int | None = None,
        only_if: Sequence[Condition] | None = None,
        strict: bool = False,
        meta: bool = False,
        return_: Returned = "both",
    ) -> UpdateResult:
        """Apply ops in order to a value, or to an empty object where there is none, in one atomic step.

        `ops` come from the functions of `iii_state.ops`. One that the value does not allow is skipped and reported in `errors`, and
        the others count; with `strict` it refuses the call with `OP_FAILED`. One that makes no sense at all (a path that is a
        number) refuses the call always: `deserialization_error`, and nothing has changed. With `ttl_ms` the value gets a new
        deadline; without, the one that it has stays. `only_if`, `meta` and `return_` are as in `set`.

        >>> await state.set("orders", "o2", {"n": 1, "status": "new", "items": []})
        SetResult(old_value=None, new_value={'n': 1, 'status': 'new', 'items': []})
        >>> result = await state.update("orders", "o2", [ops.increment("n"), ops.increment("status"), ops.append("items", "book")])
        >>> result.new_value
        {'n': 2, 'status': 'new', 'items': ['book']}
        >>> [(error.op_index, error.code, error.message) for error in result.errors]
        [(1, 'increment.not_number', "Expected number at path 'status', got string.")]
        >>> await state.update("orders", "o2", [ops.increment("n")], only_if=[conditions.lt("n", 3)], return_="none")
        UpdateResult(old_value=None, new_value=None, errors=[])
        """
        needs = {"if": only_if is not None, "meta": meta or strict or return_ != "both"}
        given = _deadline(ttl_ms) | _conditions(only_if) | _reply(meta, return_) | ({"strict": True} if strict else {})
        result = await self._ask("update", needs, scope=scope, key=key, ops=ops, **given)
        check_met(result, scope, key, only_if)
        old, new, errors = result.get("old_value"), result.get("new_value"), op_errors(result)
        return UpdateResult(old, new, errors, result.get("etag"), result.get("revision"))

    async def touch(self, scope: str, key: str, ttl_ms: int | None) -> bool:
        """Give a value another deadline, `ttl_ms` from now, or none with None; False where there is no value. It is no change.

        >>> await state.set("leases", "printer", "ada", ttl_ms=30_000)
        SetResult(old_value=None, new_value='ada')
        >>> await state.touch("leases", "printer", 60_000)
        True
        """
        found: bool = (await self._ask("touch", {"touch": True}, scope=scope, key=key, ttl_ms=ttl_ms))["found"]
        return found

    async def transact(self, scope: str, steps: Sequence[Step]) -> builtins.list[StepResult]:
        """Make up to 128 changes of one scope, all or none, in one atomic step; each has its event, in order.

        `steps` come from the functions of `iii_state.steps`, whose page of help has an example of more. A step finds what those
        before it have left. Where a condition of one does not hold, `ConditionUnmet` is raised, which says of which `step`.

        >>> await state.set("jobs", "waiting/1", "print")
        SetResult(old_value=None, new_value='print')
        >>> is_there = [conditions.present()]
        >>> done = await state.transact("jobs", [steps.delete("waiting/1", only_if=is_there), steps.set("taken/1", "print")])
        >>> await state.list_keys("jobs")
        ['taken/1']
        """
        given = [dict(step) for step in steps]
        needs = {
            "transact": True,
            "if": any(step.get("if") is not None for step in given),
            "meta": any(step.get("strict") for step in given),
        }
        result = await self._ask("transact", needs, scope=scope, steps=given, if_failed="return")
        check_steps_met(result, scope, given)
        return [StepResult(done["old_value"], done.get("new_value"), op_errors(done)) for done in result["results"]]

    # -- scopes

    async def list(
        self, scope: str, *, prefix: str | None = None, limit: int | None = None, order: Order | None = None
    ) -> builtins.list[Any]:
        """The values of a scope, in no order that is promised; `[]` for a scope that is not there.

        `prefix` asks for those whose key begins so, `limit` for so many (1 to 100,000), `order` for them by the bytes of their
        keys. More than 60 MiB are refused with `LIST_ERROR`: `entries` reads any amount.

        >>> await state.set("colours", "sky", "blue")
        SetResult(old_value=None, new_value='blue')
        >>> await state.list("colours")
        ['blue']
        >>> await state.list("colours", prefix="sk", limit=10, order="asc")
        ['blue']
        """
        asked = _given(prefix=prefix, limit=limit, order=order)
        values: builtins.list[Any] = await self._ask("list", {"prefix": asked}, scope=scope, **asked)
        return values

    async def list_keys(
        self,
        scope: str,
        *,
        prefix: str | None = None,
        limit: int | None = None,
        order: Order | None = None,
        after: str | None = None,
    ) -> builtins.list[str]:
        """The keys of a scope, in no order that is promised. `prefix`, `limit` and `order` are as in `list`.

        With `after`, a key, those behind it come, ascending if nothing else is said: so the last key of a page leads to the next.

        >>> await state.transact("fruit", [steps.set("apple", 3), steps.set("fig", 1), steps.set("pear", 2)], )
        [...]
        >>> page = await state.list_keys("fruit", limit=2)
        >>> page, await state.list_keys("fruit", limit=2, after=page[-1])
        (['apple', 'fig'], ['pear'])
        """
        asked = _given(prefix=prefix, limit=limit, order=order, after=after)
        keys: builtins.list[str] = (await self._ask("list_keys", {"prefix": asked}, scope=scope, **asked))["keys"]
        return keys

    async def list_groups(self) -> builtins.list[str]:
        """The scopes that hold values, sorted.

        >>> await state.set("animals", "cat", True)
        SetResult(old_value=None, new_value=True)
        >>> "animals" in await state.list_groups()
        True
        """
        groups: builtins.list[str] = (await self._call("list_groups"))["groups"]
        return groups

    async def entries(
        self, scope: str, *, prefix: str | None = None, order: Order | None = None
    ) -> AsyncGenerator[tuple[str, Any], None]:
        """The keys and values of a scope, as it was at one moment: when the first is asked for. It is read in pages.

        What is written meanwhile changes nothing in it. A reader that takes longer than 120 s for a page (1,000 entries or 8 MB)
        gets `INVALID_CURSOR`; an entry of more than 8 MB, which comes after all others, is `ROW_TOO_LARGE`; too many readers or too
        large scopes at a time are `SNAPSHOT_CAPACITY`. `prefix` and `order` are as in `list`.

        >>> for number in range(3):
        ...     await state.set("numbers", f"n{number}", number)
        SetResult(old_value=None, new_value=0)
        SetResult(old_value=None, new_value=1)
        SetResult(old_value=None, new_value=2)
        >>> sum([number async for key, number in state.entries("numbers")])
        3
        >>> [key async for key, number in state.entries("numbers", order="desc")]
        ['n2', 'n1', 'n0']
        """
        asked = _given(prefix=prefix, order=order)
        needs: dict[str, Any] = {"prefix": asked}
        while True:
            page = await self._ask("list_entries", needs, scope=scope, limit=PAGE_ENTRIES, max_bytes=PAGE_BYTES, **asked)
            for key, value in page["entries"]:
                yield key, value
            if page["done"]:
                return
            asked, needs = {"cursor": page["next_cursor"]}, {}

    async def history(
        self, scope: str, *, key: str | None = None, after: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[StateChange, None]:
        """The changes of a scope that has a change log (setting `history`), oldest first; it ends where there are no more.

        `key` asks for those of one key, `after` for those behind a position (`event.after` of a change), `limit` for so many.
        `watch` goes on from a position and waits for what comes.

        >>> await state.set("ledger", "l8", 8)
        SetResult(old_value=None, new_value=8)
        >>> [change.event.new_value async for change in state.history("ledger", key="l8", limit=100)]
        [8]

        Raises `FunctionError`: `HISTORY_ERROR` for a scope without a change log, `COMPACTED` where what comes after the position is
        kept no more.
        """
        source = FollowedScope(self._call, scope, key, Following(after, initial=False))
        position, left = after, limit
        while left is None or left > 0:
            page = await source.page(position, MOST_CHANGES if left is None else min(left, MOST_CHANGES))
            for change in page.changes:
                yield StateChange(change.revision or 0, change.at_ms or 0, change.event)
            if page.next_after == position:
                return
            left = None if left is None else left - len(page.changes)
            position = page.next_after

    # -- events

    def watch(
        self,
        *,
        scope: str | None = None,
        key: str | None = None,
        buffer: int = WATCH_EVENTS,
        after: str | None = None,
        initial: bool = False,
    ) -> Watch:
        """The changes of values from now on: all of them, or those of `scope`, of `key`, or of both. To iterate over; see `Watch`.

        >>> async def follow() -> None:
        ...     async for event in state.watch(scope="orders"):
        ...         print(event.key, event.new_value)
        >>> following = asyncio.create_task(follow())
        >>> following.cancel()
        True

        It is for a program that looks on, in memory and without traces: what happens before it begins or after it ends is not
        kept for it (a handler of `on_change` gets that, too). `buffer` is how many events wait for the reader. One who does not
        keep up loses the oldest and is told with `Gap`; writers never fail because of it. An engine that is cut off from its store
        (Redis, or the other end of a bridge) for so long that it counts as gone misses what is written meanwhile, and does not
        know how much: no `Gap` tells of that.

        >>> async def mirror() -> None:
        ...     async with state.watch(scope="prices", buffer=10_000) as events:
        ...         while True:
        ...             copy = {key: price async for key, price in state.entries("prices")}
        ...             try:
        ...                 async for event in events:
        ...                     copy[event.key] = event.new_value
        ...                     print(copy)
        ...                     return
        ...             except Gap as gap:
        ...                 print(gap.dropped, "events were dropped: all is read again")
        >>> mirroring = asyncio.create_task(mirror())
        >>> while not mirroring.done():
        ...     changed = await state.set("prices", "tea", 3)
        ...     await asyncio.sleep(0.01)
        {'tea': 3}

        With `initial` or `after` it reads the change log of `scope`, which the setting `history` has to name: then nothing is
        missed, and nothing comes twice, also across restarts of the program. `initial` begins with the values that are there, as
        `state:created` without an old value; `after` goes on behind a position, which each event has as its `after`, and the
        watch. There is no `Gap`, and `buffer` does not matter.

        >>> async def follow_from(position: str | None) -> str | None:
        ...     async with state.watch(scope="ledger", after=position, initial=position is None) as events:
        ...         async for event in events:
        ...             print(event.event_type, event.key, event.new_value)
        ...             return event.after
        >>> await state.set("ledger", "l1", 10)
        SetResult(old_value=None, new_value=10)
        >>> position = await follow_from(None)
        state:created l1 10
        >>> await state.set("ledger", "l1", 12)
        SetResult(old_value=10, new_value=12)
        >>> position = await follow_from(position)
        state:updated l1 12

        Raises `ValueError` for a buffer of less than one event, for `after` or `initial` without a `scope`, and for both. Beginning
        it raises `FunctionError`: `trigger_registration_failed` in an engine without state, `HISTORY_ERROR` where the scope has no
        change log; `COMPACTED`, also later, where what comes next is kept no more: begin with `initial` then.
        """
        if (after is not None or initial) and scope is None:
            raise ValueError("after and initial need a scope: each has a change log of its own")
        if after is not None and initial:
            raise ValueError("after goes on behind what has been seen, and initial begins with what is there: give one")
        if buffer < 1:
            raise ValueError(f"buffer has to be 1 or more events, not {buffer}")
        config = _given(scope=scope, key=key) | WATCH_BOUNDS
        if scope is None or (after is None and not initial):
            return Watch(self._watches, config, buffer)
        return Watch(self._watches, config, buffer, FollowedScope(self._call, scope, key, Following(after, initial=initial)))

    def on_change(
        self,
        *,
        scope: str | None = None,
        key: str | None = None,
        function_id: str | None = None,
        condition_function_id: str | None = None,
        delivery: Literal["once", "broadcast"] | None = None,
        retry: Retry | None = None,
        retention_ms: int | Literal["forever"] | None = None,
        concurrency: int | None = None,
        scope_prefix: str | None = None,
        key_prefix: str | None = None,
        event_types: Sequence[Changed | EventType] | None = None,
        changed: Sequence[OpPath] | None = None,
        when: Sequence[Condition] | None = None,
        coalesce: bool = False,
        payload: Literal["full", "new", "keys"] | None = None,
        on_full: OnFull | None = None,
        max_queue_length: int | None = None,
        max_queue_bytes: int | None = None,
    ) -> Callable[[H], H]:
        """Have a function called after every change: of all values, or of those of `scope`, of `key`, or of both.

            >>> sent = asyncio.Queue()
            >>> @state.on_change(scope="parcels", retry={"max_attempts": 3})
            ... async def changed(event: Event) -> None:
            ...     await sent.put((event.event_type, event.key, event.new_value))
            >>> await state.set("parcels", "p1", "sent")
            SetResult(old_value=None, new_value='sent')
            >>> await sent.get()
            ('state:created', 'p1', 'sent')

        The function takes one `Event`, plain or async; what it returns is ignored. A plain one runs in the event loop and must not
        block it. Every event comes at least once, those of one key in the order of the writes. A handler that raises is called
        again as `retry` says; a `FunctionError` with `final=True` is a dead letter at once.

        The subscription is durable: it is known by `function_id`, `scope`, `key`, `condition_function_id` and `delivery`, and found
        again when the program runs again, with what has waited. So the name has to stay the same: `<module>.<qualname>` if it is
        not given. A function inside another has such a name, too (`app.main.<locals>.changed`), as long as only one of that name is
        decorated; a lambda has not, and needs a `function_id`. Nothing here ends a subscription: what is not decorated any more
        goes after its `retention_ms` (milliseconds, or `"forever"`).

        `delivery` is `"once"`: one of all engines that share the store and have this handler; or `"broadcast"`: each of them.
        `concurrency` is how many events are handled at once. `condition_function_id` is a function of the engine that is called
        with the event first, and skips the handler with `false`. What is not given is as configured.

        The others ask for less, and what does not match costs no call. `scope_prefix` and `key_prefix` say how the names begin;
        `event_types` which changes; `changed` which members have to differ, as paths (those of `iii_state.ops`); `when` what has
        to hold for the new value, or, with `"of": "old"` in a condition, for the old one. `coalesce` keeps one waiting event of
        each key, from the oldest value to the newest. `payload="new"` leaves out the old value, `"keys"` both: they are None then.
        `on_full`, `max_queue_length` and `max_queue_bytes` are the bounds of this queue. All but the last four belong to what the
        subscription is known by.

            >>> moved = asyncio.Queue()
            >>> is_paid = conditions.equals("status", "paid")
            >>> @state.on_change(scope="sales", changed=["status"], when=[is_paid, {"of": "old", "present": True}])
            ... async def paid(event: Event) -> None:
            ...     await moved.put(event.key)
            >>> for status in ("new", "paid", "paid"):
            ...     changed = await state.set("sales", "s1", {"status": status})
            >>> await moved.get()
            's1'

        A decorator cannot wait, and registering does. Decorated in a running program, the function is registered in the background,
        and every call of this `State` that comes later waits for it, so that its own writes are seen. Decorated before, at the top
        of a module say, it is registered by `start`. What fails is logged and tried again; until then `start` and every call raise
        it.

        Raises at once: `TypeError` for what cannot be called with an event, and for what has no name of its own (a lambda, a
        `functools.partial`) without a `function_id`; `ValueError` where two handlers have one name. A function may be decorated
        several times, for several scopes.
        """
        config = _given(
            scope=scope,
            key=key,
            condition_function_id=condition_function_id,
            delivery=delivery,
            retry=retry,
            retention_ms=retention_ms,
            concurrency=concurrency,
        )
        narrowed = _given(
            scope_prefix=scope_prefix,
            key_prefix=key_prefix,
            event_types=event_types,
            changed=changed,
            when=when,
            coalesce=coalesce or None,
            payload=payload,
            on_full=on_full,
            max_queue_length=max_queue_length,
            max_queue_bytes=max_queue_bytes,
        )
        features = [TRIGGERS_V2] if narrowed else []
        config |= narrowed

        def decorate(handler: H) -> H:
            self._handlers.add(handler, function_id, config, features)
            return handler

        return decorate

    async def start(self) -> None:
        """Register the handlers of `on_change` that are not registered yet; once it has returned, they miss no change.

        >>> engine = Engine()
        >>> state = State(engine)
        >>> @state.on_change(scope="orders")
        ... async def order_changed(event: Event) -> None:
        ...     print(event.key, event.new_value)
        ...     handled.set()
        >>> async def main() -> None:
        ...     async with engine:
        ...         await engine.add_module(StateModule())
        ...         await state.start()
        ...         await engine.trigger(
        ...             {"function_id": "state::set", "payload": {"scope": "orders", "key": "o1", "value": 1}}
        ...         )
        ...         await handled.wait()
        >>> handled = asyncio.Event()
        >>> await main()
        o1 1

        Call it when the state module is in the engine: handlers that are registered before wait for it. Any number of times.
        Raises what keeps the first of them from being registered: `FunctionError` `trigger_registration_failed` for a config that
        cannot be used, `RuntimeError` for an engine that does not run, `ValueError` for a name that is a built-in function's.
        """
        await self._handlers.register()


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _conditions(only_if: Sequence[Condition] | None) -> dict[str, Any]:
    return {} if only_if is None else {"if": only_if, "if_failed": "return"}


def _reply(meta: bool, return_: Returned) -> dict[str, Any]:
    return ({"meta": True} if meta else {}) | ({} if return_ == "both" else {"return": return_})


def _deadline(ttl_ms: int | None) -> dict[str, int]:
    return {} if ttl_ms is None else {"ttl_ms": ttl_ms}
