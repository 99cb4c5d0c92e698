"""The time that a kv store goes by: the wall clock's, except that it never goes back, and never more slowly than time passes.

Deadlines and planned attempts are kept as moments, since they outlive the process. A wall clock that is set back would make them
wait for longer than was asked, so this clock does not follow it there. One that is set forward it follows: that is also what a
machine's sleep looks like. What it showed last is kept in the file: where the wall clock shows less at the next start, the
moments in the file are moved back by the difference (`Journal`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from iii_state.adapters.wall_clock import now_ms


class Clock:
    """Milliseconds since 1970; call it. `wall` is the clock that it follows forward."""

    def __init__(self, wall: Callable[[], int] = now_ms) -> None:
        self._wall = wall
        self._ahead = -(2**63)
        """How far the wall clock was ahead of the monotonic one at most, in nanoseconds."""

    def __call__(self) -> int:
        # In this order: a pause in between then counts as a wall clock that is behind, and is made up for by the next look.
        wall = self._wall() * 1_000_000
        elapsed = time.monotonic_ns()
        if wall - elapsed > self._ahead:
            self._ahead = wall - elapsed
        return (elapsed + self._ahead) // 1_000_000
