"""A transaction on its way: several changes of one scope in one call, made again until all its events find room."""

from __future__ import annotations

from collections.abc import Sequence

from iii_state import lineages
from iii_state.adapters.redis.connection.call import AGAIN, Again, Reply
from iii_state.adapters.redis.keys import caller_session
from iii_state.adapters.redis.mutations.commands import replaced_text
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.mutations.foreign_text import checked
from iii_state.adapters.redis.mutations.mutation import Mutation
from iii_state.adapters.redis.mutations.route import Route, with_filters
from iii_state.adapters.redis.scripts.mutations import (
    KEEP_DEADLINE,
    NO_DEADLINE,
    RequestId,
    all_or_nothing,
    checked_text,
    is_applied,
    op_failed,
    plan_arguments,
    update_arguments,
)
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.adapters.redis.scripts.transactions import StepCall, found_before, step_result, transaction
from iii_state.errors import FunctionError, RequestFenced
from iii_state.sessions import Request
from iii_state.values.transactions import Done, Step, carried_out, in_step, too_much


class Transact(Mutation[list[Done]]):
    """Carries out steps, all or none. What a single step is refused for is seen to as for a mutation of its own."""

    __slots__ = ("_first", "_keys", "_owns", "_steps", "_wanted_of", "limit")

    name = "values/transact"

    def __init__(self, fanout: Fanout, scope: str, steps: Sequence[Step], limit: int, request: Request | None) -> None:
        super().__init__(fanout, scope, "", (), request, next((step.ttl_ms for step in steps if step.ttl_ms is not None), None))
        self.limit = limit
        self._steps = steps
        self._keys = [step.key.encode() for step in steps]
        self._owns = [_own(step, limit) for step in steps]
        self.size = sum(len(word) for own in self._owns for word in own)
        self._wanted_of: list[list[tuple[bytes, Route]]] = []
        self._first = 0
        """The furthest step that has been refused: where it gets further, it is not put off for ever."""

    # -- sending

    def command(self, session: bytes, epoch: int) -> bytes:
        fanout, request = self._fanout, self.request
        routes = fanout.routes
        has_deadlines = self.scope in routes.with_deadlines
        if self.ttl_ms is not None and not has_deadlines:
            return self._declare()
        slot, sequence = self.slot, self.sequence
        if request is not None:
            slot, sequence = request.slot, request.seq
            session, epoch = caller_session(request.session), request.epoch
        unbounded = () if self._room is None else self._room.unbounded
        self._wanted_of = [routes.matching(self.scope, step.key) if fanout.enabled else [] for step in self._steps]
        for queue in {queue for wanted in self._wanted_of for queue, _ in wanted}:
            fanout.wake_ups.written(queue)
        calls = []
        for step, key, own, wanted in zip(self._steps, self._keys, self._owns, self._wanted_of, strict=True):
            targets = [fanout.target(queue, route, is_bounded=queue not in unbounded) for queue, route in wanted]
            ttl = None
            if has_deadlines:
                keeps = KEEP_DEADLINE if step.plan is not None else NO_DEADLINE
                ttl = keeps if step.ttl_ms is None else fanout.lifetime(step.ttl_ms)
            if any(route.is_narrowed for _, route in wanted):
                own = with_filters(own, wanted)
            calls.append(StepCall(key, _kind(step), targets, own, ttl))
        scope = self._place[0]
        watched = None if routes.shadows is None else (fanout.keys.shadow(routes.shadows, scope), fanout.marks)
        is_told = self._lineage is not None and fanout.tells_lineages and any(self._wanted_of)
        lineage = lineages.encode(self._lineage) if is_told and self._lineage is not None else b""
        request_id = RequestId(session, epoch, slot, sequence)
        log = None if routes.logs is None else fanout.log(self.scope)
        known = (fanout.keys, request_id, routes.version, scope, calls, watched)
        return pack(
            (
                b"EVALSHA",
                fanout.scripts.of(self.name).sha1,
                *transaction(*known, has_deadlines=has_deadlines, lineage=lineage, log=log),
            )
        )

    # -- reading the reply

    def result(self, reply: Reply) -> list[Done] | Again:
        if self._is_declaring or is_applied(reply):
            return super().result(reply)
        match reply:
            case [b"FOREIGN", *pairs]:
                return self._take_on_all(pairs)
            case [b"TOO_MUCH", int(size)]:
                raise too_much(size)
            case [b"UNMET", bytes(which), bytes() | None as text, *unrecorded]:
                raise self._unmet(which, text, is_recorded=not any(unrecorded))
            case [b"OP_FAILED", bytes(failures), int(number)]:
                plan = self._steps[number].plan
                assert plan is not None
                raise in_step(number, op_failed(plan, failures))
            case [b"TOO_LARGE" | b"FULL" | b"UNCAPTURED", *_, int(number)]:
                return self._refused_at(number, reply[:-1])
            case _:
                return super().result(reply)

    def _refused_at(self, number: int, reply: Reply) -> list[Done] | Again:
        """A step is refused as a mutation of its key would be."""
        if number > self._first:
            self._first, self.tries = number, 0
        self._wanted = self._wanted_of[number]
        self.key = self._steps[number].key
        self._place = (self._place[0], self._keys[number])
        try:
            return super().result(reply)
        except FunctionError as error:
            raise in_step(number, error) from None

    def _events_for(self, queue: bytes) -> int:
        return sum(queue in dict(wanted) for wanted in self._wanted_of)

    def _take_on_all(self, pairs: Sequence[object]) -> Again:
        """Stored texts are another writer's: they are checked here, and given to the script with their stored forms."""
        for number, text in zip(pairs[::2], pairs[1::2], strict=True):
            assert isinstance(number, int)
            assert isinstance(text, bytes)
            step = self._steps[number]
            self._owns[number] = _own(step, self.limit, text, checked(self.scope, step.key, text))
        return AGAIN

    def _unmet(self, which: bytes, text: bytes | None, *, is_recorded: bool) -> Exception:
        """The error of a condition, of which index and step are told."""
        index, _, number = which.partition(b" ")
        step = self._steps[int(number)] if number and int(number) < len(self._steps) else None
        if step is None or step.conditions is None:  # it has the id of another call
            return RequestFenced()
        return step.conditions.failure(int(index), self.scope, step.key, text, step=int(number), is_recorded=is_recorded)

    def applied(self, reply: Reply) -> list[Done]:
        if reply[0] == b"AGAIN":
            keys = dict.fromkeys(step.key for step in self._steps)
            found = dict(zip(keys, found_before(reply), strict=True))
            return carried_out(self.scope, self._steps, lambda key: replaced_text(self.scope, key, found[key]))
        results = []
        left: set[str] = set()
        for step, told in zip(self._steps, reply[1:], strict=True):
            old, new, errors = step_result(told, step.plan)
            if step.key not in left and step.plan is None:
                old = replaced_text(self.scope, step.key, old)
            left.add(step.key)
            results.append(Done(old, step.value if step.plan is None else new, errors))
        return results


def _kind(step: Step) -> bytes:
    return b"u" if step.plan is not None else b"d" if step.value is None else b"s"


def _own(step: Step, limit: int, found: bytes | None = None, form: bytes = b"") -> list[bytes]:
    """The own arguments of a step; with a text that was `found` in its way and checked, and its stored form."""
    own = [] if step.conditions is None else list(step.conditions.arguments(None if found is None else form))
    if step.plan is not None:
        ops = plan_arguments(step.plan)
        return own + update_arguments([*all_or_nothing(step.plan), *ops] if step.strict else ops, limit, found, form)
    own += [] if step.value is None else [step.value]
    if found is not None:
        own += [*([b""] if step.value is None else []), *checked_text(found, form)]
    return own
