"""The steps of `State.transact` as Python calls: each function returns one, as the JSON object that a request carries.

    >>> await state.set("accounts", "ann", {"cents": 900})
    SetResult(old_value=None, new_value={'cents': 900})
    >>> enough = [conditions.gte("cents", 500)]
    >>> done = await state.transact("accounts", [
    ...     steps.update("ann", [ops.decrement("cents", 500)], only_if=enough),
    ...     steps.update("bob", [ops.increment("cents", 500)]),
    ... ])
    >>> [step.new_value for step in done]
    [{'cents': 400}, {'cents': 500}]

All are made or none. A step finds what those before it have left, and its `only_if` is judged on that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from iii_state.state.conditions import Condition

Step: TypeAlias = Mapping[str, Any]
"""What the functions here return, or a dict that is written by hand."""


def set(key: str, value: Any, *, ttl_ms: int | None = None, only_if: Sequence[Condition] | None = None) -> dict[str, Any]:
    """Store a value, as `State.set` does.

    >>> steps.set("last", {"from": "ann"}, ttl_ms=60_000)
    {'type': 'set', 'key': 'last', 'value': {'from': 'ann'}, 'ttl_ms': 60000}
    """
    return _step({"type": "set", "key": key, "value": value}, ttl_ms=ttl_ms, only_if=only_if)


def update(
    key: str,
    ops: Sequence[Mapping[str, Any]],
    *,
    ttl_ms: int | None = None,
    only_if: Sequence[Condition] | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Apply ops, as `State.update` does. With `strict`, one that fails refuses the whole transaction.

    >>> steps.update("ann", [ops.increment("n")], strict=True)
    {'type': 'update', 'key': 'ann', 'ops': [{'type': 'increment', 'path': 'n', 'by': 1}], 'strict': True}
    """
    step = _step({"type": "update", "key": key, "ops": ops}, ttl_ms=ttl_ms, only_if=only_if)
    return step | {"strict": True} if strict else step


def delete(key: str, *, only_if: Sequence[Condition] | None = None) -> dict[str, Any]:
    """Delete a value, as `State.delete` does.

    >>> steps.delete("pending", only_if=[conditions.present()])
    {'type': 'delete', 'key': 'pending', 'if': [{'present': True}]}
    """
    return _step({"type": "delete", "key": key}, only_if=only_if)


def _step(step: dict[str, Any], *, only_if: Sequence[Condition] | None, ttl_ms: int | None = None) -> dict[str, Any]:
    if ttl_ms is not None:
        step["ttl_ms"] = ttl_ms
    if only_if is not None:
        step["if"] = only_if
    return step
