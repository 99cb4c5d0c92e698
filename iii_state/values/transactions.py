"""The steps of a transaction, and what they make of the values that they find: for kv, and for one that Redis has recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from iii_state import values
from iii_state.errors import Code, FunctionError, too_large
from iii_state.values.apply import apply
from iii_state.values.conditions import Conditions
from iii_state.values.ops import OpError, Plan

MAX_STEPS = 128

MAX_TRANSACTION_BYTES = 16 * 1024 * 1024
"""What the steps find and what they leave, of each step both, in bytes (compact; `lua/values/transact.lua` has the number)."""


class Step(NamedTuple):
    """A change of one key: a `set` has a value, an `update` a plan, a `delete` neither.

    After `ttl_ms` the value goes; without, it stays after a set, and keeps its deadline at an update. `conditions` are judged on
    what the steps before have left; an op that fails in a `strict` update refuses the transaction.
    """

    key: str
    value: bytes | None = None
    plan: Plan | None = None
    ttl_ms: int | None = None
    conditions: Conditions | None = None
    strict: bool = False


class Done(NamedTuple):
    """What a step has done: the texts before and after (None for no value), and the ops that were skipped."""

    old: bytes | None
    new: bytes | None
    errors: list[OpError]


class Revisions(NamedTuple):
    """Of a scope that has a change log: its latest revision, and of a key that of the value that is there, if it is known."""

    latest: int
    of: Callable[[str], int | None]


def carry_out(
    scope: str,
    steps: Sequence[Step],
    find: Callable[[str], bytes | None],
    limit: int = values.MAX_VALUE_BYTES,
    revisions: Revisions | None = None,
) -> list[Done]:
    """What the steps do one behind the other, each finding what those before it have left.

    `find` answers what a key holds before the first of them, `revisions` are those before it. Raises `ConditionFailed`; and
    `FunctionError`: `OP_FAILED`, and `VALUE_TOO_LARGE` where the result of an update has more than `limit` bytes, or all of it more
    than `MAX_TRANSACTION_BYTES`.
    """
    texts: dict[str, bytes | None] = {}
    numbers: dict[str, int | None] = {}
    results: list[Done] = []
    raw = 0
    for number, step in enumerate(steps):
        key = step.key
        old = texts[key] if key in texts else find(key)
        errors: list[OpError] = []
        new = step.value
        if step.conditions is not None:
            revision = None if revisions is None else numbers[key] if key in numbers else revisions.of(key)
            if (index := step.conditions.failing(old, revision)) is not None:
                raise step.conditions.failure(index, scope, key, old, step=number)
        if step.plan is not None:
            new, errors = apply(step.plan, old)
            if step.strict and errors:
                raise in_step(number, FunctionError(Code.OP_FAILED, errors[0].message))
            if len(new) > limit and (size := values.compact_size(new)) > limit:
                raise in_step(number, too_large(size, limit))
        texts[key] = new
        if revisions is not None:
            numbers[key] = None if new is None else revisions.latest + number + 1
        results.append(Done(old, new, errors))
        raw += len(old or b"") + len(new or b"")
        if raw > MAX_TRANSACTION_BYTES and (size := _compact_size(results)) > MAX_TRANSACTION_BYTES:
            raise too_much(size)
    return results


def carried_out(scope: str, steps: Sequence[Step], find: Callable[[str], bytes | None]) -> list[Done]:
    """What a transaction has done that found these texts and was applied: so its conditions did hold."""
    return carry_out(scope, [step._replace(conditions=None) for step in steps], find)


def too_much(size: int) -> FunctionError:
    """The error of a transaction whose texts have so many bytes, or more."""
    return FunctionError(
        Code.VALUE_TOO_LARGE,
        f"a transaction that finds and leaves values of {size} bytes or more exceeds the limit of {MAX_TRANSACTION_BYTES} bytes "
        "for both together",
    )


def in_step(number: int, error: FunctionError) -> FunctionError:
    """The error of a step, which says which one it is."""
    return FunctionError(error.code, f"steps[{number}]: {error.message}")


def _compact_size(results: Sequence[Done]) -> int:
    return sum(values.compact_size(text) for done in results for text in (done.old, done.new) if text is not None)
