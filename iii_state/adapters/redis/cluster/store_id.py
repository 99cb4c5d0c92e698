"""The id of a store that lies in partitions, each of which has one of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def store_of(ids: Sequence[str | None]) -> str | None:
    """Made of all of them: another one when any has been emptied. None while one is not known."""
    known = [held for held in ids if held is not None]
    if not known or len(known) < len(ids):
        return None
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
