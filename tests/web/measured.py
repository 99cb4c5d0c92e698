"""What the tests measure of the page: printed, and kept in a file for who wants to compare."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def keep(name: str, figures: dict[str, Any], folder: Path) -> None:
    """Keep the figures in `III_STATE_FIGURES`, or in the test's own folder, and print them (`pytest -s` shows it)."""
    place = Path(os.environ.get("III_STATE_FIGURES", folder))
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=1)
    (place / f"{name}.json").write_text(text)
    print(name, text)
