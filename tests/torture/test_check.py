"""The checker finds what it is there for: histories that are right pass, and each that is broken in one way is found out."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from tests.torture.check import GRACE_NS, MOST_AHEAD, Verdict, check
from tests.torture.history import Delivery, Fault, History, Value, Write
from tests.torture.subscriptions import HANDLE_OLD, Spec
from tests.torture.writes import MAIN, applied

ALL = Spec("all", MAIN, is_base=True)
HOT = Spec("hot", MAIN, key="hot", role=HANDLE_OLD)
WANTED = Spec("wanted", MAIN, has_condition=True)
CHANGED = Spec("changed", MAIN, changed="n")
PREFIXED = Spec("prefixed", MAIN, key_prefix="ho")
EVERYWHERE = Spec("everywhere", MAIN, is_broadcast=True)

BETWEEN_WRITES = 100
HANDLING = 10


class Told:
    """A history that grows write by write; every event is handled at once, by handlers of every subscription."""

    def __init__(self, *specs: Spec, engines: int = 1) -> None:
        self.specs = specs
        self.engines = engines
        self.history = History()
        self.now = 10**12
        self._numbers = itertools.count(1)

    def write(self, kind: str, key: str = "k", outcome: str = "ok", events: bool = True) -> Write:
        """A write that is committed, and its deliveries."""
        old = self.history.final.get((MAIN, key))
        name = f"w{next(self._numbers)}"
        new = applied(kind, name, old)
        self.now += BETWEEN_WRITES
        write = Write(name, kind, MAIN, key, self.now, self.now + 1, outcome)
        if outcome == "ok":
            write.has_values, write.old, write.new = True, old, new
        self.history.writes.append(write)
        self.history.final.pop((MAIN, key), None)
        if new is not None:
            self.history.final[MAIN, key] = new
        for spec in self.specs if events else ():
            for engine in range(self.engines if spec.is_broadcast else 1):
                if spec.matches(MAIN, key, old, new):
                    self.deliver(spec, name, key, old, new, engine)
        return write

    def deliver(self, spec: Spec, name: str, key: str, old: Value, new: Value, engine: int = 0) -> Delivery:
        """A delivery that is completed."""
        self.now += HANDLING
        kind = "deleted" if new is None else "created" if old is None else "updated"
        told: dict[str, Any] = {} if spec.is_old else {"event_id": f"{name}:{spec.name}", "attempt": 1, "fence": 0}
        begun, self.now = self.now, self.now + HANDLING
        delivery = Delivery(spec.name, engine, "w", f"state:{kind}", MAIN, key, old, new, begun, **told, ended=self.now, ok=True)
        self.history.deliveries.append(delivery)
        return delivery

    def again(self, delivery: Delivery, **changes: Any) -> Delivery:
        """The same event once more, now."""
        self.now += HANDLING
        repeated = copy.copy(delivery)
        repeated.begun, repeated.ended = self.now, self.now + HANDLING
        for name, value in changes.items():
            setattr(repeated, name, value)
        self.now += HANDLING
        self.history.deliveries.append(repeated)
        return repeated

    def fault(self, begun: int, ended: int) -> None:
        """A fault."""
        self.history.faults.append(Fault("kill engine", "0", begun, ended))

    def pass_grace(self) -> None:
        """Let so much time pass that no earlier fault is an excuse any more."""
        self.now += GRACE_NS + 1

    def of(self, spec: Spec) -> list[Delivery]:
        """The deliveries of one subscription."""
        return [delivery for delivery in self.history.deliveries if delivery.subscription == spec.name]

    def verdict(self) -> Verdict:
        """What the checker says."""
        return check(self.history, self.specs)


def told(*specs: Spec, engines: int = 1) -> Told:
    """A history of writes of every kind, on two keys, that is right."""
    history = Told(*(specs or (ALL,)), engines=engines)
    for key in ("k", "hot"):
        kinds = ("increment", "append", "set", "increment", "delete", "delete", "append") if key == "k" else ("increment",) * 5
        for kind in kinds:
            history.write(kind, key)
    return history


def words(verdict: Verdict) -> set[str]:
    """What kinds of problems there are."""
    return {problem.partition(":")[0] for problem in verdict.problems}


def test_a_history_in_which_all_is_right_passes() -> None:
    history = told(ALL, HOT, WANTED, EVERYWHERE, engines=2)
    assert history.verdict() == Verdict([], 0)
    assert len(history.of(WANTED)) not in (0, len(history.of(ALL)))


@pytest.mark.parametrize("number", range(12))
def test_a_lost_event_is_found(number: int) -> None:
    history = told(ALL, EVERYWHERE)
    history.history.deliveries.remove(history.of(ALL)[number])
    assert "broken chain" in words(history.verdict()) or "lost event" in words(history.verdict())


@pytest.mark.parametrize("spec", [HOT, WANTED, CHANGED, PREFIXED])
def test_an_event_that_one_subscription_lost_is_found(spec: Spec) -> None:
    history = told(ALL, spec)
    history.history.deliveries.remove(history.of(spec)[2])
    assert words(history.verdict()) == {"lost event"}


def test_a_handler_that_never_completed_is_found() -> None:
    history = told()
    history.of(ALL)[3].ok = None
    assert words(history.verdict()) == {"lost event"}


@pytest.mark.parametrize("spec", [CHANGED, PREFIXED])
def test_an_event_that_a_filter_should_have_held_back_is_found(spec: Spec) -> None:
    history = told(ALL, spec)
    one = next(each for each in history.of(ALL) if not spec.matches(MAIN, each.key, each.old, each.new))
    history.deliver(spec, str(one.write_id), one.key, one.old, one.new)
    assert words(history.verdict()) == {"not wanted"}


def test_a_write_whose_condition_did_not_hold_is_found() -> None:
    history = told()
    history.write("set", "fresh").condition = "absent"
    for _ in range(4):
        history.write("increment", "fresh").condition = "bounded"
    assert history.verdict().problems == []
    history.write("increment", "fresh").condition = "bounded"
    history.write("set", "fresh").condition = "absent"
    assert [problem.partition(":")[0] for problem in history.verdict().problems] == ["condition did not hold"] * 2


@pytest.mark.parametrize("first_is_made", [True, False])
def test_half_a_transaction_is_found(first_is_made: bool) -> None:
    history = told()
    first, second = history.write("append", "l", "unknown"), history.write("append", "m", "unknown")
    second.id, lost = f"{first.id}+", second.id
    for each in history.history.deliveries:
        if each.new is not None and each.new["w"] == lost:
            each.new["w"] = each.new["log"][0][0] = second.id
    assert history.verdict().problems == []
    gone = second if first_is_made else first
    history.history.deliveries = [each for each in history.history.deliveries if (each.new or {}).get("w") != gone.id]
    del history.history.final[gone.place]
    assert words(history.verdict()) == {"half a transaction"}


def test_an_event_that_no_write_made_is_found() -> None:
    history = told()
    history.history.writes.pop(1)
    assert words(history.verdict()) == {"unknown write"}


def test_an_event_that_a_condition_should_have_held_back_is_found() -> None:
    history = told(ALL, WANTED)
    one = next(d for d in history.of(ALL) if not WANTED.matches(MAIN, d.key, d.old, d.new))
    history.deliver(WANTED, str(one.write_id), one.key, one.old, one.new)
    assert words(history.verdict()) == {"not wanted"}


def test_a_write_that_was_applied_twice_is_found() -> None:
    history = told()
    write = history.write("increment", "hot", "unknown")
    again = applied("increment", write.id, history.history.final[MAIN, "hot"])
    history.deliver(ALL, "other", "hot", history.history.final[MAIN, "hot"], again)
    history.history.final[MAIN, "hot"] = again
    assert words(history.verdict()) >= {"applied twice"}


def test_an_acknowledged_write_without_a_trace_is_found() -> None:
    history = told()
    history.history.writes.append(Write("lost", "increment", MAIN, "c0", history.now, history.now, "ok"))
    assert words(history.verdict()) == {"lost event", "wrong sum"}


def test_an_acknowledged_delete_without_a_trace_is_found() -> None:
    history = told()
    history.history.writes.append(Write("gone", "delete", MAIN, "k", history.now, history.now, "ok", True))
    assert words(history.verdict()) == {"lost event"}


def test_a_delete_that_nobody_made_is_found() -> None:
    history = told()
    history.history.writes = [write for write in history.history.writes if write.kind != "delete"]
    assert words(history.verdict()) == {"unknown write"}


@pytest.mark.parametrize("kind", ["increment", "append", "set", "delete"])
def test_a_write_of_unknown_outcome_may_have_been_made_or_not(kind: str) -> None:
    history = told()
    history.write(kind, outcome="unknown")
    history.history.writes.append(Write("unseen", kind, MAIN, "k", history.now))
    assert history.verdict().problems == []


def test_a_write_that_was_refused_and_made_is_found() -> None:
    history = told()
    history.write("append", outcome="refused")
    assert words(history.verdict()) == {"refused and applied"}


def test_an_answer_that_is_not_what_the_event_says_is_found() -> None:
    history = told()
    history.history.writes[2].old = {"w": "another"}
    assert words(history.verdict()) == {"wrong answer"}


def test_a_value_that_no_event_led_to_is_found() -> None:
    history = told()
    history.history.final[MAIN, "k"] = {"w": "another"}
    assert words(history.verdict()) == {"broken chain"}


def test_a_list_with_an_element_twice_or_missing_is_found() -> None:
    for change in ([["w1"], ["w1"], ["w2"], ["w3"]], [["w1"], ["w3"]]):
        history = Told()
        for _ in range(3):
            history.write("append", "l0.0")
        final = history.history.final[MAIN, "l0.0"]
        assert final is not None
        final["log"] = change
        assert words(history.verdict()) & {"wrong list", "lost write"}


def test_two_events_in_the_wrong_order_are_found() -> None:
    history = told(ALL, HOT)
    first, second = history.of(HOT)[1:3]
    first.begun, first.ended, second.begun, second.ended = second.begun, second.ended, first.begun, first.ended
    assert words(history.verdict()) == {"out of order"}


def test_an_event_that_begins_before_the_one_before_is_over_is_found() -> None:
    history = told(ALL, HOT)
    history.of(HOT)[1].ended = history.of(HOT)[2].begun + 1
    assert words(history.verdict()) == {"out of order"}


def test_an_old_event_after_a_newer_one_is_found_and_with_a_lower_fence_at_a_fault_it_is_counted() -> None:
    for fence, at_a_fault, expected in ((0, True, 1), (1, True, 0), (0, False, 0)):
        history = told()
        old, newer = history.of(ALL)[2:4]
        newer.fence = 1
        begun = history.now
        late = history.again(old, fence=fence)
        if at_a_fault:
            history.fault(begun, late.begun)
        verdict = history.verdict()
        assert verdict.old_by_fence == expected
        assert ("out of order" in words(verdict)) == (expected == 0)


def ran(events: int = 20) -> tuple[Told, list[Delivery]]:
    """A history of one key, and its deliveries, at the end of which an engine dies."""
    history = Told(ALL)
    for _ in range(events):
        history.write("increment", "hot")
    history.fault(history.now, history.now + 1)
    return history, history.of(ALL)


def test_a_run_that_is_repeated_in_order_with_a_higher_fence_is_counted() -> None:
    for fences in ((1,), (1, 2)):
        history, events = ran()
        for fence in fences:
            for each in events[-MOST_AHEAD:]:
                history.again(each, fence=fence)
        assert history.verdict() == Verdict([], MOST_AHEAD * len(fences), len(fences))


def test_a_run_that_is_repeated_with_no_higher_fence_is_found() -> None:
    history, events = ran()
    for each in events[-3:]:
        history.again(each)
    assert words(history.verdict()) == {"out of order"}


def test_a_run_that_is_repeated_out_of_order_is_found() -> None:
    history, events = ran()
    for each in (events[-3], events[-1], events[-2]):
        history.again(each, fence=1)
    assert words(history.verdict()) == {"out of order"}


def test_a_run_of_too_many_events_is_found() -> None:
    history, events = ran()
    for each in events[-MOST_AHEAD - 1 :]:
        history.again(each, fence=1)
    assert words(history.verdict()) == {"repeated too much"}


def test_a_run_that_is_repeated_although_nobody_died_is_found() -> None:
    history, events = ran()
    history.pass_grace()
    history.pass_grace()
    events[-3].begun = events[-2].begun = events[-1].begun = history.now
    history.fault(history.now + 10**9, history.now + 10**9)
    for each in events[-3:]:
        history.again(each, fence=1)
    assert "repeated for no reason" in words(history.verdict())


def test_an_event_that_comes_for_the_first_time_behind_a_later_one_is_no_run() -> None:
    history = told(ALL, PREFIXED)
    late = history.of(PREFIXED)[-3]
    history.history.deliveries.remove(late)
    history.fault(history.now, history.now + 1)
    history.again(late, fence=1)
    assert words(history.verdict()) == {"out of order"}


def test_a_repeat_outside_of_any_fault_is_found() -> None:
    history = told()
    history.fault(0, history.now)
    history.pass_grace()
    history.write("set")
    history.again(history.of(ALL)[-1])
    history.fault(history.now + 1, history.now + 2)
    verdict = history.verdict()
    assert verdict.repeats == 1
    assert words(verdict) == {"repeated for no reason"}


def test_a_repeat_of_what_was_in_flight_at_a_fault_is_counted() -> None:
    history = told()
    history.fault(history.now, history.now + 1)
    history.again(history.of(ALL)[-1])
    assert history.verdict() == Verdict([], 1)


def test_the_next_attempt_after_one_that_failed_is_no_repeat() -> None:
    history = told()
    last = history.of(ALL)[-1]
    history.again(last, attempt=2)
    last.ok = False
    assert history.verdict() == Verdict([], 0)


def test_an_event_that_one_engine_was_not_broadcast_is_found() -> None:
    for number in (1, -1):
        history = told(ALL, EVERYWHERE, engines=2)
        history.history.deliveries.remove([d for d in history.of(EVERYWHERE) if d.engine == 1][number])
        assert "lost event" in words(history.verdict())


def test_what_an_engine_was_not_broadcast_while_it_was_gone_is_no_loss() -> None:
    history = told(ALL, EVERYWHERE, engines=2)
    missed = [d for d in history.of(EVERYWHERE) if d.engine == 1][2]
    history.history.deliveries.remove(missed)
    history.history.ended_engines.append((1, missed.begun))
    assert history.verdict().problems == []


def test_a_broadcast_that_a_handler_had_begun_ends_with_its_engine_and_only_then_is_no_loss() -> None:
    for has_ended, expected in ((True, set()), (False, {"lost event"})):
        history = told(ALL, EVERYWHERE, engines=2)
        begun = [d for d in history.of(EVERYWHERE) if d.engine == 1][2]
        begun.ok = begun.ended = None
        if has_ended:
            history.history.ended_engines.append((1, begun.begun + 1))
        assert words(history.verdict()) == expected


def test_what_was_left_behind_is_a_problem() -> None:
    history = told()
    history.history.left.append("an engine not taken over")
    assert words(history.verdict()) == {"left behind"}
