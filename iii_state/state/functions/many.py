"""`state::get_many` and `state::transact`: several keys in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from iii_state import values
from iii_state.access import Access
from iii_state.adapters.base import Adapter
from iii_state.errors import Code, FunctionError, InvalidOp, InvalidValue, too_large
from iii_state.host import Caller, Handler
from iii_state.state.functions import extended
from iii_state.state.functions.declared import Declared, Registration, as_it_is, failing_with
from iii_state.state.functions.lists import LIST_BYTES
from iii_state.state.functions.requests import IfFailed
from iii_state.state.functions.values import MAX_TTL_MS, ValueFunctions, request_id_of
from iii_state.tasks.results import Result, then
from iii_state.values.ops import OpRequest, compile_text
from iii_state.values.requests import describe, within
from iii_state.values.transactions import MAX_STEPS, MAX_TRANSACTION_BYTES, Done, Step, in_step, too_much

MAX_KEYS = 1000
"""So many values are read by one call."""


class ItemRequest(msgspec.Struct, gc=False):
    """A place whose value is asked for."""

    scope: str
    key: str


class GetManyRequest(msgspec.Struct):
    """`state::get_many`: `scope` and `keys`, or `items`."""

    scope: str | None = None
    keys: list[str] | None = None
    items: list[ItemRequest] | None = None


class StepRequest(msgspec.Struct):
    """A step of `state::transact`. `value` is of a set, `ops` of an update, which are compiled as they are read."""

    type: Literal["set", "update", "delete"]
    key: str
    value: Raw | UnsetType = UNSET
    ops: Raw | UnsetType = UNSET
    ttl_ms: int | None = None
    only_if: Raw | UnsetType = msgspec.field(default=UNSET, name="if")
    strict: bool | None = None
    scope: Raw | UnsetType = UNSET
    """That of the transaction is meant: a step has none."""


class OpsRequest(msgspec.Struct):
    """The ops of a step, to say what is wrong with them."""

    ops: list[OpRequest]


class TransactRequest(msgspec.Struct):
    """`state::transact`."""

    scope: str
    steps: list[StepRequest]
    if_failed: IfFailed = None
    only_if: Raw | UnsetType = msgspec.field(default=UNSET, name="if")
    """Conditions are of steps: here they would be passed over."""
    _iii_state_request: Raw | UnsetType = UNSET
    _iii_state_limit: int | None = None
    """What an engine with a bridge to this one allows (bytes)."""


_ROW_BYTES = len(b'{"found":false,"value":null},')
"""What a row of `state::get_many` takes, at most, beside its value."""

_get_many = msgspec.json.Decoder(GetManyRequest)
_transact = msgspec.json.Decoder(TransactRequest)


class ManyFunctions:
    """The functions over any adapter. `single` are those of one key, whose limits hold here, too."""

    def __init__(self, adapter: Adapter, single: ValueFunctions) -> None:
        self._values = adapter.values
        self._single = single

    def __iter__(self) -> Iterator[Registration]:
        yield "state::get_many", self._get_many(), "Get the values at many keys"
        yield "state::transact", self._transact(), "Change several keys of a scope, all or none"

    def _get_many(self) -> Handler:
        def get(request: GetManyRequest, caller: Caller) -> Result[list[bytes | None]]:
            places = _places(request)
            keys_of: dict[str, list[str]] = {}
            for scope, key in places:
                keys_of.setdefault(scope, []).append(key)
            found = [self._values.get_many(scope, list(dict.fromkeys(keys))) for scope, keys in keys_of.items()]
            if not any(isinstance(texts, asyncio.Future) for texts in found):
                return _in_order(places, keys_of, [texts for texts in found if not isinstance(texts, asyncio.Future)])
            waited = asyncio.gather(*(texts for texts in found if isinstance(texts, asyncio.Future)))
            return then(waited, partial(_in_order, places, keys_of))

        failed = failing_with(Code.GET_ERROR, "get values")
        return Declared("state::get_many", GetManyRequest, _get_many.decode, get, _values_listed, failed, _reads_all)

    def _transact(self) -> Handler:
        failed = failing_with(Code.TRANSACT_ERROR, "carry out the transaction")

        def transact(request: TransactRequest, caller: Caller) -> Result[bytes | None]:
            single = self._single
            if request.only_if is not UNSET:
                raise InvalidValue("if: conditions are members of the steps")
            within("steps: number of steps", len(request.steps), 1, MAX_STEPS)
            request_id = request_id_of(request._iii_state_request, caller)
            limit = single.limit if request._iii_state_limit is None else min(single.limit, request._iii_state_limit)
            steps = _within_limits([_step(number, step) for number, step in enumerate(request.steps)], limit)
            single.written(request.scope, (step.key for step in steps), caller)
            make = partial(self._values.transact, request.scope, steps, limit, request=request_id)
            return extended.answered(make, partial(_carried_out, steps), failed, request.if_failed)

        return Declared("state::transact", TransactRequest, _transact.decode, transact, as_it_is, failed, _writes_scope)


def _places(request: GetManyRequest) -> list[tuple[str, str]]:
    """The places that are asked for. Raises `InvalidValue` in words."""
    if request.items is not None:
        if request.keys is not None or request.scope is not None:
            raise InvalidValue("`items` have scopes and keys of their own; give them, or `scope` and `keys`")
        places = [(item.scope, item.key) for item in request.items]
    elif request.scope is None:
        raise InvalidValue("missing field `scope`")
    elif request.keys is None:
        raise InvalidValue("missing field `keys`")
    else:
        places = [(request.scope, key) for key in request.keys]
    if len(places) > MAX_KEYS:
        which = "keys" if request.items is None else "items"
        raise InvalidValue(f"{which}: invalid length: {len(places)}, expected at most {MAX_KEYS}")
    return places


def _reads_all(access: Access, request: GetManyRequest) -> None:
    """Every scope has to be one that may be seen."""
    for scope in {item.scope for item in request.items or ()} | ({request.scope} if request.scope is not None else set()):
        access.check_read(scope)


def _writes_scope(access: Access, request: TransactRequest) -> None:
    access.check_write(request.scope)


def _in_order(
    places: list[tuple[str, str]], keys_of: dict[str, list[str]], found: Sequence[list[bytes | None]]
) -> list[bytes | None]:
    """The texts as they were asked for, of those of each scope."""
    texts = {
        (scope, key): text
        for (scope, keys), of_scope in zip(keys_of.items(), found, strict=True)
        for key, text in zip(dict.fromkeys(keys), of_scope, strict=True)
    }
    return [texts[place] for place in places]


def _values_listed(texts: list[bytes | None]) -> bytes:
    # A key may come again, so that one large value is a thousand: nothing is copied before it is known to fit.
    if sum(_ROW_BYTES if text is None else _ROW_BYTES + len(text) for text in texts) > LIST_BYTES:
        raise FunctionError(
            Code.GET_ERROR, f"Failed to get values: they take more than {LIST_BYTES} bytes; ask for fewer of them at once"
        )
    rows = (b'{"found":false,"value":null}' if text is None else b'{"found":true,"value":%b}' % text for text in texts)
    return b'{"values":[%b]}' % b",".join(rows)


def _step(number: int, step: StepRequest) -> Step:
    """A step as adapters have it. Raises `InvalidValue` in words that name it."""
    try:
        if step.scope is not UNSET:
            raise InvalidValue("scope: a transaction is of one scope, and its steps have none")
        if step.ttl_ms is not None:
            within("ttl_ms", step.ttl_ms, 1, MAX_TTL_MS)
        conditions = extended.conditions_of(step.only_if)
        if step.type == "delete":
            return Step(step.key, conditions=conditions)
        if step.type == "set":
            if step.value is UNSET:
                raise InvalidValue("missing field `value`")
            return Step(step.key, values.to_stored(step.value), None, step.ttl_ms, conditions)
        if step.ops is UNSET:
            raise InvalidValue("missing field `ops`")
        return Step(step.key, None, compile_text(step.ops), step.ttl_ms, conditions, bool(step.strict))
    except msgspec.MsgspecError as error:
        ops = b'{"ops":%b}' % step.ops if isinstance(step.ops, Raw) else b"{}"
        raise InvalidValue(f"steps[{number}].{describe(ops, OpsRequest, error)}") from None
    except RecursionError:
        raise InvalidValue(f"steps[{number}]: nesting deeper than {values.MAX_DEPTH} levels") from None
    except (InvalidValue, InvalidOp, UnicodeError) as error:
        raise InvalidValue(f"steps[{number}]: {error}") from None


def _within_limits(steps: list[Step], limit: int) -> list[Step]:
    """Raises `FunctionError` (`VALUE_TOO_LARGE`) for a value, or a request, that is too large whatever it finds.

    Conditions are judged before sizes: where there are any, a set that is too large is made an update with that value, which the
    adapter refuses, unless a condition does not hold.
    """
    total = 0
    are_judged = any(step.conditions is not None for step in steps)
    for number, step in enumerate(steps):
        if step.plan is not None:
            total += len(step.plan.text)
        elif step.value is not None:
            size = values.compact_size(step.value)
            total += size
            if size > limit and not are_judged:
                raise in_step(number, too_large(size, limit))
            if size > limit:
                plan = compile_text(b'[{"type":"set","value":%b}]' % values.unframe(step.value))
                steps[number] = step._replace(value=None, plan=plan)
    if total > MAX_TRANSACTION_BYTES:
        raise too_much(total)
    return steps


def _carried_out(steps: Sequence[Step], results: list[Done]) -> bytes:
    return b'{"results":[%b]}' % b",".join(_result(step, done) for step, done in zip(steps, results, strict=True))


def _result(step: Step, done: Done) -> bytes:
    old = b"null" if done.old is None else done.old
    if step.plan is None and step.value is None:
        return b'{"old_value":%b}' % old
    new = b"null" if done.new is None else done.new
    errors = b',"errors":' + values.encode(done.errors) if done.errors else b""
    return b'{"old_value":%b,"new_value":%b%b}' % (old, new, errors)
