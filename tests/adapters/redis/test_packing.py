"""Calls put together from ready parts are the same bytes as those packed word by word."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import RequestId, mutation
from iii_state.adapters.redis.scripts.packing import Packing, pack, packed

PACKINGS = {keys: Packing(keys) for keys in (Keys(), Keys(tag=b"{iii-1}:"))}
number = st.integers(0, 2**53)


@given(
    keys=st.sampled_from(list(PACKINGS)),
    name=st.sampled_from(["values/set", "values/delete", "values/update"]),
    session=st.sampled_from([b"a", b"b"]),
    epoch=st.integers(1, 3),
    slot=st.integers(0, 2000),
    sequence=number,
    version=number,
    scope=st.binary(max_size=20),
    key=st.binary(max_size=20),
    own=st.lists(st.binary(max_size=20), max_size=12),
)
def test_both_ways_give_the_same_bytes(
    keys: Keys,
    name: str,
    session: bytes,
    epoch: int,
    slot: int,
    sequence: int,
    version: int,
    scope: bytes,
    key: bytes,
    own: list[bytes],
) -> None:
    words = mutation(keys, RequestId(session, epoch, slot, sequence), version, scope, key, (), own)
    assert PACKINGS[keys].mutation(
        script(name), keys.values(scope), session, epoch, slot, sequence, version, scope, key, packed(own), len(own)
    ) == pack((b"EVALSHA", script(name).sha1, *words))
