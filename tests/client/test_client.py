"""The client's end of the protocol, against this project's engine and against ports that are no engines."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from iii_state.client.about import About
from iii_state.client.client import Client, Hooks
from iii_state.engine import Engine
from iii_state.errors import ConnectionLost, FunctionError, WorkerRejected
from iii_state.host import Caller, Trigger
from iii_state.tasks.results import Result
from iii_state.values import Json
from tests.support.engines.dict_module import DictModule
from tests.support.engines.processes import free_port
from tests.support.engines.raw_worker import Port, RawWorker
from tests.support.waiting import until

HELLO = b'{"type":"workerregistered","worker_id":"w"}'


@pytest.fixture
async def url(port: Port) -> str:
    return f"ws://{port.host}:{port.port}"


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    async with Client(url, About("the-client")) as client:
        yield client


def echo(data: Json, caller: Caller) -> Result[bytes | None]:
    return bytes(data)


async def test_a_call_gives_the_text_of_the_result(client: Client) -> None:
    await client.call("state::set", b'{"scope":"s","key":"a","value":[1.0,12345678901234567890]}')
    assert await client.call("state::get", b'{"scope":"s","key":"a"}') == b"[1.0,12345678901234567890]"


async def test_an_error_keeps_its_code(client: Client) -> None:
    with pytest.raises(FunctionError) as failed:
        await client.call("no::such", b"{}")
    assert failed.value.code == "function_not_found"


async def test_calls_of_one_turn_are_all_answered_whatever_their_size(client: Client) -> None:
    client.serving.register_function("mine::echo", echo)
    sizes = (0, 1, 125, 126, 65_535, 65_536, 1_000_000)
    texts = [json.dumps("x" * size).encode() for size in sizes]
    assert await asyncio.gather(*(client.call("mine::echo", text) for text in texts)) == texts


async def test_a_function_fails_with_its_own_code(client: Client, url: str) -> None:
    def refuse(data: Json, caller: Caller) -> Result[bytes | None]:
        raise FunctionError("VALUE_TOO_LARGE", "so it is")

    client.serving.register_function("refuse", refuse)
    with pytest.raises(FunctionError) as failed:
        await client.call("refuse", b"{}")
    assert (failed.value.code, failed.value.message) == ("VALUE_TOO_LARGE", "so it is")


async def test_a_function_that_is_served_no_more_is_not_found(client: Client) -> None:
    client.serving.register_function("mine::echo", echo)
    assert await client.call("mine::echo", b"1") == b"1"
    client.serving.unregister_function("mine::echo")
    with pytest.raises(FunctionError, match="function_not_found"):
        await client.call("mine::echo", b"1")


class Provider:
    """Keeps what it is told; refuses a config that says so."""

    def __init__(self) -> None:
        self.bound: dict[str, Trigger] = {}

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> Result[None]:
        if trigger.config == b'"bad"':
            raise FunctionError("trigger_registration_failed", "a bad config")
        self.bound[trigger.id] = trigger
        return None

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> Result[None]:
        del self.bound[trigger.id]
        return None


async def test_a_provided_trigger_type_is_told_of_triggers(client: Client, url: str) -> None:
    provider = Provider()
    client.serving.register_trigger_type("moon", provider, "The moon")
    async with Client(url, About("a-consumer")) as consumer:
        first = await consumer.triggers.register("moon", "f", {"full": True}, metadata=b'{"m":1}')
        await until(lambda: first in provider.bound)
        assert (provider.bound[first].config, provider.bound[first].metadata) == (b'{"full":true}', b'{"m":1}')
        second = await consumer.triggers.register("moon", "f", {})
        await until(lambda: second in provider.bound)
        consumer.triggers.unregister(second, "moon")
        await until(lambda: second not in provider.bound)
    await until(lambda: not provider.bound)


class Slow:
    """A provider whose registrations last until they are let through; it notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open: list[asyncio.Future[None]] = []

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> Result[None]:
        self.asked.append(f"register {trigger.id}")
        self.open.append(asyncio.get_running_loop().create_future())
        return self.open[-1]

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> Result[None]:
        self.asked.append(f"unregister {trigger.id} {'away' if disconnected else 'asked for'}")
        return None


async def test_a_trigger_that_is_let_go_while_it_is_registered_is_let_go_afterwards(client: Client, worker: RawWorker) -> None:
    slow = Slow()
    client.serving.register_trigger_type("moon", slow, "The moon")
    await client.call("engine::triggers::list", b"{}")
    await worker.send("registertrigger", id="t", trigger_type="moon", function_id="f", config={})
    await until(lambda: bool(slow.open))
    await worker.send("unregistertrigger", id="t", trigger_type="moon")
    await worker.settled()
    await client.call("engine::triggers::list", b"{}")  # what the engine had sent before has arrived
    assert slow.asked == ["register t"]
    slow.open[0].set_result(None)
    await until(lambda: slow.asked[1:] == ["unregister t asked for"])


async def test_a_call_behind_a_trigger_waits_until_it_is_registered(client: Client, worker: RawWorker) -> None:
    slow = Slow()
    called: list[str] = []

    def note(data: Json, caller: Caller) -> Result[bytes | None]:
        called.append(bytes(data).decode())
        return None

    client.serving.register_trigger_type("moon", slow, "The moon")
    client.serving.register_function("note", note)
    await client.call("engine::triggers::list", b"{}")
    invoke = {"function_id": "note", "action": {"type": "void"}}
    await worker.send("invokefunction", **invoke, data=0)
    for number in (1, 2):
        await worker.send("registertrigger", id=f"t{number}", trigger_type="moon", function_id="f", config={})
        await worker.send("invokefunction", **invoke, data=number)
    await until(lambda: len(slow.open) == 2)
    await client.call("engine::triggers::list", b"{}")
    assert called == ["0"]
    slow.open[1].set_result(None)
    await client.call("engine::triggers::list", b"{}")
    assert called == ["0"]
    slow.open[0].set_result(None)
    await until(lambda: called == ["0", "1", "2"])


async def test_a_provider_is_told_whether_a_worker_let_its_trigger_go_or_is_away(client: Client, port: Port) -> None:
    slow = Slow()
    client.serving.register_trigger_type("moon", slow, "The moon")
    worker = await port.connect()
    for trigger_id in ("let-go", "left"):
        await worker.send("registertrigger", id=trigger_id, trigger_type="moon", function_id="f", config={})
        await until(partial(slow.asked.count, f"register {trigger_id}"))
        slow.open[-1].set_result(None)
    await worker.send("unregistertrigger", id="let-go")
    await worker.settled()
    await worker.socket.close()
    await until(lambda: slow.asked[2:] == ["unregister let-go asked for", "unregister left away"])


async def test_a_refused_trigger_raises_at_whoever_registers_it(client: Client) -> None:
    with pytest.raises(FunctionError, match="trigger_registration_failed"):
        await client.triggers.register("state", "f", "bad")


async def test_a_large_message_leaves_in_frames_that_a_stock_engine_takes() -> None:
    seen: list[tuple[int, int]] = []
    whole = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = next(line[19:] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        accepted = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accepted)
        while sum(size for _, size in seen) < 40_000_000:
            first, size = await reader.readexactly(2)
            size &= 0x7F
            if size >= 126:
                size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
            await reader.readexactly(4 + size)
            seen.append((first, size))
        whole.set_result(None)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20) as server:
        port = server.sockets[0].getsockname()[1]
        async with Client(f"ws://127.0.0.1:{port}", About("large")) as client:
            client.call("f", b'"%b"' % (b"x" * 40_000_000))
            async with asyncio.timeout(30):
                await whole
    large = [(first, size) for first, size in seen if size > 1000]
    assert [first for first, _ in large] == [0x01] + [0x00] * (len(large) - 2) + [0x80]
    assert max(size for _, size in large) <= 16 * 2**20


@pytest.fixture
def starts(module: DictModule) -> Callable[[int], Any]:
    async def start(port: int) -> Engine:
        engine = await Engine().__aenter__()
        await engine.add_module(DictModule())
        await engine.serve("127.0.0.1", port)
        return engine

    return start


async def test_a_client_that_reconnects_registers_everything_again(starts: Callable[[int], Any]) -> None:
    port = free_port()
    greetings = 0

    async def greet() -> None:
        nonlocal greetings
        await returning.call("state::set", b'{"scope":"s","key":"greeted","value":true}', ahead=True)
        greetings += 1

    lost = asyncio.Event()
    provider = Provider()
    returning = Client(f"ws://127.0.0.1:{port}", About("comes-back"), reconnects=True, hooks=Hooks(greet, lost.set))
    async with returning:
        returning.serving.register_function("mine::echo", echo)
        returning.serving.register_trigger_type("moon", provider, "The moon")
        early = returning.call("mine::echo", b'"waits for the engine"')
        assert returning.connection.trouble
        engine = await starts(port)
        assert await early == b'"waits for the engine"'
        trigger_id = await returning.triggers.register("moon", "mine::echo", {})
        await until(lambda: trigger_id in provider.bound)
        await engine.__aexit__(None, None, None)
        await lost.wait()
        assert not provider.bound
        engine = await starts(port)
        assert await returning.call("mine::echo", b"2") == b"2"
        await until(lambda: trigger_id in provider.bound)
        assert greetings == 2
        assert returning.connection.trouble is None
        await engine.__aexit__(None, None, None)


async def test_a_call_on_its_way_when_the_connection_is_lost_says_so(engine: Engine, module: DictModule, client: Client) -> None:
    call = client.call("slow::get", b"{}")
    await until(lambda: bool(module.slow))
    for worker in engine.workers:
        worker.link.abort()
    with pytest.raises(ConnectionLost) as lost:
        await call
    assert lost.value.sent
    with pytest.raises(ConnectionLost):
        await client.closed()
    with pytest.raises(ConnectionLost) as lost:
        await client.call("state::get", b"{}")
    assert not lost.value.sent


async def test_calls_beyond_the_bound_wait_for_their_turn(url: str) -> None:
    running, most = 0, 0

    async def slowly(data: Json) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return bytes(data)

    async with Client(url, About("bounded"), max_in_flight=4) as client:
        client.serving.register_function("slow", lambda data, caller: asyncio.ensure_future(slowly(data)))
        answers = await asyncio.gather(*(client.call("slow", b"%d" % number) for number in range(100)))
    assert answers == [b"%d" % number for number in range(100)]
    assert 1 <= most <= 4


async def test_calls_that_wait_for_their_turn_get_it_when_those_before_them_are_given_up(url: str) -> None:
    never = asyncio.get_running_loop().create_future()
    async with Client(url, About("bounded"), max_in_flight=2) as client:
        client.serving.register_function("hang", lambda data, caller: never)
        hanging = [client.call("hang", b"{}") for _ in range(2)]
        waiting = client.call("state::get", b'{"scope":"s","key":"k"}')
        for call in hanging:
            call.cancel()
        assert await asyncio.wait_for(waiting, 10) is None


@pytest.mark.parametrize("error", [r'{"code":"x","message":"\ud800"}', "1e999", "[" * 5000 + "]" * 5000])
async def test_an_answer_whose_error_cannot_be_read_ends_its_call(error: str) -> None:
    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(HELLO.decode())
        async for message in socket:
            about = f'"invocation_id":"{json.loads(message.data)["invocation_id"]}","function_id":"f"'
            await socket.send_str(f'{{"type":"invocationresult",{about},"error":{error}}}')
        return socket

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with Client(f"ws://127.0.0.1:{runner.addresses[0][1]}") as client:
            with pytest.raises(FunctionError, match="invocation_"):
                await asyncio.wait_for(client.call("f", b"{}"), 10)
    finally:
        await runner.cleanup()


async def test_calls_that_nothing_answers_end_with_a_reason() -> None:
    async with Client(f"ws://127.0.0.1:{free_port()}", reconnects=True, call_seconds=0.5) as client:
        with pytest.raises(FunctionError, match=r"TIMEOUT.*no iii engine answers at"):
            await client.call("state::get", b"{}")


async def test_where_nobody_listens_entering_fails() -> None:
    with pytest.raises(ConnectionLost, match="no iii engine answers at"):
        async with Client(f"ws://127.0.0.1:{free_port()}"):
            pass


async def test_a_port_that_speaks_no_websocket_is_named(port: Port) -> None:
    with pytest.raises(ConnectionLost, match="HTTP status 404"):
        async with Client(f"ws://{port.host}:{port.port}/nowhere"):
            pass


async def test_an_engine_that_rejects_the_worker_ends_it() -> None:
    async def reject(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = b'{"type":"error","error":{"code":"AUTH_ERROR","message":"no token"}}'
        await _accept(reader, writer)
        writer.write(bytes((0x81, len(text))) + text + b"\x88\x00")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(reject, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Client(f"ws://127.0.0.1:{port}", reconnects=True) as client:
        with pytest.raises(WorkerRejected, match="AUTH_ERROR: no token"):
            await client.closed()


async def test_frames_that_mean_nothing_are_passed_over() -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _accept(reader, writer)
        for text in (b'{"type":"unheardof"}', b"no json", b"[]", b'{"type":"invocationresult"}', HELLO):
            writer.write(bytes((0x81, len(text))) + text)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(odd, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Client(f"ws://127.0.0.1:{port}") as client:
        await until(lambda: client.connection.worker_id == "w")


async def _accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    from iii_state.wire.handshake import _accepted

    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    key = next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key"))
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % _accepted(key).encode()
    )
