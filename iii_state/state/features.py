"""What this engine can do that older ones cannot, as it is announced to whoever would rely on it."""

from __future__ import annotations

from iii_state.events import TRIGGERS_V2

FEATURES: list[str] = ["if", "meta", "many", "transact", "prefix", "touch", "history", TRIGGERS_V2]
"""`features` in the metadata of `state::set`. Engines ignore members that they do not know: a `set` with `if` would be carried out
without it. So callers look here, and refuse what is missing (`UNSUPPORTED`)."""
