"""A mutation on its way, without a connection: what it makes of replies."""

from __future__ import annotations

import pytest

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.call import AGAIN, Again
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.connection.session import EngineSession
from iii_state.adapters.redis.identity import EngineIdentity
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations.commands import Replace, Update
from iii_state.adapters.redis.mutations.fanout import Fanout, ReloadRoutes
from iii_state.adapters.redis.mutations.mutation import Capture
from iii_state.adapters.redis.mutations.wake_ups import WakeUps
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import Postponed
from iii_state.errors import StoreError
from iii_state.events import QueueLimits
from iii_state.sessions import Request
from tests.support.redis.adapters import INCREMENT

HELD = [b"HELD"]


@pytest.fixture
async def fanout() -> Fanout:
    keys = Keys()
    connection = RedisConnection(Address(), keys.session)
    return Fanout(keys, connection, EngineIdentity(), WakeUps(keys, connection.session), QueueLimits())


def a_set(fanout: Fanout, ttl_ms: int | None = None, request: Request | None = None) -> Replace:
    return Replace(fanout, "s", "k", (b"1",), request, ttl_ms)


async def test_the_first_deadline_of_a_scope_is_called_again_by_who_expects_that_the_routes_hold_still(fanout: Fanout) -> None:
    mutation = a_set(fanout, ttl_ms=1000)
    mutation.can_be_held = True
    assert script("fleet/change_settings").sha1 in mutation.command(b"session", 1)
    result: object = mutation.result(HELD)
    assert result is Postponed.HELD
    mutation.begin_again()
    assert script("fleet/change_settings").sha1 in mutation.command(b"session", 1)


async def test_a_caller_that_does_not_expect_it_is_told_that_nothing_was_changed(fanout: Fanout) -> None:
    mutation = a_set(fanout, ttl_ms=1000)
    mutation.command(b"session", 1)
    with pytest.raises(StoreError, match="nothing was changed"):
        mutation.result(HELD)


async def test_a_request_that_an_earlier_connection_had_carried_is_not_called_again(fanout: Fanout) -> None:
    mutation = a_set(fanout, ttl_ms=1000, request=Request("caller-1", 1, 0, 1))
    mutation.can_be_held = mutation.was_carried = True
    mutation.command(b"session", 1)
    with pytest.raises(StoreError):
        mutation.result(HELD)


async def test_calls_that_are_stale_together_read_the_routes_once(fanout: Fanout) -> None:
    stale = [b"STALE", b"7", []]
    first, second = a_set(fanout).result(stale), a_set(fanout).result(stale)
    assert isinstance(first, Again)
    assert isinstance(second, Again)
    (reload,) = first.first
    assert isinstance(reload, ReloadRoutes)
    assert second.first == (reload,)
    reload.command(b"session", 1)
    later = a_set(fanout).result(stale)
    assert isinstance(later, Again)
    assert later.first != (reload,)


async def test_a_write_of_another_program_becomes_an_event_first_and_once_it_cannot_the_mutation_fails(fanout: Fanout) -> None:
    mutation = a_set(fanout)
    again = mutation.result([b"UNCAPTURED"])
    assert isinstance(again, Again)
    (capture,) = again.first
    assert isinstance(capture, Capture)
    with pytest.raises(AssertionError):
        capture.result([b"UNKNOWN"])
    mutation.not_captured(StoreError("the queue is full"))
    with pytest.raises(StoreError, match="could not be noticed: the queue is full"):
        mutation.result([b"UNCAPTURED"])


async def test_an_update_takes_on_a_foreign_text_that_is_json_and_refuses_any_other(fanout: Fanout) -> None:
    update = Update(fanout, "s", "k", (INCREMENT, 1000), None, None)
    session = EngineSession(fanout.keys.session)
    session.number(update)
    assert update.result([b"FOREIGN", b'{"n": 1}']) is AGAIN
    assert b'{"n": 1}' in update.command(b"session", 1)
    with pytest.raises(StoreError, match="no JSON"):
        update.result([b"FOREIGN", b"{"])
