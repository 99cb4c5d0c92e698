"""What a history is made of: operations of a key with the times of their call and their answer, and listings of a scope.

An operation whose answer never came, or did not say what became of it, is open: it may take effect at any time after its call, or
never.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.support import model

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
        kind: `get`, `set`, `update`, `delete`, or `present`, which is what a listing tells of a key.
        argument: the value of a `set`, the ops of an `update`.
        invoked, returned: by one monotonic clock; `returned` is None for an open one.
        response: a value, None for none; of `update` a pair (old, new); of `present` a boolean; `UNTOLD`.
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
    raise ValueError(f"no such operation: {kind}")


def by_place(
    operations: Iterable[Operation], listings: Iterable[Listing], keys: Sequence[Place]
) -> tuple[dict[Place, list[Operation]], list[str]]:
    """The history of each key, listings folded in, and what is wrong with the listings themselves.

    A listing is no snapshot: what was there throughout is in it once, what was not there throughout is not in it, and what came or
    went meanwhile may or may not be. Of one key that is a read of whether it is there, at some time between call and answer.
    """
    histories: dict[Place, list[Operation]] = {place: [] for place in keys}
    problems = []
    for operation in operations:
        histories[operation.place].append(operation)
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
            histories[place].append(told)
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
