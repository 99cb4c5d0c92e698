"""What has gone over the connections to one Redis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Counted since the start. `round_trips` are packets of calls that were written together."""

    calls: int = 0
    round_trips: int = 0
    sent_again: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    """Of connections that are over."""
    reconnects: int = 0
    script_loads: int = 0
    in_flight: int = 0
    waiting: int = 0
    """Both as they are when it is asked."""
