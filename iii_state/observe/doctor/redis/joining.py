"""What looking at one Redis and at a cluster have in common: how a repair joins the fleet, and what is said where nothing is."""

from __future__ import annotations

import msgspec

from iii_state.config import RedisSettings
from iii_state.observe.doctor.findings import Finding

REPAIR_SECONDS = 120.0
"""For so long a repair is waited for: lanes whose handler may still be running wait up to a minute."""


def joining(settings: RedisSettings, *, is_watching: bool) -> RedisSettings:
    """The settings of an engine that joins the fleet to repair: it has to agree with the others."""
    return msgspec.structs.replace(settings, foreign_writes=is_watching)


def nothing_there(place: str, prefix: str) -> Finding:
    """No engine has ever begun there."""
    return Finding(
        "warning",
        "nothing-there",
        f"{place} holds nothing of iii-state under the prefix {prefix}",
        "No engine has used it yet, or it has been emptied, or the prefix (adapter.config.prefix) is another one.",
        "Look at the address, and give --prefix",
    )
