"""Sessions of a kv store: what makes a mutation recognisable when it is made again, in memory, and in the journal if there is one.

What `lua/sessions/open.lua` and `lua/lib/sessions/` do in Redis. An outcome is recorded in the transaction of its write, and is
seen at once: a call that is made again before that transaction has been committed waits for it, and fails with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from iii_state.adapters.kv.journal.changes import Changes
from iii_state.adapters.kv.journal.commits import Commits
from iii_state.adapters.kv.journal.transaction import EPOCH, FORGOTTEN, TRANSACTION, Outcome, Slot
from iii_state.errors import MAX_RECORDED_BYTES, OldValueUnknown, RequestFenced, SessionLost, SessionTaken, StoreError
from iii_state.sessions import Request
from iii_state.tasks.awake import AwakeTimer
from iii_state.tasks.results import Result

T = TypeVar("T")

_found = msgspec.msgpack.Decoder(list[bytes | None])
_encode = msgspec.msgpack.Encoder().encode

SWEEPS_PER_EXPIRY = 5
"""A session has expired when so many sweeps, and the rest of the time to the first of them, have passed since its last use."""


class KvSessions:
    """See `base.Sessions`. `commits` are those of the store's journal, None where it lives in memory."""

    def __init__(self, commits: Commits | None, *, expiry_seconds: float) -> None:
        self._commits = commits
        self._expiry_seconds = expiry_seconds
        self._held: dict[str, dict[int, Outcome]] = {}
        """Session → slot → what was recorded last, of what has been committed."""
        self._used: dict[str, int] = {}
        """Session → how many sweeps there had been when it was used last."""
        self.recognised = 0
        """How many calls made again were answered as they had been."""
        self._sweeps = 0
        self._closed = False
        self._timer: AwakeTimer | None = None

    def load(self, rows: Iterable[tuple[str, int, float, bytes | None, int]]) -> None:
        """Take on what a journal held. The time until they expire begins anew."""
        for session, slot, seq, old, forgotten in rows:
            self._held.setdefault(session, {})[slot] = Outcome.of_row(seq, old, forgotten)
            self._touch(session)

    def close(self) -> None:
        """Open no more, and stop looking for sessions that have expired."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def open(self, session: str, previous_epoch: int, epoch: int) -> Result[None]:
        if self._closed:
            raise being_closed()
        held = self._latest((session, EPOCH))
        if held is None and previous_epoch:
            raise SessionLost
        if held is not None and (not previous_epoch or held.seq >= epoch):
            raise SessionTaken
        self._record((session, EPOCH), Outcome(epoch, None, 0))
        return self._settled(None)

    def recall(self, request: Request, *, is_transaction: bool = False) -> Outcome | None:
        """What an earlier attempt of a call did; None if there was none that was applied, or found a condition that did not hold.

        Raises `SessionLost`, `RequestFenced`, `OldValueUnknown`.
        """
        epoch = self._latest((request.session, EPOCH))
        if epoch is None:
            raise SessionLost
        self._touch(request.session)
        if epoch.seq != request.epoch:
            raise RequestFenced
        held = self._latest((request.session, request.slot))
        if held is None or held.seq < request.seq:
            return None
        if held.seq > request.seq:
            raise RequestFenced
        if held.unmet is None and held.forgotten != (TRANSACTION if is_transaction else 0):
            raise OldValueUnknown
        return held

    def found(self, outcome: Outcome) -> list[bytes | None]:
        """What a transaction that was applied had found at its keys."""
        return [] if outcome.old is None else _found.decode(outcome.old)

    def record(
        self,
        request: Request,
        old: bytes | None,
        unmet: tuple[int, int | None] | None = None,
        revision: int | None = None,
    ) -> None:
        """A call has been applied, or will be with the next transaction; or, `unmet`, a condition did not hold for `old`."""
        forgotten = old is not None and len(old) > MAX_RECORDED_BYTES
        outcome = Outcome(request.seq, None if forgotten else old, FORGOTTEN if forgotten else 0, unmet, revision)
        self._record((request.session, request.slot), outcome)

    def record_transaction(self, request: Request, found: list[bytes | None]) -> None:
        """A transaction that had found these texts at its keys has been applied, or will be with the next one of the journal."""
        is_kept = sum(len(text) for text in found if text is not None) <= MAX_RECORDED_BYTES
        outcome = Outcome(request.seq, _encode(found), TRANSACTION) if is_kept else Outcome(request.seq, None, FORGOTTEN)
        self._record((request.session, request.slot), outcome)

    def again(self, request: Request, result: T) -> Result[T]:
        """The result of a call made again, once it lasts."""
        slot = (request.session, request.slot)
        self.recognised += 1
        return result if self._commits is None or self._commits.outcome_of(slot) is None else self._settled(result)

    def committed(self, written: Changes) -> None:
        """The outcomes of what was written last from now on."""
        for slot, outcome in written.outcomes.items():
            self._hold(slot, outcome)

    def _hold(self, slot: Slot, outcome: Outcome) -> None:
        self._held.setdefault(slot[0], {})[slot[1]] = outcome

    def _latest(self, slot: Slot) -> Outcome | None:
        pending = None if self._commits is None else self._commits.outcome_of(slot)
        return pending or self._held.get(slot[0], {}).get(slot[1])

    def _record(self, slot: Slot, outcome: Outcome) -> None:
        self._touch(slot[0])
        if self._commits is None:
            self._hold(slot, outcome)
        else:
            self._commits.record(slot, outcome)

    def _settled(self, result: T) -> Result[T]:
        return result if self._commits is None else self._commits.wait(result)

    # -- expiry

    def _touch(self, session: str) -> None:
        self._used[session] = self._sweeps
        if self._timer is None:
            self._timer = AwakeTimer(self._expiry_seconds / SWEEPS_PER_EXPIRY, self._sweep)

    def _sweep(self) -> None:
        self._sweeps += 1
        expired = [session for session, used in self._used.items() if self._sweeps - used > SWEEPS_PER_EXPIRY]
        for session in expired:
            del self._used[session]
            self._held.pop(session, None)
        if expired and self._commits is not None:

            def end(changes: Changes) -> None:
                changes.ended_sessions.extend(expired)

            self._commits.keep(end)
        self._timer = AwakeTimer(self._expiry_seconds / SWEEPS_PER_EXPIRY, self._sweep) if self._used else None


def being_closed() -> StoreError:
    """What a mutation is refused with at the end."""
    return StoreError("the store is being closed; nothing was changed")
