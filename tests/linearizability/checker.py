"""Whether the history of one key is linearizable: each operation as if it had happened at one moment between call and answer.

The search is that of J. Wing and C. Gong, "Testing and verifying concurrent objects" (J. Parallel Distrib. Comput. 17, 1993): of
the operations that have been called before the first answer that is still to be explained, take one that the state allows, and go
on from there, or come back. With G. Lowe, "Testing for linearizability" (Concurrency Comput. 29(4), 2017), what has been tried is
remembered by its operations and state, and never tried again, and operations are taken just in time: before an answer that wants
them. Keys are checked one by one, since a history is linearizable exactly if that of each object is (M. Herlihy and J. Wing,
"Linearizability", TOPLAS 12(3), 1990; A. Horn and D. Kroening, "Faster linearizability checking via P-compositionality", FORTE
2015), as in Porcupine and Knossos. Keys that transactions join are one such object.

An open operation (no answer, or one that says that the outcome is not known) may take effect at any time after its call, or never.
They are what makes the search long, so three rules leave out what cannot matter: those with the same effect are taken in the order
of their calls; one that changes nothing is not taken; and none is taken directly before an open `set` or `delete`, which would undo
it unseen; the last holds for an object of one key only.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from tests.linearizability.operations import (
    UNTOLD,
    Operation,
    canonical,
    carried_out,
    carried_out_on_several,
    of_several,
    unseen_marks_as_one,
)

MAX_CONFIGURATIONS = 1_000_000
"""So many are tried; a history that needs more is undecided."""

Configuration = tuple[int, int, int, bool]
"""How many answers are explained (in the order of the answers); which other operations have been taken (bits); the state's number;
whether the last one that was taken is an open one."""


class Undecided(Exception):
    """The search has become too long: nothing is known of the history."""


@dataclass(frozen=True, slots=True)
class Violation:
    """No order of the operations explains `operation`'s answer, together with all that came before it."""

    operation: Operation
    pending: list[Operation]
    """What else had been called by then, and not been answered."""
    states: list[str | None]
    """The states that could be reached before it."""
    explained: list[Operation]
    """One order that explains as much as any."""

    def __str__(self) -> str:
        lines = [f"not linearizable at {'/'.join(self.operation.place)}: {self.operation}"]
        lines += ["  the last that is explained:", *[f"    {each}" for each in self.explained[-8:]]]
        lines += ["  concurrent, or open:", *[f"    {each}" for each in self.pending[:12]]]
        lines += [f"  states that could be reached: {self.states[:6]}"]
        return "\n".join(lines)


def check(operations: Sequence[Operation], initial: str | None = None) -> list[Operation] | Violation:
    """An order of the operations of one key, or of several, that explains all answers (open ones that it does not need are left
    out), or where there is none. Raises `Undecided`."""
    return _Search(unseen_marks_as_one(operations), initial).run()


class _Search:
    def __init__(self, operations: Sequence[Operation], initial: str | None) -> None:
        self._answered = sorted((each for each in operations if each.returned is not None), key=lambda each: each.returned or 0)
        self._open = sorted(
            (each for each in operations if each.returned is None and not each.is_read), key=lambda each: each.invoked
        )
        self._operations = [*self._answered, *self._open]
        self._told = [
            None if each.returned is None or each.response is UNTOLD else canonical(each.response) for each in self._operations
        ]
        self._bits = _bits(self._answered, len(self._open))
        self._candidates = _candidates(self._answered)
        self._before = _twins(self._open, self._bits[len(self._answered) :])
        self._is_of_several = of_several(operations)
        self._states: list[str | None] = [initial]
        self._numbers: dict[str | None, int] = {initial: 0}
        self._steps: dict[tuple[int, int], int] = {}

    def run(self) -> list[Operation] | Violation:
        start: Configuration = (0, 0, 0, False)
        came_from: dict[Configuration, tuple[Configuration, int] | None] = {start: None}
        stack = [start]
        best = start
        while stack:
            here = stack.pop()
            if here[0] == len(self._answered):
                return self._path(came_from, here)
            if here[0] > best[0]:
                best = here
            for number, there in self._followers(here):
                if there not in came_from:
                    came_from[there] = (here, number)
                    stack.append(there)
            if len(came_from) > MAX_CONFIGURATIONS:
                raise Undecided(f"{len(self._answered)} operations and {len(self._open)} open ones: {MAX_CONFIGURATIONS} tried")
        failed = self._answered[best[0]]
        pending = [self._answered[number] for number in self._candidates[best[0]] if self._answered[number] is not failed]
        pending += [each for each in self._open if failed.returned is None or each.invoked <= failed.returned]
        reached = sorted({self._states[state] or "" for answers, _, state, _ in came_from if answers == best[0]})
        return Violation(failed, pending, [each or None for each in reached], self._path(came_from, best))

    def _followers(self, here: Configuration) -> list[tuple[int, Configuration]]:
        """What can come next; what is to be tried first comes last."""
        answers, taken, state, after_open = here
        deadline = self._answered[answers].returned or 0
        found = []
        for at in range(len(self._open) - 1, -1, -1):
            operation = self._open[at]
            number = len(self._answered) + at
            if operation.invoked > deadline or taken & self._bits[number] or self._before[at] & ~taken:
                continue
            if after_open and operation.overwrites:
                continue
            new = self._step(number, state)
            if new != state:
                found.append((number, (answers, taken | self._bits[number], new, not self._is_of_several)))
        for number in reversed(self._candidates[answers]):
            if taken & self._bits[number]:
                continue
            new = self._step(number, state)
            if new >= 0:
                found.append((number, self._advanced(answers, taken | self._bits[number], new)))
        return found

    def _advanced(self, answers: int, taken: int, state: int) -> Configuration:
        while answers < len(self._answered) and taken & self._bits[answers]:
            taken &= ~self._bits[answers]
            answers += 1
        return answers, taken, state, False

    def _step(self, number: int, state: int) -> int:
        """The state after an operation, -1 if its answer was another one."""
        known = self._steps.get((number, state))
        if known is not None:
            return known
        operation = self._operations[number]
        if self._is_of_several:
            new, response = carried_out_on_several(operation, self._states[state])
        else:
            new, response = carried_out(operation.kind, operation.argument, self._states[state])
        told = self._told[number]
        if told is not None and canonical(response) != told:
            after = -1
        else:
            after = self._numbers.setdefault(new, len(self._states))
            if after == len(self._states):
                self._states.append(new)
        self._steps[number, state] = after
        return after

    def _path(self, came_from: dict[Configuration, tuple[Configuration, int] | None], end: Configuration) -> list[Operation]:
        path = []
        step = came_from[end]
        while step is not None:
            path.append(self._operations[step[1]])
            step = came_from[step[0]]
        return path[::-1]


def _bits(answered: Sequence[Operation], open_count: int) -> list[int]:
    """A bit for each operation: those of answered ones are used again once they are answered, so that the numbers stay small."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    slots = {}
    used = 0
    for number in sorted(range(len(answered)), key=lambda number: answered[number].invoked):
        while busy and busy[0][0] < answered[number].invoked:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            slot = heapq.heappop(free)
        else:
            slot, used = used, used + 1
        slots[number] = slot
        heapq.heappush(busy, (answered[number].returned or 0, slot))
    return [1 << slots[number] for number in range(len(answered))] + [1 << used + at for at in range(open_count)]


def _candidates(answered: Sequence[Operation]) -> list[list[int]]:
    """Of each answer, the answered operations that may come next while it is the first that is not explained; its own first."""
    in_order = sorted(range(len(answered)), key=lambda number: answered[number].invoked)
    found: list[list[int]] = []
    called: list[int] = []
    at = 0
    for number, operation in enumerate(answered):
        while at < len(in_order) and answered[in_order[at]].invoked <= (operation.returned or 0):
            called.append(in_order[at])
            at += 1
        called = [each for each in called if each >= number]
        found.append(sorted(called))
    return found


def _twins(operations: Sequence[Operation], bits: Sequence[int]) -> list[int]:
    """Of each open operation, the bit of the one with the same effect that was called before it, 0 for none."""
    last: dict[tuple[str, str, str], int] = {}
    before = []
    for operation, bit in zip(operations, bits, strict=True):
        effect = (operation.kind, operation.place[1], canonical(operation.argument))
        before.append(last.get(effect, 0))
        last[effect] = bit
    return before
