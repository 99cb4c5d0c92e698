"""The short run of raw clients: their calls are made once each, in parts, side by side."""

from __future__ import annotations

import json
from pathlib import Path

from tests.torture.command import COMMAND_SECONDS, NEEDS, done, started
from tests.torture.plan import IN_TURN

pytestmark = NEEDS


def test_the_calls_of_raw_clients_are_made_once_each_and_can_be_gone_on_with(tmp_path: Path) -> None:
    arguments = ("--calls", str(tmp_path), "--parts", "4", "--count", "20000")
    first, second = started(*arguments), started(*arguments)  # side by side: each part is done by one of them
    first.communicate(timeout=COMMAND_SECONDS)
    second.communicate(timeout=COMMAND_SECONDS)
    done(started(*arguments))  # nothing is left to be done
    parts = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [part["adapter"] for part in parts] == IN_TURN
    assert all(part["calls"] >= 5_000 and part["problems"] == [] for part in parts)
    table = done(started("--table", str(tmp_path)))
    assert all(f"| {name} | {part['calls']:,} |" in table for name, part in zip(IN_TURN, parts, strict=True))
