"""The short runs: every kind of fault with each adapter, and nothing lost, made twice, or out of order."""

from __future__ import annotations

import json

from tests.torture.command import NEEDS, done, started
from tests.torture.plan import PLANS

pytestmark = NEEDS


def test_nothing_is_lost_on_one_redis_whatever_is_hurt() -> None:
    figures = json.loads(done(started("--minutes", "1", "--seed", "1", "--json")))
    assert figures["problems"] == []
    assert figures["faults"].keys() >= PLANS["redis"].kinds.keys()
    assert figures["writes"]["ok"] > 500
    assert all(figures["deliveries_by_trigger"].values())


def test_nothing_is_lost_on_a_file_through_a_bridge_and_through_attach() -> None:
    """They run side by side."""
    running = {name: started("--adapter", name, "--minutes", "0.3", "--seed", "1", "--json") for name in ("kv", "bridge", "attach")}
    for name, process in running.items():
        figures = json.loads(done(process))
        assert (figures["adapter"], figures["problems"]) == (name, [])
        assert figures["faults"]
        assert figures["writes"]["ok"] > 100
