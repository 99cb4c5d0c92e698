"""What engines tell of the store that serves them: another one as soon as the database has been emptied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support.engines.attached import attached
from tests.support.engines.calls import call
from tests.support.engines.processes import free_port, running_engine
from tests.support.redis.server import RedisServer
from tests.support.waiting import wait_until

KINDS = ["served", "attached", "attached over a bridge"]


def told(url: str) -> dict[str, Any]:
    """What stands in the metadata of `state::set`."""
    found = call(url, "engine::functions::info", b'{"function_id":"state::set"}')
    about: dict[str, Any] = found["metadata"]["iii_state"]
    return about


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, redis: RedisServer) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "served":
            yield stack.enter_context(running_engine(["--redis-url", redis.url])).url
            return
        engine = stack.enter_context(running_engine(["--no-state"]))
        arguments = ("--redis-url", redis.url)
        if request.param == "attached over a bridge":
            arguments = ("--bridge-url", stack.enter_context(running_engine(["--redis-url", redis.url])).url)
        stack.enter_context(attached(engine.url, *arguments)).until_attached()
        yield engine.url


def test_an_emptied_database_is_told_as_another_store(url: str, redis: RedisServer) -> None:
    call(url, "state::set", b'{"scope":"s","key":"k","value":1}')
    before = told(url)
    assert (before["retry_safe"], before["store"]) == (True, (redis.client.get("iii-state:store") or b"").decode())
    redis.client.flushall()

    def is_another() -> bool:
        call(url, "state::set", b'{"scope":"s","key":"k","value":1}')
        return told(url)["store"] not in (before["store"], None)

    wait_until(is_another, "it is told as the same store")
    after = told(url)
    assert (after["retry_safe"], after["store"]) == (True, (redis.client.get("iii-state:store") or b"").decode())


def test_a_bridge_that_is_cut_off_at_the_start_and_leads_to_another_store_later_is_told_as_it_is(ours: str) -> None:
    port = free_port()
    remote = f"ws://127.0.0.1:{port}"
    with attached(ours, "--bridge-url", remote) as process:
        process.wait_for("the store cannot be asked")
        with running_engine([], port=port):
            process.until_attached()
            first = told(ours)
            assert first == told(remote)
            assert first["retry_safe"]
        with running_engine([], port=port):
            wait_until(lambda: told(ours) == told(remote), lambda: f"it is told as {told(ours)}, and is {told(remote)}")
            assert told(ours)["store"] != first["store"]
            call(ours, "state::set", b'{"scope":"s","key":"k","value":1}')
        assert "taken over" not in process.stderr.text()
