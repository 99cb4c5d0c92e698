"""The Redis Cluster of the tests here: each slot is at home when a test begins, wherever the one before has moved it."""

from __future__ import annotations

import pytest

from tests.support.redis.nodes import SLOTS, Nodes, shared_nodes

MOVED = (128, 4224, 8320, 12416)
"""The slots that tests move."""


@pytest.fixture
def nodes(nodes: Nodes) -> Nodes:
    """The cluster of this test session, with the slots as they were cut in the beginning."""
    assert nodes is shared_nodes()
    for slot in MOVED:
        home = nodes.shards[slot * len(nodes.shards) // SLOTS]
        if nodes.shard_of(slot) is not home:
            nodes.move(slot, home, 1000)
    return nodes
