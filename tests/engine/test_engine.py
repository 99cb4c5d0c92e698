"""The engine inside a Python process: functions, triggers and modules without a port."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from iii_state.engine import Engine
from iii_state.errors import ConfigError, FunctionError
from iii_state.host import Host
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import Port
from tests.support.waiting import until


async def test_functions_take_and_return_python_objects(engine: Engine) -> None:
    value = {"a": [1.0, 2**70, None], "ü": "😀"}
    stored = await engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": value}})
    assert stored == {"old_value": None, "new_value": value}
    assert await engine.trigger({"function_id": "state::get", "payload": {"scope": "s", "key": "k"}}) == value
    assert await engine.trigger({"function_id": "state::get", "payload": {"scope": "s", "key": "none"}}) is None


async def test_python_functions_are_plain_or_async_with_or_without_metadata(engine: Engine) -> None:
    async def later(event: Any) -> Any:
        await asyncio.sleep(0)
        return {"later": event}

    async def with_metadata(event: Any, metadata: Any) -> Any:
        return [event, metadata]

    def optional(event: Any, metadata: Any = "default") -> Any:
        return [event, metadata]

    def other_default(event: Any, other: int = 3) -> Any:
        return [event, other]

    for function in (later, with_metadata, optional, other_default):
        engine.register_function(function.__name__, function)
    engine.register_function("plain", lambda event: event)
    request = {"payload": 1, "metadata": {"m": 1}}
    assert await engine.trigger({"function_id": "plain", **request}) == 1
    assert await engine.trigger({"function_id": "later", **request}) == {"later": 1}
    assert await engine.trigger({"function_id": "with_metadata", **request}) == [1, {"m": 1}]
    assert await engine.trigger({"function_id": "with_metadata", "payload": 1}) == [1, None]
    assert await engine.trigger({"function_id": "optional", **request}) == [1, {"m": 1}]
    assert await engine.trigger({"function_id": "other_default", **request}) == [1, 3]
    assert await engine.trigger({"function_id": "plain"}) is None


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_a_python_function_raises_reaches_the_caller(engine: Engine, is_async: bool) -> None:
    def fail(event: Any) -> Any:
        raise FunctionError("MY_CODE", "words") if event == "code" else ValueError("boom")

    async def fail_later(event: Any) -> Any:
        return fail(event)

    engine.register_function("fail", fail_later if is_async else fail)
    with pytest.raises(FunctionError) as failed:
        await engine.trigger({"function_id": "fail", "payload": "code"})
    assert (failed.value.code, failed.value.message) == ("MY_CODE", "words")
    with pytest.raises(FunctionError) as failed:
        await engine.trigger({"function_id": "fail", "payload": None})
    assert (failed.value.code, failed.value.message) == ("invocation_failed", "boom")
    assert failed.value.stacktrace is not None
    assert "ValueError" in failed.value.stacktrace


@pytest.mark.parametrize("result", [float("nan"), object(), "\ud800"])
async def test_a_result_that_is_no_json_is_an_error(engine: Engine, result: Any) -> None:
    async def later(event: Any) -> Any:
        return result

    engine.register_function("plain", lambda event: result)
    engine.register_function("later", later)
    for function_id in ("plain", "later"):
        with pytest.raises(FunctionError, match="invocation_failed"):
            await engine.trigger({"function_id": function_id, "payload": 1})


async def test_errors_of_builtins_and_of_payloads_that_are_no_json(engine: Engine) -> None:
    with pytest.raises(FunctionError, match="MY_CODE"):
        await engine.trigger({"function_id": "state::fail", "payload": "code"})
    with pytest.raises(FunctionError, match="invocation_failed: boom"):
        await engine.trigger({"function_id": "state::fail", "payload": 1})
    with pytest.raises(FunctionError, match="deserialization_error"):
        await engine.trigger({"function_id": "state::get", "payload": float("inf")})
    for request in ({"function_id": "nope", "payload": 1}, {"function_id": "state::get", "namespace": "mine"}):
        with pytest.raises(FunctionError, match="function_not_found"):
            await engine.trigger(request)


async def test_a_void_call_returns_at_once_and_its_errors_are_logged(
    engine: Engine, module: DictModule, caplog: pytest.LogCaptureFixture
) -> None:
    void = {"payload": 1, "action": {"type": "void"}}
    assert await engine.trigger({"function_id": "slow::get", **void}) is None
    module.slow[0].set_exception(FunctionError("LATE", "words"))
    with caplog.at_level(logging.WARNING):
        await engine.trigger({"function_id": "state::fail", **void})
        await engine.trigger({"function_id": "nope", **void})
        await until(lambda: "LATE" in caplog.text)
    assert "boom" in caplog.text
    assert "function_not_found" in caplog.text


async def test_a_call_has_its_own_timeout(engine: Engine, module: DictModule) -> None:
    with pytest.raises(FunctionError, match="TIMEOUT"):
        await engine.trigger({"function_id": "slow::get", "payload": 1, "timeout_ms": 1})
    assert module.slow[0].cancelled()


async def test_the_engines_timeout_ends_a_python_function() -> None:
    cancelled = asyncio.Event()

    async def hang(event: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with Engine(call_timeout=0.0) as engine:
        engine.register_function("hang", hang)
        call = asyncio.ensure_future(engine.trigger({"function_id": "hang", "payload": 1}))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        engine.sweep()
        with pytest.raises(FunctionError, match="TIMEOUT"):
            await call
        await asyncio.wait_for(cancelled.wait(), 10)


async def test_giving_a_call_up_cancels_the_python_function(engine: Engine, module: DictModule) -> None:
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def hang(event: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    engine.register_function("hang", hang)
    answer = module.host.invoke("hang", b"1")
    assert isinstance(answer, asyncio.Future)
    await started.wait()
    answer.cancel()
    await asyncio.wait_for(cancelled.wait(), 10)


async def test_registering_an_id_again_replaces_and_a_stale_handle_does_nothing(engine: Engine, module: DictModule) -> None:
    first = engine.register_function("f", lambda event: 1)
    second = engine.register_function("f", lambda event: 2)
    first.unregister()
    assert await engine.trigger({"function_id": "f", "payload": None}) == 2
    second.unregister()
    assert not module.host.has_function("f")
    with pytest.raises(ValueError, match="built in"):
        engine.register_function("state::get", lambda event: 1)
    with pytest.raises(ValueError, match="already built in"):
        module.host.register_function("state::get", module.get)


async def test_a_trigger_runs_a_python_function_until_it_is_unregistered(engine: Engine) -> None:
    seen: list[tuple[Any, Any]] = []
    engine.register_function("on_change", lambda event, metadata: seen.append((event, metadata)))
    trigger = await engine.register_trigger({"type": "state", "function_id": "on_change", "config": {}, "metadata": {"m": 1}})
    write = {"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": 7}}
    await engine.trigger(write)
    await trigger.unregister()
    await engine.trigger(write)
    assert seen == [(7, {"m": 1})]
    with pytest.raises(FunctionError, match="Failed to parse trigger config"):
        await engine.register_trigger({"type": "state", "function_id": "on_change", "config": "bad"})


async def test_registering_a_trigger_returns_when_its_provider_has_it(engine: Engine, module: DictModule) -> None:
    module.registrations = []
    registering = asyncio.ensure_future(engine.register_trigger({"type": "state", "function_id": "f"}))
    pending = module.registrations
    await until(lambda: len(pending) == 1)
    assert not registering.done()
    pending[0].set_result(None)
    trigger = await registering
    assert set(module.triggers) == {trigger.id}


class Recorder:
    """A module that notes when it is started and stopped."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    async def start(self, host: Host) -> None:
        self.host = host
        host.register_function(f"{self.name}::f", lambda data, caller: b"1")
        self.log.append(f"start {self.name}")

    async def stop(self) -> None:
        assert self.host.has_function("a::f"), "the first module is there while the others stop"
        self.log.append(f"stop {self.name}")
        if self.name == "b":
            raise RuntimeError("cannot stop")

    async def health(self) -> str | None:
        return None


async def test_modules_stop_in_reverse_order_and_one_that_fails_stops_no_other() -> None:
    log: list[str] = []
    async with Engine() as engine:
        for name in ("a", "b", "c"):
            await engine.add_module(Recorder(name, log))
    assert log == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


async def test_a_module_that_cannot_start_leaves_nothing_behind(engine: Engine) -> None:
    class Broken(Recorder):
        async def start(self, host: Host) -> None:
            await super().start(host)
            host.register_trigger_type("broken", DictModule(), description="x")
            raise ConfigError("no such key")

    with pytest.raises(ConfigError):
        await engine.add_module(Broken("z", []))
    assert engine.functions.get("default", "z::f") is None
    assert "broken" not in {served.id for served in engine.triggers.types}


async def test_an_engine_serves_several_ports_and_stops_with_1012_after_its_modules(module: DictModule, port: Port) -> None:
    async with Engine() as engine:
        mine = DictModule()
        await engine.add_module(mine)
        ports = [Port(port.session, *await engine.serve("127.0.0.1", 0)) for _ in range(2)]
        workers = [await there.connect() for there in ports]
        await workers[0].send("registerfunction", id="f")
        await workers[0].settled()
        leaving = [asyncio.ensure_future(worker.closed()) for worker in workers]
    assert mine.stopped
    assert await asyncio.gather(*leaving) == [1012, 1012]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(ports[0].host, ports[0].port)


async def test_a_worker_that_reattaches_takes_its_dead_half_down(port: Port, engine: Engine) -> None:
    old, new = await port.connect(), await port.connect()
    await old.send("registerfunction", id="f")
    await old.settled()
    await new.send("reattach", previous_worker_id=old.id, reattach_token="wrong")
    await new.send("reattach", previous_worker_id="unknown")
    await new.settled()
    assert len(engine.workers) == 2
    await new.send("reattach", previous_worker_id=old.id, reattach_token=old.hello["reattach_token"])
    await new.send("registerfunction", id="f")
    await new.settled()
    assert [worker.id for worker in engine.workers] == [new.id]
    assert (await engine.trigger({"function_id": "engine::functions::info", "payload": {"function_id": "f"}}))["function_id"] == "f"


async def test_two_thousand_connections_that_come_and_go_leave_nothing_behind(port: Port, engine: Engine) -> None:
    async def visit(number: int) -> None:
        worker = await port.connect()
        await worker.send("registerfunction", id=f"f{number}")
        await worker.send("registertrigger", id=f"t{number}", trigger_type="state", function_id=f"f{number}")
        assert (await worker.call("echo", number))["result"]["data"] == number
        if number % 2:
            await worker.socket.close()
        else:
            worker.socket._conn.transport.abort()  # type: ignore[union-attr]

    for start in range(0, 2000, 100):
        await asyncio.gather(*(visit(number) for number in range(start, start + 100)))
    await until(lambda: len(engine.workers) == 0)
    assert list(engine.triggers) == []
    assert engine.functions.get("default", "f1") is None
    await until(lambda: len(engine.server) == 0)
