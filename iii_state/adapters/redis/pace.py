"""How often an engine looks after a store, or after one partition of a cluster, of which it has many."""

from __future__ import annotations

import math
from dataclasses import dataclass

from iii_state.adapters.redis.looks import Looks
from iii_state.tasks import maintenance


@dataclass(frozen=True, slots=True)
class Pace:
    """How often what is looked for from time to time is looked for.

    Where an engine has many partitions each is looked after more rarely, and all at the same moments: what is sent to the
    partitions of one server then goes there in one write.
    """

    sweep_seconds: float | None = None
    """Between two sweeps; None for what is usual."""
    looks_per_life: int = 10
    """How often the heartbeats are looked at within one time to live."""
    queues_per_sweep: int = 200
    """How many queues are looked at for damage."""
    looks: Looks | None = None
    """Where several lie on one server: which servers have been looked at."""
    is_alone: bool = True
    """Whether this is all of a Redis: its keys are gone through without others."""

    @property
    def seconds(self) -> float:
        """Between two sweeps."""
        return maintenance.SWEEP_SECONDS if self.sweep_seconds is None else self.sweep_seconds

    def after(self, now: float, seconds: float) -> float:
        """When what happens every so many seconds is due next, by the loop's clock."""
        return now + seconds if self.is_alone else (math.floor(now / seconds) + 1) * seconds


ALONE = Pace()


def pace_of(partitions: int) -> Pace:
    """The pace for the partitions of one engine, which are so many."""
    return Pace(
        sweep_seconds=6.0 if partitions > 8 else 3.0,
        looks_per_life=4,
        queues_per_sweep=max(10, 800 // partitions),
        looks=Looks(),
        is_alone=False,
    )
