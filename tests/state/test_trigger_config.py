"""The config of a state trigger: what is refused and in which words, what is ignored, and what makes the same subscription."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from iii_state import FunctionError, values
from iii_state.config import Settings
from iii_state.events import Subscription
from iii_state.host import Trigger
from iii_state.state.trigger_config import subscription_of
from tests.state.test_dispatcher import Setup


def subscription(**config: Any) -> Subscription:
    return subscription_of(Trigger("t", "state", "f", values.encode(config)), Settings())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"scope": "s", "scope_prefix": "s"}, "`scope` and `scope_prefix` cannot be given together"),
        ({"scope": "s", "scope_prefix": ""}, "`scope` and `scope_prefix` cannot be given together"),
        ({"key": "s", "key_prefix": "s"}, "`key` and `key_prefix` cannot be given together"),
        ({"scope_prefix": 1}, "scope_prefix: invalid type: integer, expected a string"),
        ({"event_types": []}, "event_types has to name one type at least"),
        ({"event_types": ["state:made"]}, "event_types may have state:created, state:updated and state:deleted, not 'state:made'"),
        ({"event_types": "created"}, "event_types: invalid type: string, expected a sequence"),
        ({"changed": []}, "changed has to have 1 to 32 paths, not 0"),
        ({"changed": ["a"] * 33}, "changed has to have 1 to 32 paths, not 33"),
        ({"changed": [[""]]}, "changed: a path segment has 1 to 256 bytes of UTF-8, not ''"),
        ({"changed": [["a"] * 33]}, "changed: path depth 33 exceeds maximum of 32"),
        ({"changed": [1]}, "changed"),
        ({"when": []}, "when has to have 1 to 32 conditions, not 0"),
        ({"when": [{}]}, "when[0]: expected exactly one of"),
        ({"when": [{"equals": 1}, {"lt": "a"}]}, "when[1].lt: invalid type: string, expected a number"),
        ({"when": [{"equals": 1, "of": "both"}]}, 'when[0].of has to be "old" or "new"'),
        ({"when": [{"revision": 1}]}, "when[0]: a trigger cannot go by the `revision`"),
        ({"payload": "none"}, "payload: unknown variant `none`, expected one of `full`, `new`, `keys`"),
        ({"coalesce": 1}, "coalesce: invalid type: integer, expected a boolean"),
        ({"batch": {}}, "missing field `max`"),
        ({"batch": {"max": 0}}, "max"),
        ({"batch": {"max": 1, "wait_ms": 60_001}}, "wait_ms"),
        ({"on_full": "wait"}, "on_full: unknown variant `wait`"),
        ({"max_queue_length": 0}, "max_queue_length"),
    ],
    ids=str,
)
async def test_what_cannot_be_used_is_refused_in_words(config: dict[str, Any], words: str) -> None:
    async with Setup() as setup:
        with pytest.raises(FunctionError) as raised:
            await setup.trigger(**config)
    assert raised.value.code == "trigger_registration_failed"
    assert raised.value.message.startswith("Failed to parse trigger config: ")
    assert words in raised.value.message


async def test_an_unknown_member_is_ignored_with_a_warning_that_names_the_nearest(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with Setup() as setup:
            await setup.trigger(scope="s", keyprefix="a", _mine=1)
            await setup.set("k", 1)
            await setup.on.calls(1)
    said = [record.getMessage() for record in caplog.records]
    assert any("'keyprefix'" in words and "did you mean key_prefix?" in words for words in said)
    assert any("'_mine'" in words for words in said)


SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"event_types": ["state:deleted", "state:created"]}, {"event_types": ["created", "deleted", "created"]}),
    ({"event_types": ["created", "updated", "deleted"]}, {}),
    ({"changed": ["email", ["a", "b"]]}, {"changed": [["a", "b"], ["email"], "email"]}),
    ({"changed": [""]}, {"changed": [[]]}),
    ({"scope_prefix": "", "key_prefix": None, "coalesce": False}, {}),
    (
        {"when": [{"path": "n", "gt": 1}, {"absent": True, "of": "old"}]},
        {"when": [{"of": "old", "absent": True}, {"gt": 1, "of": "new", "path": ["n"]}]},
    ),
    ({"when": [{"equals": {"a": [1, 2]}}]}, {"when": [{"equals": {"a": [1, 2]}, "of": "new"}]}),
    ({"payload": "keys", "batch": {"max": 2}, "on_full": "drop_oldest", "max_queue_length": 5, "max_queue_bytes": 9}, {}),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=str)
def test_what_means_the_same_is_one_subscription(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert subscription(**one).id == subscription(**other).id


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"scope": "a"},
    {"scope_prefix": "a"},
    {"key_prefix": "a"},
    {"event_types": ["created"]},
    {"changed": ["a"]},
    {"changed": [["a", "b"]]},
    {"when": [{"equals": 1}]},
    {"when": [{"equals": 1, "of": "old"}]},
    {"when": [{"path": "a", "equals": 1}]},
    {"coalesce": True},
]


def test_what_narrows_a_trigger_makes_another_subscription() -> None:
    assert len({subscription(**config).id for config in DIFFERENT}) == len(DIFFERENT)


def test_ids_of_what_older_versions_know_stay_byte_for_byte() -> None:
    """Ids that version 0.2.0 has given: queues wait under these names."""
    assert subscription().id == "9848f0a180873a0019f020d927d4b774"
    assert subscription(scope="s").id == "92deb9d386df43f84378df9aa7e20557"
    assert subscription(key="k", delivery="broadcast").id == "57d6eb55fc94d944f0ea7e70a8c788fb"
    assert Subscription("ü", namespace="n", scope="", key="k").id == "1f14958f1898abb7c61b11ea3bb364d2"
