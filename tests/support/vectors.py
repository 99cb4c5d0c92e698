"""The update vectors that every implementation of the ops has to answer alike, and what "alike" means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("update-vectors.json").read_text(encoding="utf-8"))


def exact(value: Any) -> Any:
    """A form in which 1 is not 1.0, true is not 1, and the order of members counts."""
    if isinstance(value, dict):
        return {"object": [[name, exact(item)] for name, item in value.items()]}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return type(value).__name__, repr(value)
