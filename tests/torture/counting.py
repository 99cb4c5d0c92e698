"""What raw clients check as a stream: counters of which each is raised by one call at a time, in constant memory.

A counter is known exactly as long as every call is answered. A call whose outcome is unknown may count yet, now or a little later:
the next answer tells. Nothing else may: an answer below what was acknowledged is a lost write, one above what was sent is a write
that was made twice.
"""

from __future__ import annotations

from dataclasses import dataclass

LATE_SECONDS = 30.0
"""For so long a call whose outcome is unknown may still be carried out."""


@dataclass(slots=True)
class Counter:
    """One key. `known` is its last acknowledged number, `unsure` how many calls may count yet."""

    known: int = 0
    unsure: int = 0
    unsure_until: float = 0.0
    resolved_as_made: int = 0
    resolved_as_not_made: int = 0

    def raised(self, number: int, now: float) -> str:
        """A call that raises it was answered with this number. What is wrong with that, in words; empty for nothing."""
        return self._found(number, self.known + 1, now)

    def read(self, number: int, now: float) -> str:
        """A read was answered with this number."""
        return self._found(number, self.known, now)

    def lost_sight(self, now: float) -> None:
        """A call that raises it was not answered, or in a way that tells nothing."""
        self.unsure += 1
        self.unsure_until = now + LATE_SECONDS

    def _found(self, number: int, least: int, now: float) -> str:
        if self.unsure and now > self.unsure_until:
            self.resolved_as_not_made += self.unsure
            self.unsure = 0
        wrong = ""
        if number < least:
            wrong = f"lost: {number} was answered where at least {least} was due"
        elif number > least + self.unsure:
            wrong = f"made twice: {number} was answered where at most {least + self.unsure} was due"
        made = min(max(0, number - least), self.unsure)
        self.unsure -= made
        self.resolved_as_made += made
        self.known = number
        return wrong
