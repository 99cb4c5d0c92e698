"""Tickets and sessions as a caller sees them on the wire: what is refused and how, and what survives a killed engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iii_state import Engine, FunctionError, StateModule, values
from iii_state.client.client import Client
from iii_state.errors import ConnectionLost
from tests.support.engines.processes import running_engine
from tests.support.redis.server import shared_server

TICKET = {"session": "session-1", "epoch": 1, "slot": 0, "seq": 1}
INCREMENT = [{"type": "increment", "path": "n", "by": 1}]
PAYLOADS: dict[str, dict[str, Any]] = {
    "set": {"scope": "s", "key": "k", "value": 2},
    "delete": {"scope": "s", "key": "k"},
    "update": {"scope": "s", "key": "k", "ops": [{"type": "increment", "by": 1}]},
}


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine() as running:
        await running.add_module(StateModule())
        yield running


async def call(engine: Engine, function_id: str, payload: Any) -> Any:
    return await engine.trigger({"function_id": function_id, "payload": payload})


async def refused(engine: Engine, function_id: str, payload: Any) -> tuple[str, str]:
    with pytest.raises(FunctionError) as raised:
        await call(engine, function_id, payload)
    return raised.value.code, raised.value.message


@pytest.mark.parametrize("function", PAYLOADS)
async def test_a_call_made_again_and_its_stragglers(engine: Engine, function: str) -> None:
    function_id, payload = f"state::{function}", {**PAYLOADS[function], "_iii_state_request": TICKET}
    await call(engine, "state::set", {"scope": "s", "key": "k", "value": 1})
    code, message = await refused(engine, function_id, payload)
    assert (code, "whether an earlier attempt was applied is not known" in message) == ("SESSION_LOST", True)
    opened = await call(engine, "iii-state::session_open", {"session": "session-1", "epoch": 1})
    about = await call(engine, "engine::functions::info", {"function_id": "state::set"})
    assert opened == {"session": "session-1", "epoch": 1, "store": about["metadata"]["iii_state"]["store"]}
    answer = await call(engine, function_id, payload)
    assert await call(engine, function_id, payload) == answer
    await call(engine, "iii-state::session_open", {"session": "session-1", "epoch": 2, "previous_epoch": 1})
    assert (await refused(engine, function_id, payload))[0] == "REQUEST_FENCED"
    payload["_iii_state_request"] = {**TICKET, "epoch": 2}
    assert await call(engine, function_id, payload) == answer
    assert await call(engine, "state::get", {"scope": "s", "key": "k"}) == (None if function == "delete" else 2)


async def test_the_metadata_of_set_says_that_calls_made_again_are_recognised(engine: Engine) -> None:
    about = await call(engine, "engine::functions::info", {"function_id": "state::set"})
    told = about["metadata"]["iii_state"]
    assert (told["retry_safe"], len(told["store"])) == (True, 16)


async def test_functions_that_change_nothing_ignore_a_ticket(engine: Engine) -> None:
    payload = {"scope": "s", "key": "k", "_iii_state_request": "whatever"}
    assert await call(engine, "state::get", payload) is None
    assert await call(engine, "state::list", payload) == []


async def test_an_old_value_that_was_too_large_to_be_recorded(engine: Engine) -> None:
    await call(engine, "iii-state::session_open", {"session": "session-1", "epoch": 1})
    await call(engine, "state::set", {"scope": "s", "key": "k", "value": "x" * 1_048_576})
    payload = {"scope": "s", "key": "k", "_iii_state_request": TICKET}
    await call(engine, "state::delete", payload)
    assert (await refused(engine, "state::delete", payload))[0] == "OLD_VALUE_UNKNOWN"


SESSION = "invalid value: 'short', expected 8 to 64 letters, digits, `-` or `_`, made at random"


@pytest.mark.parametrize("function", PAYLOADS)
@pytest.mark.parametrize(
    ("ticket", "cause"),
    [
        (None, "invalid type: null, expected an object"),
        ([1], "invalid type: sequence, expected an object"),
        ({}, "missing field `session`"),
        ({"session": "session-1", "epoch": 1, "seq": 1}, "missing field `slot`"),
        ({**TICKET, "session": "short"}, f"session: {SESSION}"),
        ({**TICKET, "epoch": "1"}, "epoch: invalid type: string, expected an integer"),
        ({**TICKET, "epoch": 0}, "epoch: invalid value: 0, expected an integer from 1 to 9007199254740992"),
        ({**TICKET, "slot": -1}, "slot: invalid value: -1, expected an integer from 0 to 4095"),
        ({**TICKET, "slot": 4096}, "slot: invalid value: 4096, expected an integer from 0 to 4095"),
        ({**TICKET, "seq": 1.5}, "seq: invalid type: floating point number, expected an integer"),
        ({**TICKET, "seq": 2**53 + 1}, "seq: invalid value: 9007199254740993, expected an integer from 1 to 9007199254740992"),
    ],
)
async def test_a_ticket_that_cannot_be_used(engine: Engine, function: str, ticket: Any, cause: str) -> None:
    await call(engine, "iii-state::session_open", {"session": "session-1", "epoch": 1})
    code, message = await refused(engine, f"state::{function}", {**PAYLOADS[function], "_iii_state_request": ticket})
    assert code == "deserialization_error"
    assert message == f"Failed to deserialize input for state::{function}: _iii_state_request: {cause}"
    assert await call(engine, "state::list", {"scope": "s"}) == []


@pytest.mark.parametrize(
    ("payload", "code", "cause"),
    [
        ({}, "deserialization_error", "missing field `session`"),
        ({"session": "short", "epoch": 1}, "deserialization_error", f"session: {SESSION}"),
        ({"session": "session-1", "epoch": 2, "previous_epoch": 2}, "deserialization_error", "previous_epoch: invalid value: 2"),
        ({"session": "session-1", "epoch": 2, "previous_epoch": 1}, "SESSION_LOST", "not known here"),
        ({"session": "session-0", "epoch": 2}, "SESSION_TAKEN", "raise the epoch, or use another id"),
    ],
)
async def test_a_session_that_cannot_be_opened(engine: Engine, payload: Any, code: str, cause: str) -> None:
    await call(engine, "iii-state::session_open", {"session": "session-0", "epoch": 1})
    found = await refused(engine, "iii-state::session_open", payload)
    assert (found[0], cause in found[1]) == (code, True), found


async def request(client: Client, function_id: str, **payload: Any) -> Any:
    answer = await client.call(function_id, values.encode(payload))
    return None if answer is None else values.decode(answer)


@pytest.mark.parametrize("kind", ["file", "redis"])
async def test_a_killed_engine_forgets_no_call_that_it_may_have_applied(kind: str, tmp_path: Path) -> None:
    """Increments in flight when the engine is killed are made again on the next one: each counts once, with its own answer."""
    server = await asyncio.to_thread(shared_server)
    await asyncio.to_thread(server.client.flushall)
    arguments = ["--file-path", str(tmp_path)] if kind == "file" else ["--redis-url", server.url]
    calls = 300
    answers: dict[int, Any] = {}

    async def made(client: Client, epoch: int, number: int) -> None:
        ticket = {"session": "session-1", "epoch": epoch, "slot": number, "seq": number + 1}
        answer = await request(client, "state::update", scope="s", key="k", ops=INCREMENT, _iii_state_request=ticket)
        assert answers.setdefault(number, answer) == answer

    for epoch in range(1, 4):
        with running_engine(arguments) as engine:
            async with Client(engine.url) as client:
                await request(client, "iii-state::session_open", session="session-1", epoch=epoch, previous_epoch=epoch - 1)
                # all of them, those that have been answered too: their slots have not been used since
                tasks = [asyncio.create_task(made(client, epoch, number)) for number in range(calls)]
                if epoch < 3:
                    for _ in range(20 * epoch):
                        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                        tasks = [task for task in tasks if not task.done()] or tasks
                    await asyncio.to_thread(engine.kill)
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(outcome is None or isinstance(outcome, ConnectionLost) for outcome in outcomes)
                if epoch == 3:
                    assert outcomes.count(None) == len(tasks)
                    assert await request(client, "state::get", scope="s", key="k") == {"n": calls}
    assert sorted(answer["new_value"]["n"] for answer in answers.values()) == list(range(1, calls + 1))
    assert all((answer["old_value"] or {"n": 0})["n"] + 1 == answer["new_value"]["n"] for answer in answers.values())
