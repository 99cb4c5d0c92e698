"""The checker finds what can go wrong with deadlines, foreign writes, handlers that kill, large values and damaged keys."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.torture.check import COUNTS, Verdict, check
from tests.torture.deadlines import NS_PER_MS
from tests.torture.history import DeadLetter, Delivery, Fault, History, Jump, Value, Write
from tests.torture.subscriptions import HANDLE_POISON, Spec
from tests.torture.writes import FADING, HURT, LARGE, OUTSIDE, POISON, applied, is_poison, padding, seen

MS = NS_PER_MS
FADES = Spec("fading", FADING, is_base=True)
SEES = Spec("outside", OUTSIDE, is_base=True)
SEEN = Spec("seen", POISON, is_base=True)
DEADLY = Spec("deadly", POISON, role=HANDLE_POISON)
AWAY = Spec("away", LARGE, is_base=True)
WHOLE = Spec("whole", HURT, is_base=True)
DAMAGED = Spec("hurt", HURT, is_damaged=True)


class Told:
    """A history that grows step by step, of one scope; every event is handled at once, 10 ms after its write."""

    def __init__(self, *specs: Spec) -> None:
        self.specs = specs
        self.scope = specs[0].scope
        self.history = History()
        self.now = 10**12
        self._numbers = itertools.count(1)

    def write(self, kind: str, key: str = "k", outcome: str = "ok", name: str = "", events: bool = True, **more: Any) -> Write:
        """A write that is committed, and its deliveries."""
        name = name or f"w{next(self._numbers)}"
        self.now += 10 * MS
        write = Write(name, kind, self.scope, key, self.now, self.now + MS, outcome, **more)
        self.history.writes.append(write)
        old = self.history.final.pop((self.scope, key), None)
        new = seen(applied(kind.removeprefix("foreign "), name, old, write.size)) if write.size else None
        new = new or applied(kind.removeprefix("foreign "), name, old)
        if outcome == "ok" and not write.is_foreign:
            write.has_values, write.old, write.new = True, old, new
        if new is not None:
            self.history.final[self.scope, key] = new
        if events:
            self.happen(f"foreign-{name}" if write.is_foreign else name, key, old, new)
        return write

    def expire(self, after_ms: float, key: str = "k", cause: str | None = "expired") -> None:
        """A value goes, so many milliseconds from now."""
        self.now += int(after_ms * MS)
        old = self.history.final.pop((self.scope, key), None)
        self.happen(f"expiry{next(self._numbers)}", key, old, None, cause)

    def happen(self, write_id: str, key: str, old: Value, new: Value, cause: str | None = None) -> None:
        """An event, and a delivery of it for each trigger."""
        kind = "deleted" if new is None else "created" if old is None else "updated"
        for spec in self.specs:
            self.now += MS
            self.history.deliveries.append(
                Delivery(
                    spec.name,
                    0,
                    "w",
                    f"state:{kind}",
                    self.scope,
                    key,
                    old,
                    new,
                    self.now,
                    event_id=f"{write_id}:{spec.name}",
                    attempt=1,
                    fence=0,
                    ended=self.now + 1,
                    ok=True,
                    cause=cause,
                )
            )

    def of(self, spec: Spec) -> list[Delivery]:
        """The deliveries of one subscription."""
        return [delivery for delivery in self.history.deliveries if delivery.subscription == spec.name]

    def verdict(self) -> Verdict:
        """What the checker says."""
        return check(self.history, self.specs)

    def words(self) -> set[str]:
        """What kinds of problems there are."""
        return {problem.partition(":")[0] for problem in self.verdict().problems}


# -- deadlines


def fading() -> Told:
    """A value with a deadline of a second, which has been updated since."""
    told = Told(FADES)
    told.write("set", ttl_ms=1000)
    told.write("increment")
    return told


def test_a_value_that_goes_at_its_deadline_is_right() -> None:
    told = fading()
    told.expire(1000)
    told.write("set", ttl_ms=100)
    told.expire(5000)
    assert told.verdict() == Verdict()


def test_a_value_that_goes_too_early_is_found() -> None:
    told = fading()
    told.expire(500)
    assert told.words() == {"too early"}


@pytest.mark.parametrize(("ahead", "expected"), [(0.4, {"too early"}), (0.6, set()), (-5.0, {"too early"})])
def test_a_value_goes_earlier_only_by_as_much_as_the_clock_was_set_ahead_meanwhile(ahead: float, expected: set[str]) -> None:
    told = fading()
    told.history.jumps.append(Jump(told.now + MS, ahead))
    told.expire(500)
    assert told.words() == expected


def test_a_clock_that_was_set_ahead_before_the_write_is_no_excuse() -> None:
    told = Told(FADES)
    told.history.jumps.append(Jump(told.now - MS, 3600.0))
    told.write("set", ttl_ms=1000)
    told.expire(500)
    assert told.words() == {"too early"}


@pytest.mark.parametrize(
    ("ttl_ms", "later_ms", "expected"), [(1000, 0, set()), (1800, 0, {"too early"}), (1000, 9000, {"too early"})]
)
def test_where_the_clock_of_a_redis_is_set_a_deadline_may_be_off_by_what_engines_know_the_time_to(
    ttl_ms: int, later_ms: int, expected: set[str]
) -> None:
    told = Told(FADES)
    told.history.faults.append(Fault("set clock ahead", "0", told.now - 3000 * MS, told.now))
    told.now += later_ms * MS
    told.write("set", ttl_ms=ttl_ms)
    told.expire(500)
    assert told.words() == expected


def test_an_expiry_of_a_value_without_a_deadline_is_found() -> None:
    told = fading()
    told.write("set")  # takes the deadline away
    told.expire(5000)
    assert told.words() == {"no deadline"}


def test_an_expiry_of_a_value_that_was_overwritten_before_is_found() -> None:
    told = fading()
    value = told.history.final[FADING, "k"]
    told.write("set", ttl_ms=100_000)
    told.now += 2000 * MS
    told.happen("late", "k", value, None, "expired")
    assert "broken chain" in told.words()


def test_an_expiry_that_comes_twice_as_two_events_is_found() -> None:
    told = fading()
    value = told.history.final[FADING, "k"]
    told.expire(1000)
    told.happen("again", "k", value, None, "expired")
    assert "broken chain" in told.words()


def test_a_value_that_has_gone_without_an_event_is_found() -> None:
    told = fading()
    del told.history.final[FADING, "k"]
    assert told.words() == {"broken chain"}


def test_a_cause_that_is_not_the_cause_is_found() -> None:
    told = fading()
    told.expire(1000, cause="foreign")
    assert told.words() == {"wrong cause"}
    other = Told(SEES)
    other.write("set")
    other.of(SEES)[0].cause = "expired"
    assert other.words() == {"wrong cause"}


# -- writes of another program


def test_foreign_writes_are_links_of_the_chain_and_several_may_be_one() -> None:
    told = Told(SEES)
    told.write("set")
    told.write("foreign set", name="f1")
    told.history.writes.append(Write("f2", "foreign set", OUTSIDE, "k", told.now, told.now + 1, "ok"))  # and is overwritten at once
    told.write("foreign set", name="f3")
    told.history.writes.append(Write("f4", "foreign set", OUTSIDE, "o", told.now, told.now + 1, "ok"))
    told.history.writes.append(Write("f5", "foreign delete", OUTSIDE, "o", told.now + 2, told.now + 3, "ok"))
    told.write("increment")
    told.write("foreign delete")
    assert told.verdict() == Verdict()


def test_a_foreign_write_without_an_event_is_found() -> None:
    told = Told(SEES)
    told.write("set")
    told.write("foreign set", events=False)
    told.write("increment")
    assert "broken chain" in told.words()
    assert "lost event" in told.words()


def test_a_foreign_delete_that_nobody_made_is_found() -> None:
    told = Told(SEES)
    told.write("set")
    told.happen("foreign-9", "k", told.history.final.pop((OUTSIDE, "k")), None)
    assert told.words() == {"unknown write"}


def test_an_own_write_that_is_taken_for_a_foreign_one_is_found() -> None:
    told = Told(SEES)
    told.write("set")
    told.of(SEES)[0].event_id = "foreign-1:outside"
    assert told.words() == {"wrong id"}


# -- handlers that kill


POISONOUS = next(name for name in map(str, itertools.count()) if is_poison({"w": name}))


def poisoned() -> Told:
    """A harmless write, and one whose event kills: its one delivery to that handler was never over, and it is dead."""
    told = Told(SEEN, DEADLY)
    told.write("set")
    told.write("set", name=POISONOUS)
    told.of(DEADLY)[-1].ok = told.of(DEADLY)[-1].ended = None
    step = told.of(DEADLY)[-1]
    told.history.dead.append(DeadLetter(DEADLY.function_id, POISON, "k", step.old, step.new, "worker_lost: its worker went away"))
    return told


def test_an_event_that_kills_its_worker_is_a_dead_letter_and_no_other_is() -> None:
    assert poisoned().verdict() == Verdict()


def test_an_event_that_kills_and_is_no_dead_letter_is_found() -> None:
    told = poisoned()
    told.history.dead.clear()
    assert told.words() == {"lost event", "not dead"}


def test_an_event_that_kills_and_was_completed_is_found() -> None:
    told = poisoned()
    told.of(DEADLY)[-1].ok = True
    assert told.words() == {"not dead"}


def test_a_harmless_event_that_became_a_dead_letter_is_found() -> None:
    told = poisoned()
    step = told.of(DEADLY)[0]
    told.history.dead.append(DeadLetter(DEADLY.function_id, POISON, "k", step.old, step.new, "worker_lost: its worker went away"))
    assert told.words() == {"dead letter"}


def test_a_dead_letter_for_another_reason_is_found() -> None:
    told = poisoned()
    told.history.dead[0].error = "TIMEOUT: too slow"
    assert told.words() == {"wrong reason"}


# -- large values


def test_a_large_value_is_known_by_its_length_and_checksum() -> None:
    told = Told(AWAY)
    told.write("set", size=100_000)
    told.write("increment")
    assert told.verdict() == Verdict()
    for wrong in (padding("w1", 100_000)[:-1], padding("w2", 100_000)):
        damaged = Told(AWAY)
        damaged.write("set", size=100_000)
        (delivery,) = damaged.of(AWAY)
        delivery.new = damaged.history.final[LARGE, "k"] = seen({**applied("set", "w1", None, 0), "pad": wrong})  # type: ignore[dict-item]
        assert "wrong value" in damaged.words()


# -- damaged keys


def test_what_a_damaged_queue_has_lost_has_to_be_counted() -> None:
    for counted, expected in ((2, set()), (3, set()), (1, {"lost event"}), (0, {"lost event"})):
        told = Told(WHOLE, DAMAGED)
        for _ in range(6):
            told.write("increment")
        for lost in told.of(DAMAGED)[2:4]:
            told.history.deliveries.remove(lost)
        told.history.lost["hurt"] = counted
        assert told.words() == expected
        assert told.verdict().lost_and_counted == 2


def test_what_is_lost_with_the_counts_cannot_be_counted() -> None:
    told = Told(WHOLE, DAMAGED)
    for _ in range(3):
        told.write("increment")
    told.history.deliveries.remove(told.of(DAMAGED)[1])
    told.history.faults.append(Fault("delete keys", COUNTS, told.now, told.now))
    assert told.verdict() == Verdict(lost_with_the_counts=1)
    told.history.faults[0].target = "0"
    assert told.words() == {"lost event"}


def test_a_damaged_queue_keeps_its_order() -> None:
    told = Told(WHOLE, DAMAGED)
    for _ in range(4):
        told.write("increment")
    first, second = told.of(DAMAGED)[1:3]
    first.begun, first.ended, second.begun, second.ended = second.begun, second.ended, first.begun, first.ended
    assert "out of order" in told.words()


def test_a_loss_that_is_counted_where_nothing_was_damaged_is_found() -> None:
    told = Told(WHOLE, DAMAGED)
    told.write("increment")
    told.history.lost["whole"] = 1
    assert told.words() == {"wrongly counted"}


def test_faults_of_a_queue_are_told_to_the_checker_as_all_others() -> None:
    told = Told(WHOLE)
    told.write("increment")
    told.history.faults.append(Fault("delete keys", "0", told.now, told.now))
    assert told.verdict() == Verdict()
