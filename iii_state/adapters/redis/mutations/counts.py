"""What is counted of the mutations of an engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Counted since the start."""

    recognised: int = 0
    """Mutations that had been applied before, and were answered from their record."""
    captured: int = 0
    """Writes of other programs that have become events."""
    expired: int = 0
    """Values that were removed at their deadline."""
    late: int = 0
    """Those of them that were removed late."""
