"""Calls of the mutation scripts: their keys and arguments, and what their replies mean.

The files in `lua/` describe both; this is their other side, so that nothing else has to know the order of anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, cast

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.adapters.redis.keys import Keys, lane
from iii_state.errors import Code, FunctionError, OldValueUnknown, RequestFenced, SessionLost, SessionTaken, too_large
from iii_state.events import Cause, write_id_of
from iii_state.values.apply import apply
from iii_state.values.ops import Failure, OpError, Plan

Reply = list[object]

NO_DEADLINE = b""
KEEP_DEADLINE = b"keep"
_KINDS = {"set": b"s", "merge": b"m", "increment": b"i", "append": b"a", "remove": b"r"}


class RequestId(NamedTuple):
    """By which a call is recognised when it is made again: a session, its epoch, a slot, a sequence number.

    It is the engine's own, or its caller's, which then does the engine's work, too: what the engine sends again after a
    reconnect is recognised by it. But the engine's epoch is not looked at, so a straggler of a connection that it has given up
    may still be executed after the call was sent again. If that was applied, the straggler finds its number recorded, or the
    slot used since, and changes nothing. If it was refused, nothing is recorded, and the straggler may be applied: so a refusal
    of a call that an earlier connection had carried never says that nothing was changed (`connection/pipeline.py`).
    """

    session: bytes
    epoch: int
    slot: int
    sequence: int


class BoundedQueue(NamedTuple):
    """A queue that wants an event, and its bounds."""

    queue: bytes
    max_entries: int
    max_bytes: int


class Stale(NamedTuple):
    """A refusal: the routes have changed since those known. `changes` are pairs of version and fields, oldest first, not always
    all.

    Apply the changes and call again. Where they do not begin with the version after the one known, the log has been cut (or the
    database replaced): read the whole table.
    """

    version: int
    changes: list[tuple[int, list[bytes]]]


class QueueFull(NamedTuple):
    """A refusal: a queue has no room for the event.

    `queue` is its position among the targets of the call, `bound` the name of the limit, `size` the bytes of the event.
    """

    queue: int
    bound: str
    size: int


class ForeignText(NamedTuple):
    """A refusal: the stored text may be another writer's.

    Check it (`values.to_stored` after a check of its syntax and UTF-8) and call again with the text and its stored form.
    """

    text: bytes


class Unmet(NamedTuple):
    """A refusal: the condition of this index does not hold for the text (None for none).

    `is_recorded` is false where an earlier call was refused, and the text was too large to be kept.
    """

    condition: int
    text: bytes | None
    is_recorded: bool


class Postponed(Enum):
    """A refusal for now."""

    HELD = "the routes have to hold still for a moment; nothing was changed"
    UNCAPTURED = "another program has changed the value, and that is no event yet: call foreign/capture, and again"


Refusal = Stale | QueueFull | ForeignText | Unmet | Postponed
"""Why a mutation has changed nothing, and can be made again when that has been seen to."""


class Log(NamedTuple):
    """The change log of a scope: which time it is switched on, how many changes it keeps at least, when this one is made."""

    generation: bytes
    max_length: int
    made_at_ms: int


def mutation(
    keys: Keys,
    request: RequestId,
    routes_version: int,
    scope: bytes,
    key: bytes,
    targets: Sequence[BoundedQueue],
    arguments: Sequence[bytes],
    watched: tuple[bytes, bytes] | None = None,
    ttl: bytes | None = None,
    cause: Cause | None = None,
    lineage: bytes = b"",
    log: Log | None = None,
) -> list[bytes]:
    """What follows the digest in EVALSHA: number of keys, keys, arguments.

    `arguments` are the command's own; `watched` is the scope's shadow and the channel of the marks, where foreign writes are;
    `cause` is what the id of the write says. `ttl` is for a scope that has deadlines, and None for any other: milliseconds,
    `NO_DEADLINE` or `KEEP_DEADLINE`. `lineage` is what the write was made within (`lineages.encode`), empty where that is not to be
    told: then the call is what it was in 0.2.0. `log` is for a scope that has a change log.
    """
    extra: tuple[bytes, ...] = ()
    if watched is not None or ttl is not None or log is not None:
        none = (keys.routes_version, keys.routes_version)
        times = (keys.deadlines_of(scope), keys.deadlines, keys.clock)
        extra = (*(watched or none), *((*none, keys.routes_version) if ttl is None else times))
        if log is not None:
            extra += (keys.history(scope), keys.revisions(scope))
    guard = () if keys.guard is None else (keys.guard,)
    call = [
        b"%d" % (5 + (4 if lineage else 3) * len(targets) + len(extra) + len(guard)),
        keys.values(scope),
        keys.scopes,
        keys.session(request.session),
        keys.routes_version,
        keys.routes_log,
    ]
    lane_name = lane(scope, key) if targets else b""
    for target in targets:
        call += (keys.stream(target.queue), keys.busy(target.queue), keys.wait(target.queue, lane_name))
    call += extra
    if lineage:
        call += [keys.lineages(target.queue) for target in targets]
    call += guard
    call += (b"%d" % request.epoch, b"%d" % request.slot, b"%d" % request.sequence, b"%d" % routes_version, scope, key)
    if targets:
        plain = b"%b-%d" % (request.session, request.sequence)
        write_id = plain if cause is None else write_id_of(plain.decode(), cause).encode()
        call += (lane_name, b"+" + write_id if lineage else write_id)
        for target in targets:
            call += (b"%d" % target.max_entries, b"%d" % target.max_bytes)
        if lineage:
            call.append(lineage)
    if ttl is not None:
        call.append(ttl)
    if log is not None:
        call += (log.generation, b"%d" % log.max_length, b"%d" % log.made_at_ms)
    call += arguments
    return call


def declare(keys: Keys, version: int, *settings: tuple[bytes, bytes], told: bool = True) -> list[bytes]:
    """What follows the digest of fleet/change_settings.lua in EVALSHA. `settings` are names and texts."""
    words = [word for setting in settings for word in setting]
    known = b"%d" % version if told else b""
    return [b"5", keys.routes, keys.routes_version, keys.routes_log, keys.hold, keys.engines, known, *words]


def declared(reply: Reply) -> Stale | Postponed:
    """What has changed with it, or `HELD`."""
    match reply:
        case [b"CHANGED", bytes(version), list(entries)]:
            return _stale(version, entries)
        case _:
            return Postponed.HELD


def opened(reply: Reply) -> int:
    """The epoch that sessions/open.lua has raised. Raises `SessionLost` or `SessionTaken`."""
    match reply:
        case [b"OK", int(epoch)]:
            return epoch
        case [b"LOST"]:
            raise SessionLost
        case _:
            raise SessionTaken


def plan_arguments(plan: Plan) -> list[bytes]:
    """The ops of a plan, flat, as values/update.lua reads them."""
    arguments: list[bytes] = []
    for op in plan.ops:
        arguments += (_KINDS[op.type], b"%d" % len(op.tokens))
        if op.tokens:
            arguments += (b"\n%b:" % op.tokens[0], *op.tokens[1:])
        if op.type == "merge":
            spelled = b"%b" if op.tokens else b"\n%b:"
            arguments.append(b"%d" % len(op.members))
            for name, text in op.members:
                arguments += (spelled % values.encode_string(name), text)
        elif op.type != "remove":
            arguments.append(op.value)
    return arguments


def update_arguments(ops: Sequence[bytes], limit: int, foreign: bytes | None = None, stored: bytes = b"") -> list[bytes]:
    """The own arguments of values/update: `ops` as of `plan_arguments`; a foreign text that was checked, and its stored form."""
    if foreign is None:
        return [b"%d" % limit, *ops]
    return [b"%d" % limit, *checked_text(foreign, stored), *ops]


def checked_text(found: bytes, stored: bytes) -> tuple[bytes, ...]:
    """A stored text that was checked, and its stored form, as arguments of a script that has asked for it."""
    return b"f", found, b"" if stored == found else stored


def all_or_nothing(plan: Plan) -> tuple[bytes, bytes]:
    """Before the ops of a plan: one that fails refuses the call."""
    return b"x", b"1" if plan.errors else b"0"


def is_applied(reply: Reply) -> bool:
    """Whether a mutation has been applied, now or by an earlier attempt; else its `refusal` says why not."""
    return reply[0] == b"OK" or reply[0] == b"AGAIN"


def previous(reply: Reply) -> bytes | None:
    """What an applied set or delete has replaced, as found: foreign text is not checked."""
    return cast("bytes | None", reply[1])


def revision(reply: Reply) -> int | None:
    """The revision of an applied mutation, None where its scope has no change log."""
    if reply[0] == b"AGAIN":
        told = cast(bytes, reply[2]).rpartition(b"@")
        return int(told[2]) if told[1] else None
    return reply[-1] if isinstance(reply[-1], int) else None


def updated(reply: Reply, plan: Plan) -> Updated:
    """What an applied update has done."""
    if reply[0] == b"AGAIN":
        old = previous(reply)
        return Updated(old, *apply(plan, old))
    _, old, new, failures = cast("tuple[bytes, bytes | None, bytes, bytes]", reply if len(reply) == 4 else reply[:4])
    return Updated(old, new, failed_ops(plan, failures))


def failed_ops(plan: Plan, failures: bytes) -> list[OpError]:
    """The errors of a plan's ops, of which those that failed only when they were applied are told in words."""
    return plan.all_errors(_errors(plan, failures)) if failures or plan.errors else []


def op_failed(plan: Plan, failures: bytes) -> FunctionError:
    """The error of a change that was to be made whole or not at all: that of the first op that failed."""
    return FunctionError(Code.OP_FAILED, plan.all_errors(_errors(plan, failures))[0].message)


def refusal(reply: Reply, limit: int = 0) -> Refusal:
    """Why a mutation was not applied. Raises what it fails with for good: `SessionError`, `errors.too_large` of the `limit`."""
    match reply:
        case [b"STALE", bytes(version), list(entries)]:
            return _stale(version, entries)
        case [b"FULL", int(queue), bytes(bound), int(size)]:
            return QueueFull(queue, bound.decode(), size)
        case [b"UNCAPTURED"]:
            return Postponed.UNCAPTURED
        case [b"FOREIGN", bytes(text)]:
            return ForeignText(text)
        case [b"UNMET", bytes(condition), *_] if b" " in condition:  # of a step: it has the id of another call
            raise RequestFenced
        case [b"UNMET", bytes(condition), bytes() | None as text, *unrecorded]:
            return Unmet(int(condition), text, not any(unrecorded))
        case [b"TOO_LARGE", int(size)]:
            raise too_large(size, limit)
        case [b"FENCED"]:
            raise RequestFenced
        case [b"LOST"]:
            raise SessionLost
        case [b"FORGOTTEN"]:
            raise OldValueUnknown
    raise AssertionError(f"no such reply of a mutation: {reply!r:.200}")


def _errors(plan: Plan, failures: bytes) -> list[OpError]:
    words = failures.decode().split()
    return [
        plan.error(plan.ops[int(position)], cast(Failure, failure), found)
        for position, failure, found in zip(words[::3], words[1::3], words[2::3], strict=True)
    ]


def _stale(version: bytes, entries: list[tuple[bytes, list[bytes]]]) -> Stale:
    return Stale(int(version), [(int(entry_id.split(b"-")[0]), fields) for entry_id, fields in entries])
