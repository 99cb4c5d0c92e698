from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iii_state.adapters.redis.keys import MAX_LANE_BYTES, Keys, Slots, Whole, lane

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
    for keys in (Whole().of(scope), Slots().of(scope)):
        assert keys.scope_of(keys.values(scope)) == scope
        assert keys.scope_of(keys.scopes) is None


@pytest.mark.parametrize("scope", [b"users", b"", b"{other}:x", b"}{"])
def test_all_keys_of_a_part_have_one_hash_tag(scope: bytes) -> None:
    keys = Slots(parts=8).of(scope)
    tag = keys.scopes.split(b":")[0]
    assert tag.startswith(b"{iii-")
    assert tag.endswith(b"}")
    for name in (keys.values(scope), keys.session(b"e"), keys.stream(b"q"), keys.wait(b"q", lane(scope, b"k"))):
        assert name.startswith(tag + b":")
    assert [part.scopes for part in Slots(parts=3).all()] == [b"{iii-%d}:iii-state:scopes" % part for part in range(3)]
