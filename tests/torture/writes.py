"""What writers write: a plan that a seed determines, and what each write does to a value.

Every value holds `w`, the id of the write that made it, so the history of a key can be read from its events, whoever wrote.
Workers of an SDK run this in an environment of their own, so it needs nothing but Python.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

MAIN, SIDE = "torture", "aside"
HOT = "hot"
COUNTERS = ("c0", "c1", "c2", HOT)
MIXED = ("m0", "m1", "m2", "m3", "m4")
LISTS = ("l0", "l1")
APPENDS_PER_LIST = 25
"""So many appends of one writer go to a list before it turns to the next: every event holds the whole list, twice."""


@dataclass(frozen=True)
class Op:
    """One write. `kind` is set, increment, append or delete."""

    id: str
    kind: str
    scope: str
    key: str

    def call(self) -> tuple[str, dict[str, Any]]:
        """The function to call, and its payload."""
        place: dict[str, Any] = {"scope": self.scope, "key": self.key}
        mark = {"type": "set", "path": "w", "value": self.id}
        if self.kind == "set":
            return "state::set", {**place, "value": applied(self.kind, self.id, None)}
        if self.kind == "delete":
            return "state::delete", place
        if self.kind == "increment":
            return "state::update", {**place, "ops": [{"type": "increment", "path": "n", "by": 1}, mark]}
        return "state::update", {**place, "ops": [{"type": "append", "path": ["log"], "value": [self.id]}, mark]}


def applied(kind: str, write: str, old: dict[str, Any] | None) -> dict[str, Any] | None:
    """The value after a write."""
    if kind == "delete":
        return None
    if kind == "set":
        return {"n": 0, "log": [], "w": write}
    new = dict(old or {})
    if kind == "increment":
        new["n"] = new.get("n", 0) + 1
    else:
        new["log"] = [*new.get("log", []), [write]]
    return {**new, "w": write}


class Source:
    """The writes of one writer, one after the other."""

    def __init__(self, seed: int, writer: str) -> None:
        self.writer = writer
        self._random = random.Random(f"{seed} {writer}")
        self._numbers = itertools.count(1)
        self._appends = itertools.count()

    def next(self) -> Op:
        """The next write."""
        chance, name = self._random, f"{self.writer}.{next(self._numbers)}"
        match chance.choices(("hot", "counter", "list", "mixed", "side"), (14, 16, 15, 40, 15))[0]:
            case "hot":
                return Op(name, "increment", MAIN, HOT)
            case "counter":
                return Op(name, "increment", MAIN, chance.choice(COUNTERS[:-1]))
            case "list":
                turn = next(self._appends) // APPENDS_PER_LIST
                return Op(name, "append", MAIN, f"{chance.choice(LISTS)}.{turn}")
            case "mixed":
                return self._mixed(name, MAIN, chance.choice(MIXED))
            case _:
                return self._mixed(name, SIDE, chance.choice(("s0", "s1", "s2")))

    def _mixed(self, name: str, scope: str, key: str) -> Op:
        kind = self._random.choices(("set", "increment", "append", "delete"), (25, 35, 20, 20))[0]
        return Op(name, kind, scope, key)

    def pause(self) -> float:
        """Seconds until the next write."""
        return self._random.uniform(0, 0.08)


def outcome_of(code: str) -> str:
    """What a failed write's code says of it: `refused` (nothing has changed), `unknown`, or `ok`, whatever it replaced."""
    if code in ("SET_ERROR", "UPDATE_ERROR", "DELETE_ERROR"):
        return "refused"
    return "ok" if code in ("NOT_CONFIRMED", "OLD_VALUE_UNKNOWN") else "unknown"
