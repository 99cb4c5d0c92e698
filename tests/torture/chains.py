"""The history of every key, put together from the events of one subscription and held against what the writers were told."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from tests.torture.history import Delivery, Place, Value, Write
from tests.torture.writes import COUNTERS, FADING, applied, holds, seen


class Step(NamedTuple):
    """One committed write, as its event tells it."""

    write_id: str
    event_type: str
    old: Value
    new: Value
    begun: int = 0
    """When a handler was first given it."""
    cause: str | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether it is a write of another program, found by comparison."""
        return self.write_id.startswith("foreign-")


Chains = dict[Place, list[Step]]

_NOBODYS = Write("", "", "", "", 0)


def mark(value: Value) -> str:
    """Which write has made a value; empty for no value."""
    return "" if value is None else str(value.get("w", "?"))


def name(place: Place) -> str:
    """A scope and key, for people."""
    return "/".join(place)


def chains_of(deliveries: Iterable[Delivery]) -> Chains:
    """The steps of every key in the order in which their events first reached a handler."""
    chains: Chains = defaultdict(list)
    seen: set[tuple[Place, str]] = set()
    for delivery in sorted(deliveries, key=lambda delivery: delivery.begun):
        write_id = delivery.write_id
        assert write_id is not None
        if (delivery.place, write_id) not in seen:
            seen.add((delivery.place, write_id))
            chains[delivery.place].append(
                Step(write_id, delivery.event_type, delivery.old, delivery.new, delivery.begun, delivery.cause)
            )
    return dict(chains)


def broken_links(chains: Chains, initial: dict[Place, Value], final: dict[Place, Value]) -> list[str]:
    """Where the values of a key's events are no unbroken sequence from the initial to the final value."""
    problems = []
    for place, steps in chains.items():
        value = initial.get(place)
        for step in steps:
            if step.old != value:
                problems.append(f"broken chain: {name(place)}: after {mark(value)!r} comes an event from {mark(step.old)!r}")
            kind = "deleted" if step.new is None else "created" if step.old is None else "updated"
            if step.event_type != f"state:{kind}":
                problems.append(f"wrong type: {name(place)}: {step.event_type} from {step.old} to {step.new}")
            value = step.new
        if value != final.get(place):
            problems.append(f"broken chain: {name(place)} ends with {mark(value)!r}, but {mark(final.get(place))!r} is stored")
    for place in final:
        if place not in chains and final[place] != initial.get(place):
            problems.append(f"lost event: {name(place)} has changed, and there was no event")
    return problems


def wrong_writes(chains: Chains, writes: list[Write]) -> list[str]:
    """Where the steps are not what the writes make: each acknowledged one once, each of unknown outcome at most once, no other."""
    problems = []
    by_id = {write.id: write for write in writes if not write.kind.endswith("delete")}
    deletes: dict[Place, list[Write]] = defaultdict(list)
    for write in writes:
        if write.kind.endswith("delete"):
            deletes[write.place].append(write)
    found: dict[str, Step] = {}
    for place, steps in chains.items():
        for step in steps:
            if step.new is None:
                continue
            write_id = mark(step.new)
            write = by_id.get(write_id, _NOBODYS)
            if write.place != place:
                problems.append(f"unknown write: {name(place)}: nobody wrote {step.new}")
                continue
            if write_id in found:
                problems.append(f"applied twice: {name(place)}: {write_id} ({write.kind})")
            found[write_id] = step
            if step.is_foreign != write.is_foreign:
                problems.append(f"wrong id: {name(place)}: {write.kind} {write_id} has an event {step.write_id}")
            made = applied(write.kind.removeprefix("foreign "), write_id, step.old, write.size)
            if step.new != (seen(made) if write.size else made):
                problems.append(f"wrong value: {name(place)}: {write.kind} {write_id} made {step.new} of {step.old}")
            if not holds(write.condition, step.old):
                problems.append(f"condition did not hold: {name(place)}: {write_id} ({write.condition}) was made of {step.old}")
            if write.outcome == "refused":
                problems.append(f"refused and applied: {name(place)}: {write_id}: {write.error}")
            if write.has_values and (write.old, write.new) != (step.old, step.new):
                problems.append(f"wrong answer: {name(place)}: {write_id} was told {write.old} and {write.new}, not as {step}")
    for write_id in by_id:
        if write_id.endswith("+") and (write_id in found) != (write_id[:-1] in found):
            problems.append(f"half a transaction: {name(by_id[write_id].place)}: of {write_id[:-1]} and {write_id} one was made")
    last_foreign: dict[Place, int] = defaultdict(int)
    for write in writes:
        if write.is_foreign:
            last_foreign[write.place] = max(last_foreign[write.place], write.begun)
    for write in by_id.values():
        if write.is_foreign and write.begun < last_foreign[write.place]:
            continue  # several writes of another program may be one difference
        if write.outcome == "ok" and write.id not in found:
            problems.append(
                f"lost event: {name(write.place)}: {write.id} ({write.kind}) was acknowledged, and nobody saw its event"
            )
    for place in chains.keys() | deletes.keys():
        steps = [step for step in chains.get(place, []) if step.new is None]
        foreign = [write for write in deletes[place] if write.is_foreign]
        if (more := sum(step.is_foreign for step in steps) - len(foreign)) > 0:
            problems.append(f"unknown write: {name(place)}: {more} foreign deletes that nobody made")
        if place[0] != FADING:  # there nobody deletes, and values go at their deadlines
            own = [write for write in deletes[place] if not write.is_foreign]
            problems += _wrong_deletes(place, [step for step in steps if not step.is_foreign], own)
    return problems


def _wrong_deletes(place: Place, steps: list[Step], deletes: list[Write]) -> list[str]:
    """A delete leaves no mark of its own: as many have to have removed a value as were told that they did."""
    seen = Counter(mark(step.old) for step in steps if step.new is None)
    told = Counter(mark(write.old) for write in deletes if write.has_values)
    unsure = sum(write.outcome != "refused" and not write.has_values for write in deletes)
    certain = sum(write.outcome == "ok" and not write.has_values for write in deletes)
    problems = []
    for value, count in (told - seen).items():
        problems.append(f"lost event: {name(place)}: {count} acknowledged deletes of {value!r} that nobody saw")
    more = (seen - told).total()
    if more > unsure:
        problems.append(f"unknown write: {name(place)}: {more} deletes were seen that nobody was told of, {unsure} could have been")
    if more < certain:
        problems.append(f"lost event: {name(place)}: {certain} deletes were made, only {more} of them were seen")
    return problems


def wrong_values(writes: list[Write], initial: dict[Place, Value], final: dict[Place, Value]) -> list[str]:
    """Where the final values alone are not what was acknowledged: counters that do not add up, lists with an element too few or
    too many. This does not look at any event."""
    problems = []
    by_place: dict[Place, list[Write]] = defaultdict(list)
    for write in writes:
        by_place[write.place].append(write)
    for place, made in by_place.items():
        kinds = {write.kind for write in made}
        before, value = initial.get(place) or {}, final.get(place) or {}
        if place[1] in COUNTERS:
            least = before.get("n", 0) + sum(write.outcome == "ok" for write in made)
            most = before.get("n", 0) + sum(write.outcome != "refused" for write in made)
            if not least <= value.get("n", 0) <= most:
                problems.append(f"wrong sum: {name(place)} is {value.get('n')}, and should be between {least} and {most}")
        elif kinds == {"append"}:
            held = Counter(element[0] for element in value.get("log", [])[len(before.get("log", [])) :])
            outcomes = {write.id: write.outcome for write in made}
            for element, count in held.items():
                if count > 1 or outcomes.get(element, "refused") == "refused":
                    problems.append(f"wrong list: {name(place)} holds {element} {count} times; it was {outcomes.get(element)}")
            problems += [
                f"lost write: {name(place)} does not hold {element}, which was acknowledged"
                for element, outcome in outcomes.items()
                if outcome == "ok" and element not in held
            ]
    return problems
