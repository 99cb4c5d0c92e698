"""Hands out alone what was there when a worker went away.

All that a worker runs goes with it when it goes. Which of its events made it go cannot be told, so each of them waits as after a
failure, and is then a suspect: it is handed to a worker that gets nothing else until that one event is done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container

from iii_state.events import Delivery
from iii_state.host import Runner
from iii_state.state.dispatch.consumers import Attempt, Capacity, Consumer, FunctionName, Suspects
from iii_state.state.dispatch.schedule import Context

LOOK_AGAIN_SECONDS = 0.25
"""How long an event that is to be alone may miss that a worker has come which has nothing to do."""

Chosen = tuple[Runner | None, Runner | None]
"""The workers of condition and handler."""


class Isolation:
    """The suspects of all functions, the workers that are claimed for them, and what every worker has to do."""

    def __init__(self, context: Context) -> None:
        self.claims: dict[Runner, Suspects] = {}
        """The workers that get nothing else at the moment."""
        self._host = context.host
        self._limits = context.limits
        self._schedule = context.schedule
        self._load: dict[Runner, int] = {}
        """How many attempts each worker runs that may go away because of them."""
        self._suspicious: dict[Capacity, None] = {}
        """Those with suspects that wait."""
        self._kept_waiting: dict[Consumer, None] = {}
        """Those whose workers are all claimed."""

    def waiting(self) -> list[Capacity]:
        """The functions of which suspects wait."""
        return list(self._suspicious)

    # --- workers that may crash, and how much they have to do

    def is_crashable(self, consumer: Consumer) -> bool:
        """Whether there are workers that may go away because of its events."""
        return any(self._host.runners(name, namespace) for namespace, name in consumer.functions)

    def is_claimed(self, consumer: Consumer) -> bool:
        """Whether all workers of its handler, or its condition, are to get nothing else at the moment; it goes on when one may."""
        if not self.claims:
            return False
        for namespace, name in consumer.functions:
            runners = self._host.runners(name, namespace)
            if runners and all(runner in self.claims for runner in runners):
                self._kept_waiting[consumer] = None
                return True
        return False

    def begin(self, attempt: Attempt) -> None:
        """An attempt begins."""
        load = self._load
        if (runner := attempt.runner) is not None and runner.may_crash:
            load[runner] = load.get(runner, 0) + 1
        if (runner := attempt.condition_runner) is not None and runner.may_crash:
            load[runner] = load.get(runner, 0) + 1

    def end(self, attempt: Attempt) -> None:
        """An attempt is over."""
        if self._load:
            self._unload(attempt.runner)
            self._unload(attempt.condition_runner)
        capacity = attempt.consumer.capacity
        if capacity.suspects.alone is attempt:
            capacity.suspects.alone = None
            self._one_less(capacity)

    def _unload(self, runner: Runner | None) -> None:
        if runner is not None and (load := self._load.get(runner)) is not None:
            if load > 1:
                self._load[runner] = load - 1
            else:
                del self._load[runner]

    # --- suspects

    def suspect(self, consumer: Consumer) -> None:
        """What was taken first is to be handed out alone."""
        capacity = consumer.capacity
        capacity.suspects.waiting.append((consumer, consumer.buffer.popleft()))
        consumer.suspects += 1
        self._suspicious[capacity] = None

    def withdraw(self, consumer: Consumer) -> list[Delivery]:
        """Its suspects wait no more: they are given back."""
        if not consumer.suspects:
            return []
        suspects = consumer.capacity.suspects
        withdrawn = [delivery for suspect, delivery in suspects.waiting if suspect is consumer]
        suspects.waiting = deque(suspect for suspect in suspects.waiting if suspect[0] is not consumer)
        consumer.suspects = 0
        self._one_less(consumer.capacity)
        return withdrawn

    def begin_alone(self, attempt: Attempt) -> None:
        """The first suspect of its function is handed out."""
        suspects = attempt.consumer.capacity.suspects
        suspects.waiting.popleft()
        attempt.consumer.suspects -= 1
        suspects.alone = attempt

    def is_alone(self, attempt: Attempt) -> bool:
        """Whether it is one that was handed out alone."""
        return attempt.consumer.capacity.suspects.alone is attempt

    def choose(self, consumer: Consumer) -> Chosen | None:
        """The workers to run its next suspect, once they have nothing else to do; until then see that they get nothing more."""
        capacity = consumer.capacity
        chosen = self._claim(capacity.suspects, consumer)
        own = consumer.subscription.concurrency
        if (
            chosen is None
            or any(self._load.get(runner) for runner in capacity.suspects.claim)
            or (own is not None and len(consumer.running) >= own)
            or capacity.running >= max(self._limits.concurrency, own or 0)
        ):
            return None
        return chosen

    def _claim(self, suspects: Suspects, consumer: Consumer) -> Chosen | None:
        """Claim the workers on which its next suspect is to run, of condition and handler; None if others have claimed them.

        One that has nothing to do is preferred, then one that is claimed already, then one that has least to do.
        """
        chosen: dict[FunctionName, Runner] = {}
        for namespace, name in consumer.functions:
            runners = self._host.runners(name, namespace)
            free = [runner for runner in runners if self.claims.get(runner, suspects) is suspects]
            if free:
                own = (*chosen.values(), *suspects.claim)
                chosen[namespace, name] = min(free, key=lambda runner: self._preference(runner, own))
            elif runners:
                self._end_claim(suspects)
                return None
        claim = tuple(dict.fromkeys(chosen.values()))
        if claim != suspects.claim:
            self._end_claim(suspects)
            suspects.claim = claim
            self.claims.update(dict.fromkeys(claim, suspects))
        return None if consumer.condition is None else chosen.get(consumer.condition), chosen.get(consumer.function)

    def _preference(self, runner: Runner, own: Container[Runner]) -> tuple[bool, bool, int]:
        load = self._load.get(runner, 0)
        return load > 0, runner not in own, load

    def _end_claim(self, suspects: Suspects) -> None:
        """Claim no worker any more: those that were kept waiting go on."""
        if not suspects.claim:
            return
        for runner in suspects.claim:
            del self.claims[runner]
        suspects.claim = ()
        waiting, self._kept_waiting = self._kept_waiting, {}
        for consumer in waiting:
            self._schedule.add(consumer)

    def _one_less(self, capacity: Capacity) -> None:
        """A suspect is done, or has been given back."""
        if capacity.suspects.alone is None:
            self._end_claim(capacity.suspects)
        if not capacity.suspects.waiting:
            self._suspicious.pop(capacity, None)
