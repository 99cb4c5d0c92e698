"""The update vectors that every implementation of the ops has to answer alike, and what "alike" means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iii_state import values

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("update-vectors.json").read_text(encoding="utf-8"))


def exact(value: Any) -> Any:
    """A form in which 1 is not 1.0, true is not 1, and the order of members counts."""
    if isinstance(value, dict):
        return {"object": [[name, exact(item)] for name, item in value.items()]}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value).__name__, repr(value)


_CONDITIONS = Path(__file__).with_name("condition-vectors.json")
CONDITION_VECTORS: list[dict[str, Any]] = json.loads(_CONDITIONS.read_text(encoding="utf-8"))
"""`old` (or `old_text`, as it is spelled; none for a missing key), `if` (or `if_text`), and which condition fails."""


def condition_case(vector: dict[str, Any]) -> tuple[bytes | None, bytes]:
    """What is stored, and the text of the conditions."""
    stored: bytes | None = None
    if "old" in vector or "old_text" in vector:
        stored = values.to_stored(vector["old_text"].encode() if "old_text" in vector else values.encode(vector["old"]))
    return stored, vector["if_text"].encode() if "if_text" in vector else values.encode(vector["if"])
