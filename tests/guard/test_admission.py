"""Tokens at the handshake: where they may stand, what a wrong one gets, and what happens when one is taken away."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from iii_state.engine import Engine
from iii_state.errors import ConfigError
from iii_state.guard import Guard, tokens
from iii_state.guard.failures import FREE
from iii_state.host import Caller
from iii_state.rights import Identity, Rights
from iii_state.values import Json
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import Port, RawWorker
from tests.support.http import UPGRADE, answer_to, connected
from tests.support.waiting import until

Place = tuple[str, int]


class Door:
    """An engine that wants tokens, and the file that they stand in."""

    def __init__(self, engine: Engine, place: Place, file: Path, session: aiohttp.ClientSession) -> None:
        self.engine = engine
        self.place = place
        self.file = file
        self.session = session
        self.port = Port(session, *place)

    def write(self, *entries: dict[str, object]) -> None:
        self.file.write_text(yaml.safe_dump({"tokens": list(entries)}))

    async def worker(self, token: str) -> RawWorker:
        socket = await self.session.ws_connect(self.port.url, headers={"Authorization": f"Bearer {token}"})
        worker = RawWorker(socket)
        worker.hello = await worker.next()
        return worker


TOKEN = "iii_the-token-of-these-tests_0123456789"
OTHER = "iii_another-token-of-these-tests_012345"


def entry(name: str, token: str, **members: object) -> dict[str, object]:
    return {"name": name, "hash": tokens.hashed(token), **members}


@pytest.fixture
async def door(tmp_path: Path, session: aiohttp.ClientSession) -> AsyncIterator[Door]:
    file = tmp_path / "tokens.yaml"
    file.write_text(yaml.safe_dump({"tokens": [entry("ci", TOKEN)]}))
    async with Engine(guard=Guard.of({"tokens_file": str(file)})) as engine:
        await engine.add_module(DictModule())
        yield Door(engine, await engine.serve("127.0.0.1", 0), file, session)


def set_frame(value: int) -> bytes:
    """A frame that sets the value at s, k."""
    data = {"scope": "s", "key": "k", "value": value}
    payload = json.dumps({"type": "invokefunction", "function_id": "state::set", "data": data}).encode()
    return bytes([0x81, 0xFE, *len(payload).to_bytes(2, "big")]) + bytes(4) + payload


def protocol_of(token: str) -> str:
    return "bearer." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


async def test_a_token_is_taken_from_a_header_a_sub_protocol_or_the_query(door: Door) -> None:
    for lines, target in (
        ([f"Authorization: Bearer {TOKEN}"], "/"),
        ([f"authorization: bearer  {TOKEN} "], "/"),
        ([f"Sec-WebSocket-Protocol: {protocol_of(TOKEN)}"], "/"),
        ([f"Sec-WebSocket-Protocol: {protocol_of(TOKEN)}==, iii"], "/"),
        ([], f"/?access_token={TOKEN}"),
        ([], f"/otel?x=1&access_token={TOKEN}"),
        ([f"Authorization: Bearer {TOKEN}"], f"/?access_token={TOKEN}"),
    ):
        assert (await answer_to(door.place, *lines, target=target)).status == 101, (lines, target)


async def test_the_sub_protocol_is_answered_and_rather_with_another_than_the_token(door: Door) -> None:
    """A browser ends a connection whose sub-protocol the server has not agreed on."""
    mine = protocol_of(TOKEN)
    for offered, agreed in ((mine, mine), (f"{mine}, iii", "iii"), (f"iii, {mine}", "iii"), (f"a, b,{mine}", "a")):
        answer = await answer_to(door.place, f"Sec-WebSocket-Protocol: {offered}")
        assert (answer.status, answer.headers.get("sec-websocket-protocol")) == (101, agreed)
    answer = await answer_to(door.place, f"Authorization: Bearer {TOKEN}", "Sec-WebSocket-Protocol: iii")
    assert (answer.status, answer.headers.get("sec-websocket-protocol")) == (101, None)


WRONG = [
    [],
    ["Authorization: Bearer"],
    ["Authorization: Bearer "],
    [f"Authorization: {TOKEN}"],
    [f"Authorization: Basic {TOKEN}"],
    [f"Authorization: Bearer {TOKEN[:-1]}"],
    [f"Authorization: Bearer {TOKEN}x"],
    [f"Authorization: Bearer {TOKEN} {TOKEN}"],
    [f"Authorization: Bearer {TOKEN.upper()}"],
    [f"Authorization: Bearer {tokens.hashed(TOKEN)}"],
    ["Authorization: Bearer ci"],
    [f"Authorization: Bearer {TOKEN}", f"Authorization: Bearer {OTHER}"],
    [f"Authorization: Bearer {OTHER}", f"Authorization: Bearer {TOKEN}"],
    [f"Authorization: Bearer {TOKEN}", f"Sec-WebSocket-Protocol: {protocol_of(OTHER)}"],
    [f"Authorization: Bearer {TOKEN}, Bearer {OTHER}"],
    ["Sec-WebSocket-Protocol: bearer."],
    [f"Sec-WebSocket-Protocol: bearer.{TOKEN}"],
    [f"Sec-WebSocket-Protocol: Bearer.{protocol_of(TOKEN)[7:]}"],
    ["Sec-WebSocket-Protocol: bearer.%%%%"],
    [f"Sec-WebSocket-Protocol: {protocol_of(TOKEN)}, {protocol_of(OTHER)}"],
    [f"Cookie: access_token={TOKEN}"],
    [f"X-Authorization: Bearer {TOKEN}"],
    [f"Authorization : Bearer {TOKEN}"],
    [f"Authorization: Bearer\x00{TOKEN}"],
    [f"Authorization: Bearer {TOKEN}\x00"],
]


@pytest.mark.parametrize("lines", WRONG)
async def test_without_the_right_token_nobody_gets_in(door: Door, lines: list[str]) -> None:
    answer = await answer_to(door.place, *lines)
    assert answer.status in (400, 401), answer
    if answer.status == 401:
        assert TOKEN.encode() not in answer.rest
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "target", ["/?access_token=", "/?Access_Token={0}", "/?token={0}", "/?access_token={0}&access_token=x", "/#{0}"]
)
async def test_a_query_without_the_right_token_does_not_let_in(door: Door, target: str) -> None:
    assert (await answer_to(door.place, target=target.format(TOKEN))).status in (400, 401)


async def test_a_frame_that_comes_with_a_handshake_that_is_refused_is_not_read(door: Door) -> None:
    await (await door.worker(TOKEN)).call("state::set", {"scope": "s", "key": "k", "value": 1})
    frame = set_frame(2)
    for lines in ("", f"Authorization: Bearer {OTHER}\r\n", "Origin: http://evil\r\n"):
        connection = await connected(door.place)
        answer = await connection.answer(f"GET / HTTP/1.1\r\nHost: localhost\r\n{lines}{UPGRADE}\r\n".encode() + frame)
        assert answer.status in (401, 403)
        assert await connection.is_over()
    assert (await (await door.worker(TOKEN)).call("state::get", {"scope": "s", "key": "k"}))["result"] == 1


async def test_the_order_is_host_origin_token(door: Door) -> None:
    wrong = f"Authorization: Bearer {OTHER}"
    right = f"Authorization: Bearer {TOKEN}"
    assert (await answer_to(door.place, wrong, "Origin: http://evil", host="evil")).status == 403
    assert (await answer_to(door.place, right, host="evil")).status == 403
    assert (await answer_to(door.place, right, "Origin: null")).status == 403
    assert len(door.engine.guard.failures) == 0, "what fails before the token is none of its failures"


async def test_telemetry_wants_the_token_too_and_health_tells_little_without_it(door: Door) -> None:
    assert (await answer_to(door.place, target="/otel")).status == 401
    assert (await answer_to(door.place, f"Authorization: Bearer {TOKEN}", target="/otel")).status == 101
    assert json.loads((await answer_to(door.place, target="/healthz")).rest) == {"status": "ok"}
    told = await answer_to(door.place, f"Authorization: Bearer {TOKEN}", target="/healthz")
    assert json.loads(told.rest) == {"status": "ok", "workers": 0}
    assert (await answer_to(door.place, f"Authorization: Bearer {OTHER}", target="/healthz")).status == 401


async def test_a_channel_is_joined_with_its_key_and_ends_with_its_token(door: Door) -> None:
    """SDKs before 0.24.6 send no token on it: the key, which only who has one could ask for, is enough."""
    worker = await door.worker(TOKEN)
    ends = (await worker.call("engine::channels::create", {}))["result"]
    where = f"{door.port.url}/ws/channels/{ends['writer']['channel_id']}"
    assert (await answer_to(door.place, target=f"/ws/channels/{ends['writer']['channel_id']}?key={TOKEN}&dir=read")).status == 404
    reader = await door.session.ws_connect(f"{where}?key={ends['reader']['access_key']}&dir=read")
    writer = await door.session.ws_connect(f"{where}?key={ends['writer']['access_key']}&dir=write")
    await door.engine.reload_guard()
    await writer.send_str("the token is still good")
    assert (await reader.receive(30)).data == "the token is still good"
    door.write(entry("ci", OTHER))
    await door.engine.reload_guard()
    async with asyncio.timeout(30):
        assert (await reader.receive()).type is aiohttp.WSMsgType.CLOSE
    assert reader.close_code == 1012


async def test_a_name_and_its_rights_go_with_every_call(door: Door) -> None:
    seen: list[Caller] = []

    def look(data: Json, caller: Caller) -> bytes:
        seen.append(caller)
        return b"null"

    class Looking:
        name = "looking"

        async def start(self, host: object) -> None:
            host.register_function("look", look)  # type: ignore[attr-defined]

        async def stop(self) -> None: ...

        async def health(self) -> None: ...

    await door.engine.add_module(Looking())
    door.write(entry("ci", TOKEN), entry("web", OTHER, rights={"scopes": ["a/*"], "read_only": True}))
    await door.engine.reload_guard()
    for token in (TOKEN, OTHER):
        worker = await door.worker(token)
        await worker.call("look", {})
        await worker.send("invokefunction", function_id="engine::workers::register", data={"name": "w", "namespace": "n"})
        await worker.call("look", {})
    rights = Rights(scopes=("a/*",), read_only=True)
    assert [caller.identity for caller in seen] == [
        *[Identity("ci", None, tokens.hashed(TOKEN))] * 2,
        *[Identity("web", rights, tokens.hashed(OTHER))] * 2,
    ]
    assert [caller.namespace for caller in seen] == ["default", "n"] * 2


async def test_a_token_that_is_taken_away_ends_its_connections_and_no_other(door: Door) -> None:
    door.write(entry("ci", TOKEN), entry("web", OTHER))
    await door.engine.reload_guard()
    gone, stays = await door.worker(TOKEN), await door.worker(OTHER)
    door.write(entry("web", OTHER))
    await door.engine.reload_guard()
    await gone.send("invokefunction", function_id="state::set", data={"scope": "s", "key": "k", "value": "too late"})
    assert await gone.closed() == 1012
    assert (await answer_to(door.place, f"Authorization: Bearer {TOKEN}")).status == 401
    assert "error" not in (answer := await stays.call("state::get", {"scope": "s", "key": "k"}))
    assert answer.get("result") is None


async def test_who_does_not_answer_the_close_is_dropped_and_not_heard(door: Door) -> None:
    """A client that goes on sending after its token was taken away."""
    frame = set_frame(3)
    connection = await connected(door.place)
    head = f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n{UPGRADE}\r\n"
    assert (await connection.answer(head)).status == 101
    door.write(entry("web", OTHER))
    await door.engine.reload_guard()
    connection.writer.write(frame)
    assert await connection.is_over()
    assert (await (await door.worker(OTHER)).call("state::get", {"scope": "s", "key": "k"})).get("result") is None
    await until(lambda: len(door.engine.server) == 1)


async def test_rotation_leaves_no_gap(door: Door) -> None:
    """Two tokens of one name: the new one is good before the old one goes."""
    door.write(entry("ci", TOKEN), entry("ci", OTHER))
    await door.engine.reload_guard()
    old, new = await door.worker(TOKEN), await door.worker(OTHER)
    door.write(entry("ci", OTHER))
    await door.engine.reload_guard()
    assert await old.closed() == 1012
    assert "error" not in await new.call("state::get", {"scope": "s", "key": "k"})


async def test_changed_rights_hold_for_a_connection_that_is_open(door: Door) -> None:
    worker = await door.worker(TOKEN)
    (connected_worker,) = door.engine.workers
    door.write(entry("ci", TOKEN, rights={"read_only": True}))
    await door.engine.reload_guard()
    assert connected_worker.identity == connected_worker.caller.identity
    assert connected_worker.identity == Identity("ci", Rights(read_only=True), tokens.hashed(TOKEN))
    assert "error" not in await worker.call("state::get", {"scope": "s", "key": "k"})


async def test_a_file_that_cannot_be_used_leaves_everything_as_it_was(door: Door) -> None:
    worker = await door.worker(TOKEN)
    for text in ("tokens: [", "tokens: [{name: ci}]", ""):
        door.file.write_text(text)
        with pytest.raises(ConfigError):
            await door.engine.reload_guard()
    door.file.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        await door.engine.reload_guard()
    assert "error" not in await worker.call("state::get", {"scope": "s", "key": "k"})
    assert (await answer_to(door.place, f"Authorization: Bearer {TOKEN}")).status == 101


async def test_wrong_tokens_are_counted_and_a_good_one_is_never_held_back(door: Door) -> None:
    for _ in range(FREE):
        assert (await answer_to(door.place, f"Authorization: Bearer {OTHER}")).status == 401
    failures = door.engine.guard.failures
    assert len(failures) == 1
    late = asyncio.create_task(answer_to(door.place, f"Authorization: Bearer {OTHER}"))
    await until(lambda: failures.waiting == 1)
    assert (await answer_to(door.place, f"Authorization: Bearer {TOKEN}")).status == 101
    assert (await late).status == 401
    assert failures.waiting == 0


async def test_no_token_is_no_guess(door: Door) -> None:
    for _ in range(FREE + 2):
        assert (await answer_to(door.place)).status == 401
    assert len(door.engine.guard.failures) == 0


async def test_a_token_is_never_in_the_log_nor_in_an_answer(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for token, target in ((TOKEN, "/"), (OTHER, "/"), (TOKEN, "/nowhere"), (OTHER, "/healthz"), (OTHER, "/ws/channels/x")):
        for lines, query in (
            ([f"Authorization: Bearer {token}"], ""),
            ([f"Sec-WebSocket-Protocol: {protocol_of(token)}"], ""),
            ([], f"?access_token={token}"),
            ([f"Authorization: Bearer {token}\x00"], f"?access_token={token}"),
        ):
            answer = await answer_to(door.place, *lines, target=target + query)
            assert token.encode() not in answer.rest or answer.status == 400, "a line is quoted to its own sender only"
    await (await door.worker(TOKEN)).send("nonsense")
    for secret in (TOKEN, OTHER, protocol_of(TOKEN)[7:], protocol_of(OTHER)[7:]):
        assert secret not in caplog.text
        assert secret not in repr(door.engine.guard.settings)
