"""What happened in a run, as the journals in its directory tell it: writes, deliveries, faults, and what was there in the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture import journal

Value = dict[str, Any] | None
Place = tuple[str, str]
"""Scope and key."""


@dataclass(slots=True)
class Write:
    """One write and its outcome. Without an answer (its writer died) the outcome is unknown."""

    id: str
    kind: str
    scope: str
    key: str
    begun: int
    ended: int | None = None
    outcome: str = "unknown"
    has_values: bool = False
    old: Value = None
    new: Value = None
    error: str = ""
    size: int = 0
    """Of the padding of a value that is set."""
    ttl_ms: int = 0
    """0 for none."""
    condition: str = ""
    """Under which it is made (`writes.CONDITIONS`), empty for none."""

    @property
    def place(self) -> Place:
        """Scope and key."""
        return self.scope, self.key

    @property
    def is_foreign(self) -> bool:
        """Whether another program wrote, straight into Redis."""
        return self.kind.startswith("foreign")


@dataclass(slots=True)
class Delivery:
    """One call of a handler. `ok` is None when its worker died before it was over; an old SDK is told no id, attempt, fence."""

    subscription: str
    engine: int
    worker: str
    event_type: str
    scope: str
    key: str
    old: Value
    new: Value
    begun: int
    event_id: str | None = None
    attempt: int | None = None
    fence: int | None = None
    ended: int | None = None
    ok: bool | None = None
    cause: str | None = None

    @property
    def place(self) -> Place:
        """Scope and key."""
        return self.scope, self.key

    @property
    def write_id(self) -> str | None:
        """The part of `event_id` that all subscriptions share."""
        return None if self.event_id is None else self.event_id.rpartition(":")[0]


@dataclass(slots=True)
class Fault:
    """Something that was done to the system, or happened to it, and when that was over."""

    kind: str
    target: str
    begun: int
    ended: int


@dataclass(slots=True)
class DeadLetter:
    """An event that its handler was not given any more."""

    function_id: str
    scope: str
    key: str
    old: Value
    new: Value
    error: str


@dataclass(slots=True)
class Jump:
    """A wall clock that was set: `ahead` is how many seconds it is before the machine's from then on."""

    when: int
    ahead: float


@dataclass(slots=True)
class History:
    """Everything. `ended_engines` are numbers of engines and when that process had ended, `initial` and `final` the values before
    and in the end, `left` what should not be there any more, `lost` how many events of a trigger the engines say are lost, `jumps`
    those of the clock that deadlines are kept by."""

    writes: list[Write] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    ended_engines: list[tuple[int, int]] = field(default_factory=list)
    initial: dict[Place, Value] = field(default_factory=dict)
    final: dict[Place, Value] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    jumps: list[Jump] = field(default_factory=list)


def load(directory: Path, writers: str = "*", since: int = 0) -> History:
    """Read the journals of a run: those of some writers, and the deliveries since a time."""
    history = History()
    for path in sorted(directory.glob(f"writes-{writers}.jsonl")):
        history.writes += writes_of(journal.read(path))
    for path in sorted(directory.glob("handled-*.jsonl")):
        history.deliveries += [delivery for delivery in deliveries_of(journal.read(path)) if delivery.begun >= since]
    for note in journal.read(directory / "run.jsonl"):
        if "fault" in note:
            history.faults.append(Fault(note["fault"], note["target"], note["begun"], note["t"]))
        elif "ended_engine" in note:
            history.ended_engines.append((note["ended_engine"], note["t"]))
        elif "final" in note:
            history.final[note["scope"], note["key"]] = note["final"]
        elif "left" in note:
            history.left.append(note["left"])
        elif "dead" in note:
            letter = DeadLetter(note["dead"], note["scope"], note["key"], note["old_value"], note["new_value"], note["error"])
            history.dead.append(letter)
        elif "lost" in note:
            history.lost[note["subscription"]] = note["lost"]
        elif "ahead" in note:
            history.jumps.append(Jump(note["t"], note["ahead"]))
    return history


def writes_of(notes: Iterable[dict[str, Any]]) -> Iterator[Write]:
    """The writes in a writer's journal."""
    open_writes: dict[str, Write] = {}
    for note in notes:
        if "write" in note:
            write = Write(note["write"], note["kind"], note["scope"], note["key"], note["t"])
            write.size, write.ttl_ms = note.get("size", 0), note.get("ttl", 0)
            write.condition = note.get("condition", "")
            open_writes[write.id] = write
        else:
            write = open_writes.pop(note["answered"])
            write.ended, write.outcome, write.error = note["t"], note["outcome"], note.get("error", "")
            if "old" in note:
                write.has_values, write.old, write.new = True, note["old"], note["new"]
            yield write
    yield from open_writes.values()


def deliveries_of(notes: Iterable[dict[str, Any]]) -> Iterator[Delivery]:
    """The deliveries in a worker's journal, which begins with who it is."""
    worker, engine = "", 0
    running: dict[int, Delivery] = {}
    for note in notes:
        if "worker" in note:
            worker, engine = note["worker"], note["place"]
        elif "delivery" in note:
            running[note["delivery"]] = Delivery(
                subscription=note["subscription"],
                engine=engine,
                worker=worker,
                event_type=note["event_type"],
                scope=note["scope"],
                key=note["key"],
                old=note["old_value"],
                new=note["new_value"],
                begun=note["t"],
                event_id=note.get("event_id"),
                attempt=note.get("attempt"),
                fence=note.get("fence"),
                cause=note.get("cause"),
            )
        else:
            delivery = running.pop(note["done"])
            delivery.ended, delivery.ok = note["t"], note["ok"]
            yield delivery
    yield from running.values()
