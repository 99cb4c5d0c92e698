"""A plain model of `state::*` on Python objects: conditions, meta, transactions, listings, the change log, and events.

It says what the documentation says, one sentence after the other, and knows nothing of adapters; of stored texts only that an etag
is made of one. Time passes when it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iii_state import values
from tests.support import model
from tests.support.model import ABSENT, Place

REVISION = "revision"


class Refused(Exception):
    """A call that is answered with an error; nothing has changed."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Unmet(Exception):
    """A condition that does not hold, of which value."""

    def __init__(self, index: int, value: Any) -> None:
        super().__init__(index)
        self.index = index
        self.value = value


def at_path(value: Any, path: Any) -> Any:
    for name in [] if not path else [path] if isinstance(path, str) else path:
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value


def equal(one: Any, other: Any) -> bool:
    """Members in any order; integers exactly; with a float on either side the 64-bit float values count."""
    if model.kind(one) != model.kind(other):
        return False
    if isinstance(one, dict):
        return bool(one.keys() == other.keys()) and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return bool(len(one) == len(other)) and all(map(equal, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return bool(float(one) == float(other))
    return bool(one == other)


def ordered(test: str, one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        one, other = float(one), float(other)
    return bool({"lt": one < other, "lte": one <= other, "gt": one > other, "gte": one >= other}[test])


def holds(condition: Mapping[str, Any], value: Any, revision: int | None = None) -> bool:
    [(test, wanted)] = [(name, given) for name, given in condition.items() if name not in ("path", "of")]
    found = at_path(value, condition.get("path"))
    if found is ABSENT:
        return test in ("absent", "not_equals")
    match test:
        case "equals" | "not_equals":
            return equal(found, wanted) == (test == "equals")
        case "absent" | "present":
            return test == "present"
        case "type":
            return bool(model.kind(found) == wanted)
        case "etag":
            return bool(etag(found) == wanted)
        case "revision":
            return bool(revision == wanted)
    return model.kind(found) == "number" and ordered(test, found, wanted)


def check(conditions: list[dict[str, Any]] | None, value: Any, revision: int | None = None) -> None:
    for index, condition in enumerate(conditions or []):
        if not holds(condition, value, revision):
            raise Unmet(index, value)


def etag(value: Any) -> str | None:
    return None if value is ABSENT else values.etag(values.to_stored(values.encode(value)))


def shown(value: Any) -> Any:
    return None if value is ABSENT else value


class Functions:
    """What callers are answered. `logged` are the scopes that have a change log."""

    def __init__(self, logged: frozenset[str]) -> None:
        self.store = model.Store()
        self.logged = logged
        self.revisions: dict[Place, int] = {}
        """Of the last change of each place in a logged scope."""
        self.log: dict[str, list[tuple[int, str, str, Any, Any, str | None]]] = {}
        """Scope → revision, event type, key, old, new, cause."""
        self.causes: dict[Place, list[str | None]] = {}

    # -- changes

    def elapse(self, ms: int) -> list[Place]:
        """The places whose values have gone."""
        store = self.store
        over = [place for place, (_, at) in store.values.items() if at is not None and at <= store.now + ms]
        store.now += ms
        for place in sorted(over):
            self._change(place, ABSENT, None, cause="expired")
        return sorted(over)

    def _change(self, place: Place, new: Any, deadline: int | None, cause: str | None = None) -> None:
        old = self.store.change(place, new, deadline)
        self.causes.setdefault(place, []).append(cause)
        if place[0] in self.logged:
            log = self.log.setdefault(place[0], [])
            kind, _, _ = self.store.events[place][-1]
            log.append((len(log) + 1, kind, place[1], shown(old), shown(new), cause))
            self.revisions[place] = len(log)

    def _step(self, place: Place, step: dict[str, Any]) -> dict[str, Any]:
        """Carry out a set, an update or a delete; its members of a reply."""
        old, had = self.store.values.get(place, (ABSENT, None))
        check(step.get("if"), old, self.revision(place))
        ttl_ms = step.get("ttl_ms")
        deadline = None if ttl_ms is None else self.store.now + ttl_ms
        reply = {"old_value": shown(old)}
        if step["type"] == "delete":
            self._change(place, ABSENT, None)
            return reply
        if step["type"] == "set":
            new: Any = step["value"]
            errors: list[dict[str, Any]] = []
        else:
            new, errors = model.update(old, step["ops"])
            deadline = had if ttl_ms is None else deadline
        if step.get("strict") and errors:
            raise Refused("OP_FAILED")
        self._change(place, new, deadline)
        return {**reply, "new_value": new, **({"errors": errors} if errors else {})}

    def revision(self, place: Place) -> int | None:
        return self.revisions.get(place) if place in self.store.values else None

    def _unmet(self, unmet: Unmet, request: dict[str, Any], step: int | None = None) -> dict[str, Any]:
        if request.get("if_failed") != "return":
            raise Refused("CONDITION_FAILED")
        of_step = {} if step is None else {"step": step}
        told = {"value": shown(unmet.value), "etag": etag(unmet.value)}
        return {"applied": False, "condition": unmet.index, **of_step, **told}

    # -- functions

    def call(self, function: str, request: dict[str, Any]) -> Any:
        """The reply. Raises `Refused`."""
        if function in ("set", "update", "delete"):
            return self._write(function, request)
        return getattr(self, f"_{function}")(request)

    def _write(self, function: str, request: dict[str, Any]) -> Any:
        place = (request["scope"], request["key"])
        try:
            reply = self._step(place, {**request, "type": function})
        except Unmet as unmet:
            return self._unmet(unmet, request)
        if function == "delete" and not request.get("meta"):
            return reply["old_value"]
        left_out = {"both": [], "new": ["old_value"], "old": ["new_value"], "none": ["old_value", "new_value"]}
        for name in left_out[request.get("return", "both")] if function != "delete" else []:
            del reply[name]
        if request.get("meta"):
            errors = reply.pop("errors", None)
            reply |= {"etag": etag(self.store.get(place)), REVISION: self.revisions.get(place)}
            reply |= {} if errors is None else {"errors": errors}
        return reply

    def _transact(self, request: dict[str, Any]) -> Any:
        lists = [{place: list(made) for place, made in each.items()} for each in (self.store.events, self.log, self.causes)]
        saved = (dict(self.store.values), dict(self.revisions), *lists)
        results = []
        try:
            for number, step in enumerate(request["steps"]):
                try:
                    results.append(self._step((request["scope"], step["key"]), step))
                except Unmet as unmet:
                    self._restore(saved)
                    return self._unmet(unmet, request, number)
        except Refused:
            self._restore(saved)
            raise
        return {"results": results}

    def _restore(self, saved: Any) -> None:
        self.store.values, self.revisions, self.store.events, self.log, self.causes = saved

    def _touch(self, request: dict[str, Any]) -> Any:
        place, ttl_ms = (request["scope"], request["key"]), request["ttl_ms"]
        if place not in self.store.values:
            return {"found": False}
        self.store.values[place] = (self.store.get(place), None if ttl_ms is None else self.store.now + ttl_ms)
        return {"found": True}

    def _get(self, request: dict[str, Any]) -> Any:
        place = (request["scope"], request["key"])
        value, deadline = self.store.values.get(place, (ABSENT, None))
        if not request.get("meta"):
            return shown(value)
        left = None if deadline is None else deadline - self.store.now
        return {"value": shown(value), "ttl_ms": left, "etag": etag(value), REVISION: self.revision(place)}

    def _get_many(self, request: dict[str, Any]) -> Any:
        items = request.get("items") or [{"scope": request["scope"], "key": key} for key in request["keys"]]
        found = [self.store.get((item["scope"], item["key"])) for item in items]
        return {"values": [{"found": value is not ABSENT, "value": shown(value)} for value in found]}

    def _keys(self, request: dict[str, Any]) -> list[str]:
        """In the order asked for, or that of the bytes."""
        prefix, after, is_descending = request.get("prefix") or "", request.get("after"), request.get("order") == "desc"
        keys = [key for scope, key in self.store.values if scope == request["scope"] and key.startswith(prefix)]
        keys.sort(key=str.encode, reverse=is_descending)
        if after is not None:
            keys = [key for key in keys if (key.encode() < after.encode() if is_descending else key.encode() > after.encode())]
        return keys

    def _list(self, request: dict[str, Any]) -> Any:
        found = [shown(self.store.get((request["scope"], key))) for key in self._keys(request)]
        return found[: request.get("limit")]

    def _list_keys(self, request: dict[str, Any]) -> Any:
        keys = self._keys(request)
        if not request.keys() & {"prefix", "order", "limit", "after"}:
            return {"keys": keys}
        limit = request.get("limit")
        more = limit is not None and len(keys) > limit
        return {"keys": keys[:limit], "next": keys[: limit or 0][-1] if more else None}

    def history(self, scope: str, key: str | None, after: int) -> list[tuple[int, str, str, Any, Any, str | None]]:
        """The changes of a scope, or of one of its keys, behind a revision."""
        return [change for change in self.log.get(scope, [])[after:] if key in (None, change[2])]
