"""Calls of values/transact.lua: the keys and arguments of its steps, and what its replies mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from iii_state.adapters.redis.keys import Keys, lane
from iii_state.adapters.redis.scripts.mutations import BoundedQueue, Log, Reply, RequestId, failed_ops
from iii_state.errors import OldValueUnknown
from iii_state.values.ops import OpError, Plan


class StepCall(NamedTuple):
    """A step: its key, its kind (`s`, `u`, `d`), the queues that want its event, and its own arguments as those of the command
    that it would be by itself. `ttl` is as of `mutations.mutation`."""

    key: bytes
    kind: bytes
    targets: Sequence[BoundedQueue]
    own: Sequence[bytes]
    ttl: bytes | None


def transaction(
    keys: Keys,
    request: RequestId,
    routes_version: int,
    scope: bytes,
    steps: Sequence[StepCall],
    watched: tuple[bytes, bytes] | None = None,
    *,
    has_deadlines: bool = False,
    lineage: bytes = b"",
    log: Log | None = None,
) -> list[bytes]:
    """What follows the digest in EVALSHA: number of keys, keys, arguments. For `watched`, `lineage`, `log` see `mutation`."""
    extra: tuple[bytes, ...] = ()
    if watched is not None or has_deadlines or log is not None:
        none = (keys.routes_version, keys.routes_version)
        times = (keys.deadlines_of(scope), keys.deadlines, keys.clock) if has_deadlines else (*none, keys.routes_version)
        extra = (*(watched or none), *times)
        if log is not None:
            extra += (keys.history(scope), keys.revisions(scope))
    names = [keys.values(scope), keys.scopes, keys.session(request.session), keys.routes_version, keys.routes_log]
    words: list[bytes] = []
    for number, (key, kind, targets, own, ttl) in enumerate(steps):
        step = [key]
        if targets:
            lane_name = lane(scope, key)
            write_id = step_write_id(b"%b-%d" % (request.session, request.sequence), number)
            step += (lane_name, b"+" + write_id if lineage else write_id)
            for target in targets:
                names += (keys.stream(target.queue), keys.busy(target.queue), keys.wait(target.queue, lane_name))
                step += (b"%d" % target.max_entries, b"%d" % target.max_bytes)
            if lineage:
                step.append(lineage)
        if ttl is not None:
            step.append(ttl)
        if log is not None:
            step += (log.generation, b"%d" % log.max_length, b"%d" % log.made_at_ms)
        step += own
        words += (kind, b"%d" % len(targets), b"%d" % len(step), *step)
    names += extra
    if lineage:
        names += [keys.lineages(target.queue) for step_call in steps for target in step_call.targets]
    if keys.guard is not None:
        names.append(keys.guard)
    numbers = (request.epoch, request.slot, request.sequence, routes_version)
    return [b"%d" % len(names), *names, *(b"%d" % each for each in numbers), scope, b"4" if lineage else b"3", *words]


def step_write_id(write_id: bytes, number: int) -> bytes:
    """The id of the write of a step. No other write's is alike, and lua/lib/queues/next_waiting.lua takes it for one."""
    return b"%bv%d" % (write_id, number)


def found_before(reply: Reply) -> list[bytes | None]:
    """What the first step of each key had found, in their order, of a reply `AGAIN`."""
    match reply:
        case [b"AGAIN", bytes(lengths), bytes(texts)]:
            found: list[bytes | None] = []
            at = 0
            for length in lengths.split():
                end = at if length == b"-" else at + int(length)
                found.append(None if length == b"-" else texts[at:end])
                at = end
            return found
    raise OldValueUnknown


def step_result(result: object, plan: Plan | None) -> tuple[bytes | None, bytes | None, list[OpError]]:
    """Old text, new text and failed ops of a step, as the script has replied of it; of an update alone it tells the new text."""
    match result:
        case [old, bytes(new), bytes(failures)] if plan is not None:
            assert old is None or isinstance(old, bytes)
            return old, new, failed_ops(plan, failures)
        case None | bytes():
            return result, None, []
    raise AssertionError(f"no such result of a step: {result!r:.200}")
