"""What has to be true of traffic under an upgrade: nothing lost, nothing made twice, nothing misread."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from tests.upgrade.traffic import Traffic, Write
from tests.upgrade.worker import ASIDE, ECHO, ONE_KEY, SCOPE, Handled, Journal, is_wanted

SIGNS_OF_TROUBLE = ("Traceback", "cannot be read", "could not be read", "not an entry", "dropped", "ERROR", "dead letter")
"""What no engine may log."""


def told(event: Any) -> Any:
    """An event without what an engine adds to every payload, and without `cause`, which the earlier version does not tell."""
    return {name: value for name, value in event.items() if name not in ("_caller_worker_id", "cause")}


def mark_of(value: Any) -> str:
    """Which write has made a value; empty for no value."""
    return "" if value is None else str(value["w"])


def chains(handled: list[Handled]) -> dict[str, list[Handled]]:
    """The events of each key in the order in which they first came."""
    found: dict[str, list[Handled]] = defaultdict(list)
    seen = set()
    for each in sorted(handled, key=lambda each: each.begun):
        if each.event_id not in seen:
            seen.add(each.event_id)
            found[each.event["key"]].append(each)
    return found


async def problems_of(traffic: Traffic) -> list[str]:
    """All that is wrong, in words; `traffic` has ended."""
    journal = traffic.journal
    everything = journal.of("upgrade::all")
    steps = chains(everything)
    problems = broken(SCOPE, steps, await traffic.values())
    problems += wrong_writes(traffic.writes, [step for key in steps for step in steps[key]])
    echoes = chains(journal.of("upgrade::echo"))
    problems += broken(ECHO, echoes, await traffic.values(ECHO))
    problems += unlike(everything, "upgrade::key", journal.of("upgrade::key"), lambda event: event["key"] == ONE_KEY)
    problems += unlike(everything, "upgrade::some", journal.of("upgrade::some"), is_wanted)
    problems += unechoed(journal)
    problems += unfinished(journal.handled)
    problems += wrong_causes(journal)
    if traffic.foreign:
        problems += broken(ASIDE, chains(journal.of("upgrade::aside")), {"stranger": traffic.foreign[-1]})
    problems += [f"a dead letter: {each}" for each in traffic.dead]
    return problems


def broken(scope: str, steps: dict[str, list[Handled]], stored: dict[str, Any]) -> list[str]:
    """Where the events of a key are no unbroken chain from nothing to what is stored."""
    problems = []
    for key, value in stored.items():
        before: Any = None
        for step in steps.get(key, []):
            event = step.event
            if event["scope"] != scope or event["old_value"] != before:
                problems.append(f"broken chain: {scope}/{key}: after {mark_of(before)} comes {event} ({step.version})")
            kind = "deleted" if event["new_value"] is None else "created" if event["old_value"] is None else "updated"
            if event["event_type"] != f"state:{kind}":
                problems.append(f"wrong type: {event}")
            before = event["new_value"]
        if before != value:
            problems.append(f"broken chain: {scope}/{key} ends with {before}, and {value} is stored")
    if strange := steps.keys() - stored.keys():
        problems.append(f"events of keys that nobody wrote: {strange}")
    return problems


def wrong_writes(writes: list[Write], steps: list[Handled]) -> list[str]:
    """Where the events are not what was written: each acknowledged write once, one of unknown outcome at most once."""
    problems = []
    made = Counter(mark_of(step.event["new_value"]) for step in steps if step.event["new_value"] is not None)
    replaced = {mark_of(step.event["new_value"]): step.event["old_value"] for step in steps}
    ended = Counter((step.event["key"], mark_of(step.event["old_value"])) for step in steps if step.event["new_value"] is None)
    known = Counter((write.key, mark_of(write.old)) for write in writes if write.kind == "delete" and write.outcome == "ok")
    by_mark = {write.mark: write for write in writes if write.kind != "delete"}
    for write in by_mark.values():
        count = made[write.mark]
        wanted = {"ok": (1,), "made": (1,), "refused": (0,), "unknown": (0, 1)}[write.outcome]
        if count not in wanted:
            problems.append(f"{write} has {count} events")
        if write.outcome == "ok" and count and replaced[write.mark] != write.old:
            problems.append(f"{write} has replaced {replaced[write.mark]}, as its event says")
    problems += [f"nobody wrote {mark}" for mark in made if mark not in by_mark]
    problems += [f"{count} deletes of {what} have no event" for what, count in (known - ended).items()]
    # An update keeps a deadline, so what ends by one may have an update's mark.
    may_expire = {write.mark for write in by_mark.values() if write.kind in ("brief", "update")}
    unknown = Counter(write.key for write in writes if write.kind == "delete" and write.outcome in ("made", "unknown"))
    for (key, mark), count in (ended - known).items():
        if mark not in may_expire and unknown[key] < count:
            problems.append(f"nobody has deleted {mark} of {key}")
    return problems


def unlike(everything: list[Handled], name: str, handled: list[Handled], is_for_it: Callable[[Any], bool]) -> list[str]:
    """Where a handler has not had the events that it is for, and no others, in the order in which another handler had them."""
    problems = []
    steps, own = chains(everything), chains(handled)
    for key in steps.keys() | own.keys():
        wanted = [told(step.event) for step in steps.get(key, []) if is_for_it(step.event)]
        had = [told(step.event) for step in own.get(key, [])]
        if had != wanted:
            at = next((at for at, (one, other) in enumerate(zip(wanted, had, strict=False)) if one != other), len(had))
            problems.append(
                f"{name}: {key}: {len(had)} events, not {len(wanted)}; {at} is {had[at : at + 1]}, not {wanted[at : at + 1]}"
            )
    return problems


def unechoed(journal: Journal) -> list[str]:
    """Where what a handler wrote is not there as often as it ran to its end, or oftener than it tried."""
    completed = Counter(each.event_id for each in journal.of("upgrade::all") if each.done is not None)
    written = Counter(mark_of(each.event["new_value"]) for steps in chains(journal.of("upgrade::echo")).values() for each in steps)
    return [
        f"{event_id} was handled {completed[event_id]} times, its write tried {tries} times and made {written[event_id]} times"
        for event_id, tries in journal.tries.items()
        if not completed[event_id] <= written[event_id] <= tries
    ]


def unfinished(handled: list[Handled]) -> list[str]:
    """Where no call of a handler with an event went well, or the next of its key came before."""
    problems = []
    by_function: dict[str, list[Handled]] = defaultdict(list)
    for each in handled:
        by_function[each.function_id].append(each)
    for function_id, calls in by_function.items():
        done: dict[str, int] = {}
        for each in calls:
            if each.done is not None:
                done[each.event_id] = min(each.done, done.get(each.event_id, each.done))
        for key, steps in chains(calls).items():
            over = 0
            for step in steps:
                if step.begun < over:
                    problems.append(f"out of order: {function_id} {key}: {step.event_id} began before the one before it was over")
                if step.event_id not in done:
                    problems.append(f"lost: {function_id} has not completed {step.event}")
                over = done.get(step.event_id, over)
    return problems


def wrong_causes(journal: Journal) -> list[str]:
    """Where this version does not say why an event happened, or the earlier one says something that it does not know."""
    problems = []
    for each in journal.handled:
        event, cause = each.event, each.event.get("cause")
        if each.version == "old":
            is_right = cause is None
        elif not each.version:
            continue
        else:
            is_right = (cause == "foreign") == (event["scope"] == ASIDE) and (cause != "expired" or event["new_value"] is None)
        if not is_right:
            problems.append(f"{each.function_id}: {cause} is the cause of {event}, says the {each.version} version")
    if not any(each.event.get("cause") == "expired" for each in journal.handled):
        problems.append("this version never said that a deadline was the cause")
    return problems


def troubles(traffic: Traffic, *others: Any) -> list[str]:
    """What engines have logged that they should not have."""
    return [
        f"{seat.name} ({version}): {line.strip()}"
        for seat in (*traffic.seats, *others)
        for version, lines in seat.logs
        for line in lines.text().splitlines()
        if any(sign in line for sign in SIGNS_OF_TROUBLE)
    ]
