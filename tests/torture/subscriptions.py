"""Whose handlers run: the triggers of a run, and what each of them should see.

Workers of an SDK run this in an environment of their own, so it needs nothing but Python.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

from tests.torture.writes import FADING, HOT, HURT, LARGE, MAIN, OUTSIDE, POISON, SCOPES, SIDE, is_poison

CONDITION = "torture::is_wanted"

HANDLE, HANDLE_OLD, HANDLE_POISON, HANDLE_AWAY = "handle", "handle-old", "handle-poison", "handle-away"
"""The roles of workers: most handlers, those of the old SDK, those that kill, and those that are away for long."""


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
    role: str = HANDLE
    """Of the workers that serve it."""
    key_prefix: str = ""
    changed: str = ""
    """A member: it wants the events that change it."""
    batch: int = 0
    """So many events at most come with one call; 0 for one by one."""
    is_damaged: bool = False
    """Whether its queue is damaged: events may be lost, as many as are counted."""

    @property
    def is_old(self) -> bool:
        """Served by workers of the old SDK, which are not told of `event_id`, `attempt` and `fence`."""
        return self.role == HANDLE_OLD

    @property
    def function_id(self) -> str:
        """The handler's id."""
        return f"torture::{self.name}"

    @property
    def config(self) -> dict[str, Any]:
        """The trigger's config."""
        attempts = 3 if self.role == HANDLE_POISON else 20
        config: dict[str, Any] = {"scope": self.scope, "retry": {"max_attempts": attempts, "backoff_ms": 30, "max_backoff_ms": 200}}
        if self.key is not None:
            config["key"] = self.key
        if self.key_prefix:
            config["key_prefix"] = self.key_prefix
        if self.changed:
            config["changed"] = [self.changed]
        if self.batch:
            config["batch"] = {"max": self.batch, "wait_ms": 50}
        if self.has_condition:
            config["condition_function_id"] = CONDITION
        if self.is_broadcast:
            config["delivery"] = "broadcast"
        return config

    def matches(self, scope: str, key: str, old: Any, new: Any) -> bool:
        """Whether its handler should see such an event."""
        if scope != self.scope or self.key not in (None, key) or not key.startswith(self.key_prefix):
            return False
        if self.changed and (old or {}).get(self.changed) == (new or {}).get(self.changed):
            return False
        return not self.has_condition or is_wanted(old, new)

    def kills(self, new: Any) -> bool:
        """Whether an event to this value kills its worker."""
        return self.role == HANDLE_POISON and is_poison(new)


_ALL = (
    Spec("all", MAIN, is_base=True),
    Spec("wanted", MAIN, has_condition=True),
    Spec("one", MAIN, key="m0"),
    Spec("hot", MAIN, key=HOT, role=HANDLE_OLD),
    Spec("prefixed", MAIN, key_prefix="m"),
    Spec("changed", MAIN, key_prefix="m", changed="n"),
    Spec("batched", SIDE, batch=10, fails=True),
    Spec("flaky", SIDE, is_base=True, fails=True),
    Spec("everywhere", SIDE, is_broadcast=True),
    Spec("fading", FADING, is_base=True),
    Spec("away", LARGE, is_base=True, role=HANDLE_AWAY),
    Spec("seen", POISON, is_base=True),
    Spec("deadly", POISON, role=HANDLE_POISON),
    Spec("outside", OUTSIDE, is_base=True),
    Spec("whole", HURT, is_base=True),
    Spec("hurt", HURT, is_damaged=True),
)

SPECS = {
    adapter: tuple(spec for spec in _ALL if spec.scope in scopes and not (spec.is_broadcast and adapter == "attach"))
    for adapter, scopes in SCOPES.items()
}
"""The triggers with each adapter. Each attached worker has a broadcast queue of its own, and none says whose a delivery was."""


def is_wanted(old: Any, new: Any) -> bool:
    """What the condition answers."""
    return zlib.crc32(((new or old or {}).get("w", "")).encode()) % 2 == 0


def fails(event_id: str, attempt: int) -> bool:
    """Whether a handler that fails now and then fails at this attempt; never more than three times for one event."""
    return attempt <= 3 and zlib.crc32(f"{event_id} {attempt}".encode()) % 8 == 0
