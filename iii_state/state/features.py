"""What this version can do that older ones do not know, and would leave out without a word: callers look before they ask for it."""

from __future__ import annotations

from iii_state.events import TRIGGERS_V2

FEATURES = [TRIGGERS_V2]
"""Announced in the metadata of `state::set` (`engine::functions::info`), in the order of the documentation."""
