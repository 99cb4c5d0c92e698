"""What a history is made of: operations of a key with the times of their call and their answer, and listings of a scope.

A transaction is an operation of several keys: these are one object, whose state is that of all of them.

An operation whose answer never came, or did not say what became of it, is open: it may take effect at any time after its call, or
never.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.support import model
from tests.support.functions_model import Unmet
from tests.support.functions_model import check as check_conditions

UNTOLD = object()
"""The response of an operation that was carried out, but whose answer did not say what was there."""

Place = tuple[str, str]
"""A scope and a key."""


def canonical(value: Any) -> str:
    """A value as a text that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one key.

    Args:
        kind: `get`, `set`, `update`, `delete`, or `present`, which is what a listing tells of a key; `change`, a write with
            conditions, and `transact`.
        argument: the value of a `set`, the ops of an `update`; of a `change` a step, with `value` or `ops`, or neither, and
            `if`; of `transact` the `steps`, each with a `key`. `if_failed` says whether a refusal tells what was there.
        invoked, returned: by one monotonic clock; `returned` is None for an open one.
        response: a value, None for none; of `update` a pair (old, new); of `present` a boolean; of a `change` such a pair, of
            `transact` one of each step, and of either `{"unmet": index}` with the `step`, and with the `value` that was
            there; `UNTOLD`.
        mark: a string that stands in this operation's argument and in no other's; empty for none.
        who: for people.
    """

    place: Place
    kind: str
    argument: Any
    invoked: int
    returned: int | None
    response: Any
    mark: str = ""
    who: str = ""

    @property
    def is_read(self) -> bool:
        return self.kind in ("get", "present")

    @property
    def overwrites(self) -> bool:
        """Whether what was there before makes no difference to what is there behind it."""
        return self.kind in ("set", "delete")

    def __str__(self) -> str:
        given = "" if self.argument is None else canonical(self.argument)
        answer = "open" if self.returned is None else "untold" if self.response is UNTOLD else canonical(self.response)
        return f"{self.who or '?'}: {self.kind} {given} -> {answer} [{self.invoked}, {self.returned}]"


@dataclass(frozen=True, slots=True)
class Listing:
    """What `state::list_keys` has answered."""

    scope: str
    keys: Sequence[str]
    invoked: int
    returned: int


def carried_out(kind: str, argument: Any, state: str | None) -> tuple[str | None, Any]:
    """The state of a key (a canonical text, None for no value) after an operation, and the response to it."""
    value = None if state is None else json.loads(state)
    match kind:
        case "get":
            return state, value
        case "present":
            return state, state is not None
        case "set":
            return canonical(argument), value
        case "delete":
            return None, value
        case "update":
            new, _ = model.update(model.ABSENT if state is None else value, argument)
            return canonical(new), (value, new)
        case "change":
            try:
                return _changed(argument, state)
            except Unmet as unmet:
                return state, _refusal(argument, unmet)
    raise ValueError(f"no such operation: {kind}")


def _changed(step: Any, state: str | None) -> tuple[str | None, Any]:
    """The state after a step whose conditions hold, and the values before and after. Raises `Unmet`."""
    old = model.ABSENT if state is None else json.loads(state)
    check_conditions(step.get("if"), old)
    shown = None if state is None else old
    if "ops" in step:
        new, _ = model.update(old, step["ops"])
    elif "value" in step:
        new = step["value"]
    else:
        return None, (shown, None)
    return canonical(new), (shown, new)


def _refusal(argument: Any, unmet: Unmet, step: int | None = None) -> dict[str, Any]:
    told: dict[str, Any] = {"unmet": unmet.index, "step": step}
    if argument.get("if_failed"):
        told["value"] = None if unmet.value is model.ABSENT else unmet.value
    return told


def carried_out_on_several(operation: Operation, state: str | None) -> tuple[str | None, Any]:
    """The same as `carried_out`, of several keys: the state is a canonical object of their states, without those that are not."""
    held: dict[str, str] = {} if state is None else json.loads(state)
    if operation.kind != "transact":
        key = operation.place[1]
        one, response = carried_out(operation.kind, operation.argument, held.get(key))
        return (state, response) if operation.is_read else (_of_all({**held, key: one}), response)
    after: dict[str, str | None] = {**held}
    results = []
    for number, step in enumerate(operation.argument["steps"]):
        try:
            after[step["key"]], result = _changed(step, after.get(step["key"]))
        except Unmet as unmet:
            return state, _refusal(operation.argument, unmet, number)
        results.append(result)
    return _of_all(after), results


def _of_all(held: dict[str, str | None]) -> str | None:
    return canonical({key: text for key, text in held.items() if text is not None}) if any(held.values()) else None


def of_several(operations: Sequence[Operation]) -> bool:
    """Whether these are operations of more than one key."""
    return any(each.kind == "transact" or each.place != operations[0].place for each in operations)


def by_place(
    operations: Iterable[Operation], listings: Iterable[Listing], keys: Sequence[Place], joined: Sequence[Place] = ()
) -> tuple[dict[Place, list[Operation]], list[str]]:
    """The history of each key, listings folded in, and what is wrong with the listings themselves.

    Keys that are `joined` by transactions have one history, that of the first of them.

    A listing is no snapshot: what was there throughout is in it once, what was not there throughout is not in it, and what came or
    went meanwhile may or may not be. Of one key that is a read of whether it is there, at some time between call and answer.
    """
    histories: dict[Place, list[Operation]] = {place: [] for place in keys if place not in joined[1:]}
    problems = []

    def history_of(place: Place) -> list[Operation]:
        return histories[joined[0] if place in joined else place]

    for operation in operations:
        history_of(operation.place).append(operation)
    for listing in listings:
        listed = set(listing.keys)
        if len(listed) < len(listing.keys):
            problems.append(f"a listing of {listing.scope} has a key twice: {sorted(listing.keys)}")
        known = {key for scope, key in keys if scope == listing.scope}
        if strangers := listed - known:
            problems.append(f"a listing of {listing.scope} has keys that nobody wrote: {sorted(strangers)}")
        for key in known:
            place = (listing.scope, key)
            told = Operation(place, "present", None, listing.invoked, listing.returned, key in listed, who="list_keys")
            history_of(place).append(told)
    return histories, problems


def unseen_marks_as_one(operations: Sequence[Operation]) -> list[Operation]:
    """The same history, with one mark for all open operations whose own mark is in no response: nothing told them apart."""
    told = "\n".join(canonical(each.response) for each in operations if each.returned is not None and each.response is not UNTOLD)
    changed = []
    for each in operations:
        if each.returned is None and each.mark and json.dumps(each.mark) not in told:
            argument = json.loads(canonical(each.argument).replace(json.dumps(each.mark), '"?"'))
            changed.append(replace(each, argument=argument, mark=""))
        else:
            changed.append(each)
    return changed
