"""Random calls of every function with conditions, transactions, deadlines, listings, change log and narrowed triggers.

Each call is made of the adapter and of a kv in memory beside it, whose replies are the same to the last byte, and both do what the
model does. In the end each subscription has the events that the model has, in order of each key.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from iii_state import values
from iii_state.events import Subscription
from iii_state.filters import LEFT_OUT, Filter
from iii_state.history import LogRule, LogRules
from tests.support.functions import DOCUMENTS, KEYS, TTLS, caller_of, changes, conditions, optional
from tests.support.functions_model import Functions, Refused, holds, shown
from tests.support.loops import LoopFactory
from tests.support.model import ABSENT
from tests.support.stores import ALL, drain, opened
from tests.support.strategies import HOUR_MS
from tests.support.vectors import exact

T = TypeVar("T")
RULES = LogRules([LogRule(scope="logged")])
EXAMPLES = {
    "kv-memory": 40,
    "kv-file": 20,
    "fakeredis": 6,
    "redis": 15,
    "cluster": 6,
    "cluster-valkey": 4,
    "bridge-kv": 10,
    "bridge-redis": 6,
    "bridge-bridge-kv": 4,
}

SUBSCRIPTIONS = {
    "all": ALL,
    "created": Subscription("created", scope_prefix="log", filter=Filter(event_types=("state:created",))),
    "changed": Subscription("changed", key_prefix="a", filter=Filter(changed=(("n",), ("d", "x")))),
    "when": Subscription("when", filter=Filter(when_old='[{"path":["n"],"absent":true}]', when_new='[{"path":["n"],"gte":2}]')),
    "new": Subscription("new", scope="s", key_prefix="b", payload="new"),
    "keys": Subscription("keys", key="é", payload="keys", filter=Filter(changed=((),))),
    "coalesced": Subscription("coalesced", coalesce=True),
}

_runs = itertools.count()


class FunctionsMachine(RuleBasedStateMachine):
    """One caller of two stores and of the model."""

    store_kind = ""
    new_loop: LoopFactory

    def __init__(self) -> None:
        super().__init__()
        self.loop = self.new_loop()
        self.stack = AsyncExitStack()
        self.model = Functions(frozenset({"logged"}))
        self.is_right = True
        directory = self.folder / f"{next(_runs)}"
        self.store = self.do(self.stack.enter_async_context(opened(self.store_kind, directory, history=RULES)))
        self.beside = self.do(self.stack.enter_async_context(opened("kv-memory", directory, history=RULES)))
        self.begin()

    folder: Path

    def do(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    def begin(self) -> None:
        """What there is to call, and who is told, of the adapter that runs now."""
        for subscription in SUBSCRIPTIONS.values():
            self.do(self.store.subscribe(subscription))
        self.callers = [caller_of(self.store), caller_of(self.beside)]

    def call(self, function: str, request: dict[str, Any], *, any_order: bool = False) -> Any:
        """Make a call of both and of the model; what is answered."""
        self.is_right = False
        first, second = [self.do(caller(function, request)) for caller in self.callers]
        try:
            wanted: Any = self.model.call(function, request)
        except Refused as refused:
            code: str | None = refused.code
        else:
            code = None
        if code is not None:
            assert first[0] == code, (function, request, first)
            assert first == second
            self.is_right = True
            return None
        assert isinstance(first, bytes), (function, request, first, wanted)
        assert isinstance(second, bytes), (function, request, second, wanted)
        told, beside = json.loads(first), json.loads(second)
        if isinstance(wanted, dict) and "ttl_ms" in wanted:
            for each in (told, beside, wanted):
                each["ttl_ms"] = None if each["ttl_ms"] is None else round(each["ttl_ms"] / HOUR_MS)
        elif not any_order:
            assert first == second, (function, request)
        for each in (told, beside):
            assert in_order(each, any_order) == in_order(wanted, any_order), (function, request, each, wanted)
        self.is_right = True
        return told

    def conditions(self, scope: str) -> st.SearchStrategy[Any]:
        held = [value for (of, _), (value, _) in self.model.store.values.items() if of == scope]
        return conditions(held, [*self.model.revisions.values(), 1])

    @rule(scope=st.sampled_from(["s", "t", "logged"]), puts=st.dictionaries(st.sampled_from(KEYS), DOCUMENTS, min_size=1))
    def put(self, scope: str, puts: dict[str, Any]) -> None:
        """There is something for the others to find."""
        for key, value in puts.items():
            self.call("set", {"scope": scope, "key": key, "value": value})

    @rule(data=st.data(), scope=st.sampled_from(["s", "t", "logged"]), key=st.sampled_from(KEYS))
    def write(self, data: st.DataObject, scope: str, key: str) -> None:
        change = data.draw(changes(self.conditions(scope)))
        if scope == "logged" and key != "a":
            change.pop("ttl_ms", None)
        more: dict[str, st.SearchStrategy[Any]] = {"meta": st.booleans(), "if_failed": st.just("return")}
        if change["type"] != "delete":
            more["return"] = st.sampled_from(["both", "new", "old", "none"])
        given = data.draw(st.fixed_dictionaries({}, optional=more))
        self.call(change.pop("type"), {"scope": scope, "key": key, **change, **given})

    @rule(data=st.data(), scope=st.sampled_from(["s", "logged"]), returns=st.booleans())
    def transact(self, data: st.DataObject, scope: str, returns: bool) -> None:
        conditions = self.conditions(scope)
        steps = data.draw(st.lists(st.tuples(st.sampled_from(KEYS), changes(conditions)), min_size=1, max_size=4))
        request: dict[str, Any] = {"scope": scope, "steps": [{"key": key, **change} for key, change in steps]}
        for step in request["steps"]:
            if scope == "logged" and step["key"] != "a":
                step.pop("ttl_ms", None)
        self.call("transact", {**request, "if_failed": "return"} if returns else request)

    @rule(scope=st.sampled_from(["s", "t", "logged"]), key=st.sampled_from(KEYS), ttl_ms=st.one_of(st.none(), TTLS))
    def touch(self, scope: str, key: str, ttl_ms: int | None) -> None:
        if scope == "logged" and key != "a":
            ttl_ms = None
        self.call("touch", {"scope": scope, "key": key, "ttl_ms": ttl_ms})

    @rule(hours=st.integers(1, 2))
    def elapse(self, hours: int) -> None:
        """Each value that is over is deleted at once, so that its place in the change log does not depend on a sweep."""
        for store in (self.store, self.beside):
            store.elapse(hours * HOUR_MS)
        for scope, key in self.model.elapse(hours * HOUR_MS):
            self.call("get", {"scope": scope, "key": key, "meta": True})
            self.call("delete", {"scope": scope, "key": key})

    @rule(scope=st.sampled_from(["s", "logged"]), key=st.sampled_from(KEYS))
    def get(self, scope: str, key: str) -> None:
        self.call("get", {"scope": scope, "key": key})
        self.call("get", {"scope": scope, "key": key, "meta": True})

    @rule(keys=st.lists(st.sampled_from([*KEYS, "none"]), max_size=6), across=st.booleans())
    def get_many(self, keys: list[str], across: bool) -> None:
        items = [{"scope": "st"[number % 2], "key": key} for number, key in enumerate(keys)]
        self.call("get_many", {"items": items} if across and items else {"scope": "s", "keys": keys})

    @rule(
        scope=st.sampled_from(["s", "logged"]),
        asked=optional(
            {},
            prefix=st.sampled_from(["", "a", "ab", "é", "z"]),
            order=st.sampled_from(["asc", "desc"]),
            limit=st.integers(1, 6),
        ),
        after=st.one_of(st.none(), st.sampled_from(["", "a", "aa", "b", "é", "\uffff"])),
    )
    def list_some(self, scope: str, asked: dict[str, Any], after: str | None) -> None:
        is_ordered = "order" in asked
        if is_ordered or "limit" not in asked:
            self.call("list", {"scope": scope, **asked}, any_order=not is_ordered)
        if after is not None:
            asked = {**asked, "after": after}
        self.call("list_keys", {"scope": scope, **asked}, any_order=not asked.keys() & {"order", "limit", "after"})

    @rule(key=st.one_of(st.none(), st.sampled_from(KEYS)), limit=st.integers(1, 5))
    def history(self, key: str | None, limit: int) -> None:
        wanted = [(revision, f"state:{kind}", *more) for revision, kind, *more in self.model.history("logged", key, 0)]
        for caller in self.callers:
            found, after = [], None
            while True:
                given = {"scope": "logged", "key": key, "limit": limit, **({} if after is None else {"after": after})}
                text = self.do(caller("history", given))
                assert isinstance(text, bytes), text
                page = json.loads(text)
                found += page["changes"]
                if page["next_after"] == after:
                    break
                after = page["next_after"]
            told = [
                (each["revision"], *(each["event"].get(name) for name in ("event_type", "key", "old_value", "new_value", "cause")))
                for each in found
            ]
            assert exact(told) == exact([tuple(each) for each in wanted])

    @precondition(lambda self: self.store_kind in ("kv-file", "redis"))
    @rule()
    def restart(self) -> None:
        self.do(self.store.adapter.stop())
        self.do(self.store.start())
        self.begin()

    def teardown(self) -> None:
        try:
            if self.is_right:
                for scope in ("s", "t", "logged"):
                    self.call("list_keys", {"scope": scope}, any_order=True)
                self.history(None, 1000)
                self.check_events()
        finally:
            self.do(self.stack.aclose())
            self.loop.close()

    def check_events(self) -> None:
        """Of each subscription: its events by place, in order."""
        for name, subscription in SUBSCRIPTIONS.items():
            wanted = self.wanted(subscription)
            count = sum(map(len, wanted.values()))
            came: dict[tuple[str, str], list[Any]] = {}
            for event in self.do(self.events(subscription, 0 if subscription.coalesce else count)):
                came.setdefault((event.scope, event.key), []).append(event)
            told = {place: [self.told(event, subscription) for event in events] for place, events in came.items()}
            if not subscription.coalesce:
                assert told == wanted, name
                continue
            assert told.keys() == wanted.keys()
            for place, events in told.items():
                if not self.store.is_remote:
                    assert [event[:3] for event in events] == self.coalesced(place)
                assert (events[0][1], events[-1][2]) == (wanted[place][0][1], wanted[place][-1][2])
                assert all(before[2] == after[1] for before, after in itertools.pairwise(events))

    def coalesced(self, place: tuple[str, str]) -> list[Any]:
        """The first event of a place, and those behind it as one: the oldest old value, the newest new one."""
        first, *rest = self.model.store.events[place]
        told = [first]
        if rest:
            (_, old, _), (kind, _, new) = rest[0], rest[-1]
            told.append((kind if kind == "deleted" else "created" if old is ABSENT else "updated", old, new))
        return [(kind, exact(shown(old)), exact(shown(new))) for kind, old, new in told]

    async def events(self, subscription: Subscription, count: int) -> list[Any]:
        """All that are there, and so many at least: of a remote they come by themselves.

        As in the dispatcher they are judged once more: a script queues what it cannot judge, and that whole.
        """
        narrowing = subscription.filter
        found: list[Any] = []
        async with asyncio.timeout(10):
            while (taken := await drain(self.store, subscription)) or len(found) < count:
                found += [each.event for each in taken if narrowing is None or may_want(narrowing, each.event)]
                if not taken:
                    await asyncio.sleep(0.002)
        return found

    def wanted(self, subscription: Subscription) -> dict[tuple[str, str], list[Any]]:
        """The events of the model that a subscription wants, by place."""
        found: dict[tuple[str, str], list[Any]] = {}
        for place, events in self.model.store.events.items():
            if not concerns(subscription, place):
                continue
            for (kind, old, new), cause in zip(events, self.model.causes[place], strict=True):
                if wants(subscription.function_id, kind, old, new):
                    told = (kind, exact(shown(old)), exact(shown(new)), cause)
                    found.setdefault(place, []).append(left_out(subscription, told))
        return found

    def told(self, event: Any, subscription: Subscription) -> Any:
        def value(text: bytes | None) -> Any:
            return exact(None if text is None or text == LEFT_OUT else values.decode(text))

        told = (event.event_type.removeprefix("state:"), value(event.old), value(event.new), event.cause)
        return left_out(subscription, told)


def may_want(narrowing: Filter, event: Any) -> bool:
    return narrowing.may_want(event.event_type, event.old, event.new)


def left_out(subscription: Subscription, event: tuple[Any, ...]) -> tuple[Any, ...]:
    """An event without what the subscription's payload has not."""
    kind, old, new, cause = event
    return kind, old if subscription.payload == "full" else None, None if subscription.payload == "keys" else new, cause


def concerns(subscription: Subscription, place: tuple[str, str]) -> bool:
    scope, key = place
    names = subscription.scope in (None, scope) and subscription.key in (None, key)
    return names and scope.startswith(subscription.scope_prefix or "") and key.startswith(subscription.key_prefix or "")


def differs(path: list[str], old: Any, new: Any) -> bool:
    for name in path:
        old, new = (each.get(name, ABSENT) if isinstance(each, dict) else ABSENT for each in (old, new))
    return (old is ABSENT) != (new is ABSENT) or (old is not ABSENT and exact(old) != exact(new))


def wants(name: str, kind: str, old: Any, new: Any) -> bool:
    """What the filters above say, in other words."""
    match name:
        case "created":
            return kind == "created"
        case "changed":
            return differs(["n"], old, new) or differs(["d", "x"], old, new)
        case "when":
            return holds({"path": "n", "absent": True}, old) and holds({"path": "n", "gte": 2}, new)
        case "keys":
            return differs([], old, new)
    return True


def in_order(reply: Any, any_order: bool) -> Any:
    """A reply in a form that can be compared; of a listing without an order, sorted."""
    if any_order and isinstance(reply, list):
        return sorted(map(repr, map(exact, reply)))
    if any_order and isinstance(reply, dict):
        reply = {**reply, "keys": sorted(reply["keys"])}
    return exact(reply)


def test_every_adapter_and_kv_and_the_model_answer_alike(kind: str, new_loop: LoopFactory, tmp_path: Path) -> None:
    members = {"store_kind": kind, "new_loop": staticmethod(new_loop), "folder": tmp_path}
    run_state_machine_as_test(
        type("Machine", (FunctionsMachine,), members),
        settings=settings(
            max_examples=EXAMPLES[kind],
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(("one", "other"), [(2**53 + 1, 2**53), (True, 1), ({"a": 1}, {"a": 1, "b": 2})])
def test_the_model_tells_apart_what_differs(one: Any, other: Any) -> None:
    assert not holds({"equals": one}, other)
    assert holds({"equals": one}, one)
