"""How much memory processes have through a run, and whether it is at the end what it was in the first quarter."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
MB = 1_000_000
FREE_GROWTH = 1.15
FREE_BYTES = 8 * MB
"""So much more, relatively and absolutely, is no growth: caches, and what an allocator keeps."""


def resident_bytes(pid: int) -> int | None:
    """The resident memory of a process; None where it has ended."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return None


class Memory:
    """Samples of a run. Where a process was killed, those of the next one at its place go on under the same name."""

    def __init__(self) -> None:
        self._samples: dict[str, list[int]] = defaultdict(list)

    def add(self, name: str, held: int | None) -> None:
        """One more sample."""
        if held is not None:
            self._samples[name].append(held)

    def figures(self) -> dict[str, Any]:
        """Of each name the medians of the first and the last quarter, and the most, in MB."""
        return {
            name: {
                "first_quarter": round(_first(samples) / MB, 1),
                "last_quarter": round(_last(samples) / MB, 1),
                "most": round(max(samples) / MB, 1),
            }
            for name, samples in self._samples.items()
        }

    def problems(self) -> list[str]:
        """Whose memory has grown."""
        return [
            f"memory: {name} had {_first(samples) / MB:.1f} MB in its first quarter and {_last(samples) / MB:.1f} MB in its last"
            for name, samples in self._samples.items()
            if _last(samples) > FREE_GROWTH * _first(samples) + FREE_BYTES
        ]


def _first(samples: Sequence[int]) -> float:
    return median(samples[: max(1, len(samples) // 4)])


def _last(samples: Sequence[int]) -> float:
    return median(samples[-max(1, len(samples) // 4) :])
