"""The id of a subscription: of what makes it the one that it is, the same on every engine, and worked out once."""

from __future__ import annotations

import msgspec

from iii_state.events import Subscription


def test_an_id_is_of_the_identity_alone_and_is_worked_out_once() -> None:
    subscription = Subscription("f", scope="s", key="k", condition_function_id="c")
    assert subscription.id == "aa830bafe284eb0fd402f4c0f5f2ec19"
    assert subscription.id is subscription.id, "20,000 registrations asked for it five times each, and kept all others waiting"
    longer = msgspec.structs.replace(subscription, retention_ms=1)
    assert longer.id == subscription.id
    other = msgspec.structs.replace(subscription, scope="t")
    assert other.id != subscription.id
    assert (longer == subscription, msgspec.structs.replace(longer, retention_ms=300_000) == subscription) == (False, True)
