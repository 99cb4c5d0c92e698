"""What writers write: a plan that a seed determines, and what each write does to a value.

Every value holds `w`, the id of the write that made it, so the history of a key can be read from its events, whoever wrote.
Workers of an SDK run this in an environment of their own, so it needs nothing but Python.
"""

from __future__ import annotations

import itertools
import random
import zlib
from dataclasses import dataclass, replace
from typing import Any

MAIN, SIDE = "torture", "aside"
FADING = "fading"
"""Values with deadlines; nobody deletes here."""
LARGE = "large"
"""Values of up to 1 MB."""
POISON = "poison"
"""Some events here kill the worker that handles them."""
OUTSIDE = "outside"
"""Another program writes here, too, straight into Redis."""
HURT = "hurt"
"""The queue of its trigger is damaged."""

HOT = "hot"
COUNTERS = ("c0", "c1", "c2", HOT)
MIXED = ("m0", "m1", "m2", "m3", "m4")
LISTS = ("l0", "l1")
APPENDS_PER_LIST = 25
"""So many appends of one writer go to a list before it turns to the next: every event holds the whole list, twice."""

OTHER_KEYS = {
    SIDE: ("s0", "s1", "s2"),
    FADING: ("f0", "f1", "f2", "f3"),
    LARGE: ("b0", "b1", "b2"),
    POISON: ("p0", "p1", "p2"),
    OUTSIDE: ("o0", "o1"),
    HURT: ("h0", "h1", "h2", "h3"),
}

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
TTLS_MS = (200, 3_000)

SCOPES = {
    "redis": (MAIN, SIDE, FADING, LARGE, POISON, OUTSIDE, HURT),
    "cluster": (MAIN, SIDE, FADING, LARGE, POISON, OUTSIDE, HURT),
    "kv": (MAIN, SIDE, FADING, LARGE, POISON),
    "bridge": (MAIN, SIDE, FADING, LARGE, POISON),
    "attach": (MAIN, SIDE, FADING, LARGE, POISON),
}
"""What is written with each adapter."""

_SHARES = {"hot": 12, "counter": 14, "list": 13, "mixed": 30, SIDE: 12, FADING: 8, LARGE: 4, POISON: 4, OUTSIDE: 5, HURT: 8}


@dataclass(frozen=True)
class Op:
    """One write. `kind` is set, increment, append or delete; `size` is that of the padding of a value, and `ttl_ms` 0 for none."""

    id: str
    kind: str
    scope: str
    key: str
    size: int = 0
    ttl_ms: int = 0
    condition: str = ""
    """Empty, or one of `CONDITIONS`."""
    beside: str = ""
    """Another key, on which the same is done by the same transaction; its write has a `+` behind this one's id."""

    def parts(self) -> list[Op]:
        """The writes that are made at once."""
        if not self.beside:
            return [self]
        return [replace(self, beside=""), replace(self, id=f"{self.id}+", key=self.beside, beside="", condition="")]

    def call(self) -> tuple[str, dict[str, Any]]:
        """The function to call, and its payload."""
        if self.beside:
            steps = []
            for part in self.parts():
                function_id, payload = part.call()
                del payload["scope"]
                steps.append({"type": function_id.partition("::")[2], **payload})
            return "state::transact", {"scope": self.scope, "steps": steps}
        place: dict[str, Any] = {"scope": self.scope, "key": self.key}
        if self.condition:
            place["if"] = CONDITIONS[self.condition]
        if self.ttl_ms:
            place["ttl_ms"] = self.ttl_ms
        mark = {"type": "set", "path": "w", "value": self.id}
        if self.kind == "set":
            return "state::set", {**place, "value": applied(self.kind, self.id, None, self.size)}
        if self.kind == "delete":
            return "state::delete", place
        if self.kind == "increment":
            return "state::update", {**place, "ops": [{"type": "increment", "path": "n", "by": 1}, mark]}
        return "state::update", {**place, "ops": [{"type": "append", "path": ["log"], "value": [self.id]}, mark]}

    def note(self) -> dict[str, Any]:
        """What is noted of it before it is made."""
        given = (("size", self.size), ("ttl", self.ttl_ms), ("condition", self.condition))
        more = {name: value for name, value in given if value}
        return {"write": self.id, "kind": self.kind, "scope": self.scope, "key": self.key, **more}

    def told(self, result: Any) -> list[dict[str, Any]]:
        """Of each of its parts the values before and after, as a result tells them."""
        if self.kind == "delete":
            return [{"old": seen(result), "new": None}]
        results = result["results"] if self.beside else [result]
        return [{"old": seen(each["old_value"]), "new": seen(each["new_value"])} for each in results]


CONDITIONS = {"absent": [{"absent": True}], "bounded": [{"path": "n", "lt": 4}, {"path": ["w"], "present": True}]}


def holds(condition: str, old: dict[str, Any] | None) -> bool:
    """Whether a condition holds for a value."""
    if condition == "absent":
        return old is None
    return not condition or (old is not None and "w" in old and "n" in old and old["n"] < 4)


def applied(kind: str, write: str, old: dict[str, Any] | None, size: int = 0) -> dict[str, Any] | None:
    """The value after a write."""
    if kind == "delete":
        return None
    if kind == "set":
        return {"n": 0, "log": [], "w": write, **({"pad": padding(write, size)} if size else {})}
    new = dict(old or {})
    if kind == "increment":
        new["n"] = new.get("n", 0) + 1
    else:
        new["log"] = [*new.get("log", []), [write]]
    return {**new, "w": write}


def padding(write: str, size: int) -> str:
    """So many characters, of which each part tells whose they are."""
    return f"{write}.".ljust(16, "~") * (size // 16 + 1)


def seen(value: Any) -> Any:
    """A value as histories hold it: of its padding only length and checksum."""
    if isinstance(value, dict) and isinstance(value.get("pad"), str):
        return {**value, "pad": f"{len(value['pad'])}:{zlib.crc32(value['pad'].encode())}"}
    return value


def is_poison(value: dict[str, Any] | None) -> bool:
    """Whether an event to this value kills the worker that handles it."""
    return zlib.crc32(f"poison {(value or {}).get('w', '')}".encode()) % 60 == 0


class Source:
    """The writes of one writer, one after the other; without `has_large`, none of large values."""

    def __init__(self, seed: int, writer: str, adapter: str, *, has_large: bool = True) -> None:
        self.writer = writer
        self._random = random.Random(f"{seed} {writer}")
        self._numbers = itertools.count(1)
        self._appends = itertools.count()
        scopes = {*SCOPES[adapter], "hot", "counter", "list", "mixed"} - (set() if has_large else {LARGE})
        self._shares = {name: share for name, share in _SHARES.items() if name in scopes}

    def next(self) -> Op:
        """The next write."""
        chance, name = self._random, f"{self.writer}.{next(self._numbers)}"
        match chance.choices(list(self._shares), list(self._shares.values()))[0]:
            case "hot":
                return Op(name, "increment", MAIN, HOT)
            case "counter":
                return Op(name, "increment", MAIN, chance.choice(COUNTERS[:-1]))
            case "list":
                turn = next(self._appends) // APPENDS_PER_LIST
                return Op(name, "append", MAIN, f"{chance.choice(LISTS)}.{turn}")
            case "mixed":
                return self._mixed(name, MAIN, chance.choice(MIXED))
            case "fading":
                key, ttl_ms = chance.choice(OTHER_KEYS[FADING]), chance.randint(*TTLS_MS)
                kind, has_ttl = chance.choices(
                    (("set", True), ("increment", True), ("increment", False), ("set", False)), (6, 1, 2, 1)
                )[0]
                return Op(name, kind, FADING, key, ttl_ms=ttl_ms if has_ttl else 0)
            case "large":
                key, size = chance.choice(OTHER_KEYS[LARGE]), chance.choices(SIZES, (30, 30, 20, 15, 5))[0]
                kind = chance.choices(("set", "increment", "append", "delete"), (50, 20, 20, 10))[0]
                return Op(name, kind, LARGE, key, size if kind == "set" else 0)
            case scope:
                return self._mixed(name, scope, chance.choice(OTHER_KEYS[scope]))

    def _mixed(self, name: str, scope: str, key: str) -> Op:
        kind = self._random.choices(("set", "increment", "append", "delete"), (25, 35, 20, 20))[0]
        condition = self._random.choices(("", "absent" if kind == "set" else "bounded"), (70, 30))[0]
        beside = ""
        if scope == MAIN and kind != "delete" and self._random.random() < 0.3:
            beside = self._random.choice([other for other in MIXED if other != key])
        return Op(name, kind, scope, key, condition=condition, beside=beside)

    def pause(self) -> float:
        """Seconds until the next write."""
        return self._random.uniform(0, 0.08)


def outcome_of(code: str) -> str:
    """What a failed write's code says of it: `refused` (nothing has changed), `unknown`, or `ok`, whatever it replaced."""
    if code in ("SET_ERROR", "UPDATE_ERROR", "DELETE_ERROR", "TRANSACT_ERROR", "CONDITION_FAILED", "function_not_found"):
        return "refused"
    return "ok" if code == "OLD_VALUE_UNKNOWN" else "unknown"  # what is NOT_CONFIRMED may be lost in a failover
