"""What a store has to hold after a power cut: all that had been forced to disk, and of the rest only what comes next.

Two judges. One knows what the whole file held after each transaction, and wants one of these states, not older than the last
that was promised. The other knows nothing of transactions: what callers were told, key by key and event by event.

Promised is what had been acknowledged when the log was forced to disk next, or when the store was stopped.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from iii_state import values
from iii_state.adapters.kv.journal.file import Contents
from iii_state.adapters.kv.journal.transaction import EPOCH
from tests.powercut.record import Operation
from tests.powercut.workload import ALL, BOTH, ONE, SESSION, TABLES, digest, short_text

Place = tuple[str, str]
Lane = tuple[str, str, str]

NOTHING = digest([[] for _ in TABLES])


def states(operations: Iterable[Operation]) -> list[str]:
    """The digests after each transaction that was begun. One that a kill interrupted left what the next opening found."""
    found: list[str | None] = []
    for operation in operations:
        if operation.kind == "M":
            mark = json.loads(operation.data)
            if mark["what"] == "committing":
                found.append(None)
            elif mark["what"] == "committed":
                for index in range(len(found) - 1, -1, -1):
                    if found[index] is not None:
                        break
                    found[index] = mark["digest"]
    return [state for state in found if state is not None]


@dataclass
class Version:
    """One value that a key was given."""

    number: int
    value: str | None
    over_at_ms: int | None
    is_promised: bool = False


@dataclass
class Expected:
    """What is known at a point of a record. `states` are those of the whole record."""

    states: Sequence[str]
    begun: int = 0
    committed: int = 0
    promised_commits: int = 0
    promised_store: str | None = None
    _store: str | None = None
    _time_ms: int = 0
    _versions: dict[Place, list[Version]] = field(default_factory=lambda: defaultdict(list))
    _places: dict[int, tuple[Place, int, int]] = field(default_factory=dict)
    """Of a call: where, the index of its version, how many marks came before."""
    _promised: dict[Place, int] = field(default_factory=dict)
    """The index of the newest version that was promised."""
    _acknowledged: list[int] = field(default_factory=list)
    """Since the last promise."""
    _acked: list[str] = field(default_factory=list)
    _gone: set[str] = field(default_factory=set)
    """Events whose acknowledgement was promised."""
    _finishing: dict[Lane, set[str | None]] = field(default_factory=lambda: defaultdict(set))
    """New values of events that were acknowledged or made dead letters, as far as that was begun."""
    _dead: list[tuple[int, str]] = field(default_factory=list)
    _must_be_dead: set[str] = field(default_factory=set)
    _undead: set[str] = field(default_factory=set)
    _mixed: set[Lane] = field(default_factory=set)
    """Lanes in which a dead letter was delivered again."""
    _marks: int = 0

    def do(self, operation: Operation) -> None:
        """Take note of the next operation."""
        self._time_ms = operation.time_ms
        if operation.kind == "S" and operation.path.endswith("-wal"):
            self._promise()
        if operation.kind != "M":
            return
        self._marks += 1
        mark = json.loads(operation.data)
        what = mark.pop("what")
        if what == "committing":
            self.begun += 1
        elif what == "committed":
            self.committed = self.begun
            if "store" in mark:
                self._store = mark["store"]
                self._dead.clear()  # what a killed process had still to write
        elif what == "stopped":
            self._promise()
        elif what == "issued":
            place = (mark["scope"], mark["key"])
            ttl_ms = mark.get("ttl_ms")
            versions = self._versions[place]
            self._places[mark["number"]] = (place, len(versions), self._marks)
            versions.append(Version(mark["number"], mark["value"], None if ttl_ms is None else operation.time_ms + ttl_ms))
        elif what == "acknowledged":
            self._acknowledged.append(mark["number"])
        elif what == "acked":
            self._acked += mark["events"]
        else:
            lane = (mark["subscription"], mark["scope"], mark["key"])
            if what == "undead":
                self._undead.add(mark["event"])
                self._mixed.add(lane)
            else:
                self._finishing[lane].add(mark["new"])
                if what == "dead":
                    self._dead.append((self._marks, mark["event"]))

    def _promise(self) -> None:
        self.promised_commits = self.committed
        self.promised_store = self._store
        before = 0
        for number in self._acknowledged:
            place, index, marks = self._places[number]
            self._promised[place] = max(index, self._promised.get(place, -1))
            before = max(before, marks)
            self._versions[place][index].is_promised = True
        self._acknowledged.clear()
        self._gone.update(self._acked)
        self._acked.clear()
        self._must_be_dead.update(event for marks, event in self._dead if marks < before)
        self._dead = [(marks, event) for marks, event in self._dead if marks >= before]

    # -- the verdict

    def problems(self, contents: Contents, now_ms: int) -> list[str]:
        """What is wrong with a store that was opened after a cut at this point."""
        return [
            *self._wrong_state(contents),
            *self._wrong_values(contents, now_ms),
            *self._wrong_lanes(contents),
            *self._wrong_events(contents),
            *self._wrong_sessions(contents),
        ]

    def is_newest(self, contents: Contents) -> bool:
        """Whether a store holds all transactions that were committed."""
        return _digest(contents) in [NOTHING, *self.states][self.committed : self.begun + 1]

    def _wrong_state(self, contents: Contents) -> Iterable[str]:
        found = _digest(contents)
        known = [NOTHING, *self.states]
        if found not in known[self.promised_commits : self.begun + 1]:
            after = f"that after transaction {known.index(found)}" if found in known else "that of no moment"
            yield f"the state is {after}; expected {self.promised_commits} to {self.begun}"
        if self.promised_store is not None and contents.store != self.promised_store:
            yield f"the store is {contents.store}, and was {self.promised_store}"

    def _wrong_values(self, contents: Contents, now_ms: int) -> Iterable[str]:
        held = {(scope.decode(), key.decode()): short_text(text) for scope, key, text in contents.values}
        for place in held.keys() - self._versions.keys():
            yield f"{place} was never written"
        for place, versions in self._versions.items():
            newest = self._promised.get(place, -1)
            allowed = {version.value for version in versions[max(newest, 0) :]}
            over = any(version.over_at_ms is not None and version.over_at_ms <= now_ms for version in versions)
            if newest < 0 or over:
                allowed.add(None)
            if held.get(place) not in allowed:
                yield f"{place} is {held.get(place)}, none of {len(allowed)} versions from the one that was promised on"

    def _wrong_lanes(self, contents: Contents) -> Iterable[str]:
        held = {(scope.decode(), key.decode()): short_text(text) for scope, key, text in contents.values}
        lanes: dict[Lane, list[tuple[str | None, str | None]]] = defaultdict(list)
        for _, subscription, _, _, scope, key, old, new, _, _ in contents.deliveries:
            lanes[subscription, scope.decode(), key.decode()].append((short_text(old), short_text(new)))
        for lane, events in lanes.items():
            if lane not in self._mixed:
                if any(event[1] != following[0] for event, following in pairwise(events)):
                    yield f"the events of {lane} are no chain"
                if events[-1][1] != held.get(lane[1:]):
                    yield f"the last event of {lane} does not lead to the value"
        dead = {(row[1], row[5].decode(), row[6].decode(), short_text(row[8])) for row in contents.dead_letters}
        for place, newest in self._promised.items():
            for subscription in (ALL, ONE) if place[0] == ONE.scope else (ALL,):
                lane = (subscription.id, *place)
                here = {new for _, new in lanes[lane]} | self._finishing[lane]
                for version in self._versions[place][: newest + 1]:
                    if (
                        version.is_promised
                        and version.value is not None
                        and version.value not in here
                        and (*lane, version.value) not in dead
                    ):
                        yield f"the event of call {version.number} at {place} is missing for {subscription.function_id}"

    def _wrong_events(self, contents: Contents) -> Iterable[str]:
        waiting = {f"{row[2]}:{row[1]}" for row in contents.deliveries}
        dead = {row[0] for row in contents.dead_letters}
        if back := (self._gone & waiting) - self._undead:
            yield f"events that were acknowledged are there again: {sorted(back)}"
        if both := dead & waiting:
            yield f"events are waiting and are dead letters: {sorted(both)}"
        if lost := self._must_be_dead - dead - self._undead:
            yield f"dead letters are missing: {sorted(lost)}"
        for row in contents.deliveries:
            if row[1] not in BOTH or row[1] not in {row[0] for row in contents.subscriptions}:
                yield f"an event of a subscription that is not there: {row[1]}"
        rows = [(row[4], row[5], row[7]) for row in contents.deliveries] + [(*row[5:7], row[8]) for row in contents.dead_letters]
        for scope, key, new in rows:
            versions = self._versions.get((scope.decode(), key.decode()), [])
            if new is not None and short_text(new) not in {version.value for version in versions}:
                yield f"an event that never happened at {scope!r}, {key!r}"

    def _wrong_sessions(self, contents: Contents) -> Iterable[str]:
        seqs = {slot: seq for session, slot, seq, _, _ in contents.sessions if session == SESSION}
        written = {int(key): values.decode(text)["seq"] for scope, key, text in contents.values if scope == b"sessions"}
        slots = {slot: seq for slot, seq in seqs.items() if slot != EPOCH}
        if slots != written:
            yield f"the session has recorded {slots}, and written was {written}"
        if slots and EPOCH not in seqs:
            yield "the session has no epoch"


def _digest(contents: Contents) -> str:
    numbers = {row[0] for row in contents.deliveries}
    tables: list[list[Any]] = [
        sorted(contents.values),
        sorted(contents.deadlines),
        sorted(contents.sessions, key=lambda row: row[:2]),
        sorted(contents.subscriptions),
        contents.deliveries,
        sorted(row for row in contents.crashes if row[0] in numbers),
        sorted(contents.dead_letters, key=lambda row: row[0]),
    ]
    return digest(tables)
