"""Frames that a worker could not receive are never sent: whoever asked for them hears why."""

from __future__ import annotations

import pytest

from iii_state.engine import Engine
from iii_state.errors import FunctionError
from iii_state.wire import messages
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import Port, RawWorker

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("runtime", "version", "limit"),
    [
        ("python", "0.12.0", MIB),
        ("python", "0.24.4", MIB),
        ("python", "0.9", MIB),
        ("python", "0.24.5", 64 * MIB),
        ("python", "0.25.0", 64 * MIB),
        ("python", "1.0.0", 64 * MIB),
        ("python", "0.23.0-rc.1", MIB),
        ("python", "unknown", 64 * MIB),
        ("node", "0.12.0", 64 * MIB),
        ("", "", 64 * MIB),
    ],
)
def test_what_a_worker_can_receive_follows_from_what_it_says_of_itself(runtime: str, version: str, limit: int) -> None:
    assert messages.max_frame_bytes(runtime, version) == limit


async def old_worker(port: Port) -> RawWorker:
    return await port.connect(runtime="python", version="0.24.4", name="old")


async def test_a_result_that_is_too_large_becomes_an_error(port: Port, module: DictModule) -> None:
    worker = await old_worker(port)
    reply = len(messages.result_frame(b'"x"', b'"state::get"', b'""'))
    for surplus in (0, 1):
        module.values["s"] = {"k": b'"%b"' % (b"x" * (MIB - reply + surplus))}
        outcome = await worker.call("state::get", {"scope": "s", "key": "k"}, invocation_id="x")
        if surplus:
            assert outcome["error"]["code"] == "payload_too_large"
            assert f"{MIB + 1} bytes" in outcome["error"]["message"]
            assert "python SDK 0.24.4" in outcome["error"]["message"]
        else:
            assert len(outcome["result"]) == MIB - reply


async def test_a_late_result_that_is_too_large_becomes_an_error(port: Port, module: DictModule) -> None:
    worker = await old_worker(port)
    await worker.send("invokefunction", function_id="slow::get", data=1, invocation_id="x")
    await worker.settled()
    module.slow[0].set_result(b'"%b"' % (b"x" * MIB))
    assert (await worker.next())["error"]["code"] == "payload_too_large"


async def test_a_call_that_is_too_large_fails_for_its_caller(port: Port, worker: RawWorker, module: DictModule) -> None:
    old = await old_worker(port)
    await old.send("registerfunction", id="f")
    await old.settled()
    assert (await worker.call("f", "x" * MIB))["error"]["code"] == "payload_too_large"
    with pytest.raises(FunctionError) as failed:
        module.host.invoke("f", b'"%b"' % (b"x" * MIB))
    assert failed.value.code == "payload_too_large"
    assert await old.settled() == []


async def test_an_error_that_is_too_large_is_shortened(port: Port, engine: Engine) -> None:
    worker = await old_worker(port)

    def fail(event: object) -> None:
        raise FunctionError("x" * MIB, "y" * MIB, "z" * MIB)

    engine.register_function("fail", fail)
    error = (await worker.call("fail", 1))["error"]
    assert (error["code"], error["message"][:10]) == ("x" * 100, "y" * 10)
    assert error["message"].endswith(f"(cut: {MIB} characters)")


async def test_a_trigger_that_its_provider_cannot_receive_is_refused(port: Port, worker: RawWorker) -> None:
    provider = await old_worker(port)
    await provider.send("registertriggertype", id="my.type", description="x")
    await provider.settled()
    await worker.send("registertrigger", id="t", trigger_type="my.type", function_id="f", config="x" * MIB)
    refused = await worker.next()
    assert refused["error"]["code"] == "payload_too_large"
    assert await provider.settled() == []
