"""What the calls of `State` return, and how that is read out of the functions' results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec

from iii_state import values
from iii_state.errors import ConditionUnmet
from iii_state.state.handlers import Event
from iii_state.values.conditions import parse
from iii_state.values.ops import OpError


@dataclass(frozen=True, slots=True)
class SetResult:
    """What `State.set` did: the value before (None where there was none, and for a stored null), and the one that is stored.

    `etag` and `revision` are those of the stored value where `meta` asked for them, else None.

    >>> await state.set("results", "n", 1)
    SetResult(old_value=None, new_value=1)
    """

    old_value: Any
    new_value: Any
    etag: str | None = field(default=None, repr=False)
    revision: int | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What `State.update` did: the value before and after, and why ops were skipped; without `errors` all were applied.

    `etag` and `revision` are those of the stored value where `meta` asked for them, else None.

    >>> await state.update("results", "m", [ops.increment()])
    UpdateResult(old_value=None, new_value=1, errors=[])
    """

    old_value: Any
    new_value: Any
    errors: list[OpError] = field(default_factory=list)
    etag: str | None = field(default=None, repr=False)
    revision: int | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step of `State.transact` did: the value before, the one after (None for a delete), and why ops were skipped.

    >>> await state.transact("results", [steps.set("s", 1), steps.delete("s")])
    [StepResult(old_value=None, new_value=1, errors=[]), StepResult(old_value=1, new_value=None, errors=[])]
    """

    old_value: Any
    new_value: Any
    errors: list[OpError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Stored:
    """A value with what is known of it, from `State.get(..., meta=True)`; `etag` is None where there is no value.

    `ttl_ms` is how long it has left (milliseconds), None without a deadline; `revision` its number in the change log of its scope,
    None where that has none.

    >>> await state.get("results", "nothing", meta=True)
    Stored(value=None, etag=None, ttl_ms=None, revision=None)
    """

    value: Any
    etag: str | None
    ttl_ms: int | None
    revision: int | None


@dataclass(frozen=True, slots=True)
class StateChange:
    """A change of a scope that has a change log: its revision, when it was made (milliseconds since 1970), and the event.

    >>> await state.set("ledger", "l7", 7)
    SetResult(old_value=None, new_value=7)
    >>> [(change.revision, change.event.new_value) async for change in state.history("ledger", key="l7")]
    [(1, 7)]
    """

    revision: int
    at_ms: int
    event: Event


def op_errors(result: Mapping[str, Any]) -> list[OpError]:
    """Why ops of an update were skipped."""
    return msgspec.convert(result.get("errors", []), list[OpError])


def check_met(result: object, scope: str, key: str, only_if: Sequence[Mapping[str, Any]] | None) -> None:
    """Raises `ConditionUnmet` for the result of a change that says that a condition did not hold."""
    if only_if is not None and isinstance(result, dict) and result.get("applied") is False:
        _raise_unmet(result, scope, key, only_if)


def check_steps_met(result: object, scope: str, steps: Sequence[Mapping[str, Any]]) -> None:
    """The same for the result of a transaction."""
    if isinstance(result, dict) and result.get("applied") is False:
        step = steps[result["step"]]
        _raise_unmet(result, scope, step["key"], step["if"])


def _raise_unmet(result: Mapping[str, Any], scope: str, key: str, only_if: Sequence[Mapping[str, Any]]) -> NoReturn:
    index, step = result["condition"], result.get("step")
    said = parse(values.encode(only_if)).failure(index, scope, key, None, step=step)
    raise ConditionUnmet(said.message, index, step, result["value"], result["etag"])
