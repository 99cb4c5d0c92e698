from __future__ import annotations

import hashlib
from binascii import crc_hqx
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_state.adapters.redis.cluster.tags import SLOTS, partition_of, slot_of, tags
from iii_state.adapters.redis.keys import MAX_LANE_BYTES, Keys, lane

TEXTS = st.one_of(st.binary(max_size=8), st.binary(min_size=60, max_size=80))


def test_values_lie_where_the_stock_engine_has_them() -> None:
    assert Keys(b"other").values(b"users") == b"state:users"
    assert Keys(b"other").scopes == b"other:scopes"


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_two_lanes_never_share_a_name(scope: bytes, key: bytes, other_scope: bytes, other_key: bytes) -> None:
    same = (scope, key) == (other_scope, other_key)
    assert (lane(scope, key) == lane(other_scope, other_key)) == same
    assert len(lane(scope, key)) <= MAX_LANE_BYTES


def test_a_lane_is_never_a_counter_of_its_queue() -> None:
    for key in (b"", b"entries", b"bytes", b"x" * 100):
        assert lane(b"", key)[:1] in b"0123456789~"


def test_names_of_one_prefix_never_meet() -> None:
    keys = Keys()
    fixed = [keys.scopes, keys.routes, keys.routes_version, keys.routes_log, keys.engines, keys.format]
    free = [keys.engine(b"x"), keys.session(b"x"), keys.subscription(b"x"), keys.stream(b"x"), keys.busy(b"x"), keys.dead(b"x")]
    names = [*fixed, *free, keys.wait(b"x", b"1:ab"), keys.values(b"x")]
    assert len(set(names)) == len(names)


@given(st.binary())
def test_a_scope_is_found_again_in_its_key(scope: bytes) -> None:
    for keys in (Keys(), Keys(tag=tags(64)[7])):
        assert keys.scope_of(keys.values(scope)) == scope
        assert keys.scope_of(keys.scopes) is None


@pytest.mark.parametrize("scope", [b"users", b"", b"{other}:x", b"}{"])
def test_all_keys_of_a_part_have_one_hash_tag(scope: bytes) -> None:
    keys = Keys(tag=tags(8)[partition_of(scope, 8)])
    tag = keys.scopes.split(b":")[0]
    assert tag.startswith(b"{iii-")
    assert tag.endswith(b"}")
    for name in (keys.values(scope), keys.session(b"e"), keys.stream(b"q"), keys.wait(b"q", lane(scope, b"k"))):
        assert name.startswith(tag + b":")


@pytest.mark.parametrize("partitions", [1, 3, 64, 256, 1000])
def test_the_slots_of_the_partitions_are_evenly_spaced(partitions: int) -> None:
    slots = [slot_of(tag + b"x") for tag in tags(partitions)]
    assert slots == [(2 * number + 1) * SLOTS // (2 * partitions) for number in range(partitions)]


def test_the_tags_of_64_partitions_never_change() -> None:
    digest = hashlib.sha256(b"".join(tags(64))).hexdigest()
    assert tags(64)[:2] == (b"{iii-2345}:", b"{iii-3241}:")
    assert digest == "376f88bc2808a823a2d403aa9597fde583a41b5b241126f2d98637dac524770d"
    assert [partition_of(scope, 64) for scope in (b"users", b"", "ä{x}".encode())] == [44, 0, 30]


def test_slots_are_those_of_redis() -> None:
    assert slot_of(b"foo") == 12182
    assert slot_of(b"{user1000}.following") == slot_of(b"user1000")
    assert slot_of(b"foo{}{bar}") == crc_hqx(b"foo{}{bar}", 0) % SLOTS


def test_a_hundred_thousand_scopes_are_spread_evenly() -> None:
    found = Counter(partition_of(b"tenant-%d" % number, 64) for number in range(100_000))
    assert max(found.values()) <= 1.3 * 100_000 / 64
