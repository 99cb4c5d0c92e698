"""Whose handlers run: the triggers of a run, and what each of them should see.

Workers of an SDK run this in an environment of their own, so it needs nothing but Python.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

from tests.torture.writes import HOT, MAIN, SIDE

CONDITION = "torture::is_wanted"


@dataclass(frozen=True)
class Spec:
    """A trigger. `is_base` is the one of its scope from which the history of every key is read."""

    name: str
    scope: str
    key: str | None = None
    is_base: bool = False
    has_condition: bool = False
    is_broadcast: bool = False
    fails: bool = False
    """Whether its handler raises now and then."""
    is_old: bool = False
    """Served by workers of the old SDK, which are not told of `event_id`, `attempt` and `fence`."""

    @property
    def function_id(self) -> str:
        """The handler's id."""
        return f"torture::{self.name}"

    @property
    def config(self) -> dict[str, Any]:
        """The trigger's config."""
        config: dict[str, Any] = {"scope": self.scope, "retry": {"max_attempts": 20, "backoff_ms": 30, "max_backoff_ms": 200}}
        if self.key is not None:
            config["key"] = self.key
        if self.has_condition:
            config["condition_function_id"] = CONDITION
        if self.is_broadcast:
            config["delivery"] = "broadcast"
        return config

    def matches(self, scope: str, key: str, old: Any, new: Any) -> bool:
        """Whether its handler should see such an event."""
        if scope != self.scope or self.key not in (None, key):
            return False
        return not self.has_condition or is_wanted(old, new)


SPECS = (
    Spec("all", MAIN, is_base=True),
    Spec("wanted", MAIN, has_condition=True),
    Spec("one", MAIN, key="m0"),
    Spec("hot", MAIN, key=HOT, is_old=True),
    Spec("flaky", SIDE, is_base=True, fails=True),
    Spec("everywhere", SIDE, is_broadcast=True),
)


def is_wanted(old: Any, new: Any) -> bool:
    """What the condition answers."""
    return zlib.crc32(((new or old or {}).get("w", "")).encode()) % 2 == 0


def fails(event_id: str, attempt: int) -> bool:
    """Whether a handler that fails now and then fails at this attempt; never more than three times for one event."""
    return attempt <= 3 and zlib.crc32(f"{event_id} {attempt}".encode()) % 8 == 0
