"""Triggers over a port: providers in the engine and in workers, waiting, replacing, refusing, letting go."""

from __future__ import annotations

import asyncio

import pytest

from iii_state.engine import Engine
from iii_state.host import Host, Trigger
from iii_state.wire.messages import OURS
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import Port, RawWorker
from tests.support.waiting import until


@pytest.fixture
async def worker(port: Port) -> RawWorker:
    """One that has introduced itself, so that its triggers are bound as they come."""
    return await port.connect(namespace=None)


@pytest.fixture
async def other(port: Port) -> RawWorker:
    return await port.connect(namespace=None)


@pytest.fixture
async def newcomer(port: Port) -> RawWorker:
    """One that has not introduced itself."""
    return await port.connect()


async def register(worker: RawWorker, trigger_id: str = "t", trigger_type: str = "state", **members: object) -> None:
    await worker.send("registertrigger", id=trigger_id, trigger_type=trigger_type, function_id="f", **members)


async def test_a_trigger_reaches_the_module_that_provides_its_type_and_success_is_silent(
    worker: RawWorker, module: DictModule
) -> None:
    await register(worker, config={"scope": "s"}, metadata={"m": 1}, message_type="registertrigger")
    assert await worker.settled() == []
    assert module.triggers["t"] == Trigger("t", "state", "f", b'{"scope": "s"}', b'{"m": 1}', "default")


async def test_null_and_absent_configs_and_metadata_are_none(worker: RawWorker, module: DictModule) -> None:
    await register(worker, "a")
    await register(worker, "b", config=None, metadata=None)
    await worker.settled()
    assert [(trigger.config, trigger.metadata) for trigger in module.triggers.values()] == [(None, None)] * 2


async def test_a_handler_gets_the_event_with_the_triggers_metadata(worker: RawWorker, other: RawWorker) -> None:
    await worker.send("registerfunction", id="f")
    await register(worker, config={}, metadata={"m": 1})
    await worker.settled()
    await other.call("state::set", {"scope": "s", "key": "k", "value": {"a": 1}})
    event = await worker.next()
    assert event["data"] == {"a": 1}  # the engine's own calls have no caller
    assert event["metadata"] == {"m": 1}


async def test_a_config_that_the_provider_refuses_is_answered_and_forgotten(worker: RawWorker, engine: Engine) -> None:
    await register(worker, config="bad")
    refused = (await worker.settled())[0]
    assert refused["type"] == "triggerregistrationresult"
    assert (refused["id"], refused["trigger_type"], refused["function_id"]) == ("t", "state", "f")
    assert refused["error"]["code"] == "trigger_registration_failed"
    assert refused["error"]["message"].startswith("Failed to parse trigger config")
    assert list(engine.triggers) == []


async def test_registering_the_same_id_again_replaces(worker: RawWorker, module: DictModule) -> None:
    await register(worker, config={"scope": "a"})
    await register(worker, config={"scope": "a"})
    await register(worker, config={"scope": "b"})
    await worker.settled()
    assert module.triggers["t"].config == b'{"scope": "b"}'
    assert module.log == [("register", "t"), ("replace", "t"), ("register", "t"), ("replace", "t"), ("register", "t")]


async def test_a_trigger_goes_when_it_is_unregistered_by_its_worker_and_when_that_leaves(
    worker: RawWorker, other: RawWorker, module: DictModule, engine: Engine
) -> None:
    await register(worker, "a")
    await register(worker, "b")
    await worker.settled()
    await other.send("unregistertrigger", id="a", trigger_type="state")
    await other.settled()
    assert set(module.triggers) == {"a", "b"}
    await worker.send("unregistertrigger", id="a")
    await worker.settled()
    assert module.log[-1] == ("unregister", "a")
    await worker.socket.close()
    await until(lambda: len(engine.workers) == 1)
    assert module.log[-1] == ("disconnected", "b")
    assert module.triggers == {}


async def test_a_worker_that_left_does_not_take_the_trigger_of_its_successor_along(
    worker: RawWorker, other: RawWorker, module: DictModule, engine: Engine
) -> None:
    await register(worker)
    await worker.settled()
    await register(other)
    await other.settled()
    (successor,) = set(module.triggers) - {"t"}
    await worker.socket.close()
    await until(lambda: len(engine.workers) == 1)
    assert set(module.triggers) == {successor}
    assert module.log == [("register", "t"), ("register", successor), ("disconnected", "t")]


async def test_a_call_waits_for_registrations_before_it_which_run_together_and_hold_up_nobody_else(
    worker: RawWorker, other: RawWorker, module: DictModule
) -> None:
    module.registrations = []
    for name in ("a", "b", "c"):
        await register(worker, name)
    await worker.send("registerfunction", id="f")
    await worker.send("invokefunction", function_id="echo", data=1, invocation_id="behind")
    await worker.send("invokefunction", function_id="echo", data=2, invocation_id="last")
    assert (await other.call("echo", 1))["result"]["data"] == 1
    pending = module.registrations
    await until(lambda: len(pending) == 3)
    pending[0].set_result(None)
    pending[2].set_result(None)
    assert (await other.call("echo", 1))["result"]["data"] == 1
    pending[1].set_result(None)
    answers = [await worker.next(), await worker.next()]
    assert [answer["invocation_id"] for answer in answers] == ["behind", "last"]
    assert set(module.triggers) == {"a", "b", "c"}


async def test_a_registration_that_fails_later_is_answered_and_the_calls_behind_it_go_on(
    worker: RawWorker, module: DictModule, engine: Engine
) -> None:
    module.registrations = []
    await register(worker)
    await worker.send("invokefunction", function_id="echo", data=1, invocation_id="x")
    pending = module.registrations
    await until(lambda: len(pending) == 1)
    pending[0].set_exception(RuntimeError("the store is away"))
    frames = [await worker.next(), await worker.next()]
    assert [frame["type"] for frame in frames] == ["triggerregistrationresult", "invocationresult"]
    assert frames[0]["error"] == {"code": "trigger_registration_failed", "message": "the store is away"}
    assert list(engine.triggers) == []


async def test_a_registration_that_never_ends_does_not_hold_its_worker_for_ever(port: Port, module: DictModule) -> None:
    async with Engine(call_timeout=0.0) as engine:
        await engine.add_module(module)
        there = Port(port.session, *await engine.serve("127.0.0.1", 0))
        worker = await there.connect()
        module.registrations = []
        await register(worker)
        await worker.send("invokefunction", function_id="echo", data=1, invocation_id="x")
        pending = module.registrations
        await until(lambda: len(pending) == 1)
        engine.workers.sweep()
        assert (await worker.next())["invocation_id"] == "x"


async def test_a_worker_that_leaves_in_mid_registration_lets_the_trigger_go_afterwards(
    worker: RawWorker, module: DictModule, engine: Engine
) -> None:
    module.registrations = []
    await register(worker)
    pending = module.registrations
    await until(lambda: len(pending) == 1)
    await worker.socket.close()
    await until(lambda: len(engine.workers) == 0)
    assert module.log == [("register", "t")]
    pending[0].set_result(None)
    await engine.triggers.settled()
    assert module.log == [("register", "t"), ("disconnected", "t")]
    assert module.triggers == {}


async def introduce(worker: RawWorker, namespace: str | None = None) -> None:
    answer = await worker.call("engine::workers::register", {"namespace": namespace})
    assert "error" not in answer, answer


async def test_a_trigger_is_bound_where_its_worker_turns_out_to_belong(newcomer: RawWorker, module: DictModule) -> None:
    await register(newcomer)
    assert await newcomer.settled() == []
    assert module.log == []
    await introduce(newcomer, "n")
    assert module.log == [("register", "t")]
    assert module.triggers["t"].namespace == "n"


async def test_a_trigger_with_both_namespaces_is_bound_at_once(newcomer: RawWorker, module: DictModule) -> None:
    await register(newcomer, namespace="n", trigger_namespace="default")
    await register(newcomer, "home", namespace="n")
    await newcomer.settled()
    assert list(module.triggers) == ["t"]
    await register(newcomer, "home", namespace="m", trigger_namespace="default")  # behind the one before
    await newcomer.settled()
    assert list(module.triggers) == ["t"]
    await introduce(newcomer, "n")
    assert module.log == [("register", "t"), ("register", "home"), ("replace", "home"), ("register", "home")]
    assert module.triggers["home"].namespace == "m"


async def test_what_waits_for_an_introduction_happens_in_order(newcomer: RawWorker, module: DictModule) -> None:
    for config in ("a", "b"):
        await register(newcomer, config={"scope": config})
        await newcomer.send("unregistertrigger", id="t")
    await register(newcomer, config={"scope": "c"})
    await register(newcomer, "gone")
    await newcomer.send("unregistertrigger", id="gone")
    await register(newcomer, "wrong", config="bad")
    assert await newcomer.settled() == []
    await introduce(newcomer)
    assert (await newcomer.next())["id"] == "wrong"
    assert module.log == [
        *([("register", "t"), ("unregister", "t")] * 2),
        ("register", "t"),
        *[(do, "gone") for do in ("register", "unregister")],
    ]
    assert module.triggers["t"].config == b'{"scope": "c"}'


async def test_an_introduction_and_calls_are_answered_when_the_triggers_before_them_are_bound(
    newcomer: RawWorker, module: DictModule
) -> None:
    pending: list[asyncio.Future[None]] = []
    module.registrations = pending
    await register(newcomer)
    await newcomer.send("invokefunction", function_id="engine::workers::register", data={}, invocation_id="introduced")
    await newcomer.send("invokefunction", function_id="echo", data=1, invocation_id="behind")
    await until(lambda: len(pending) == 1)
    pending[0].set_exception(RuntimeError("the store is away"))
    frames = [await newcomer.next() for _ in range(3)]
    assert frames[0]["type"] == "triggerregistrationresult"
    assert {frame["invocation_id"] for frame in frames[1:]} == {"introduced", "behind"}


async def test_calls_of_a_worker_that_never_introduces_itself_wait_for_its_triggers(
    newcomer: RawWorker, module: DictModule
) -> None:
    await register(newcomer)
    await newcomer.call("echo", 1)
    assert module.triggers["t"].namespace == "default"


async def test_a_worker_that_goes_before_it_has_introduced_itself_leaves_nothing(
    newcomer: RawWorker, module: DictModule, engine: Engine
) -> None:
    await register(newcomer)
    await newcomer.settled()
    (left,) = engine.workers
    await newcomer.socket.close()
    await until(lambda: len(engine.workers) == 0)
    left.registers()  # what the time that it has would do
    assert module.log == []
    assert list(engine.triggers) == []


async def test_a_worker_that_goes_on_registering_settles_all_the_same(
    newcomer: RawWorker, module: DictModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iii_state.engine.workers.worker.DESCRIBES_ITSELF_WITHIN_SECONDS", 1)
    await register(newcomer)
    async with asyncio.timeout(10):
        while "t" not in module.triggers:
            await newcomer.send("registerfunction", id="g")
            await newcomer.settled()


async def test_unregistering_after_a_refusal_ends_what_the_id_stood_for_before(worker: RawWorker, module: DictModule) -> None:
    await register(worker, config={"scope": "s"})
    for _ in range(2):
        await register(worker, config="bad")
        await worker.expect("triggerregistrationresult")
    module.log.clear()
    await worker.send("unregistertrigger", id="t")
    await worker.send("unregistertrigger", id="t")
    assert await worker.settled() == []
    (registered, ended) = module.log
    assert (registered[0], ended[0]) == ("register", "unregister")
    assert registered[1] == ended[1]
    assert module.triggers == {}


async def test_unregistering_after_a_refusal_leaves_the_trigger_of_another_worker_alone(
    worker: RawWorker, other: RawWorker, module: DictModule
) -> None:
    await register(worker, config={"scope": "s"})
    await register(worker, config="bad")
    await worker.expect("triggerregistrationresult")
    await register(other, config={"scope": "s"})
    await other.settled()
    await worker.send("unregistertrigger", id="t")
    await worker.settled()
    assert list(module.triggers) == ["t"]


async def test_a_workers_refusal_does_not_hide_what_the_id_stood_for_before(worker: RawWorker, port: Port) -> None:
    provider = await port.connect(features=[OURS])
    await provider.send("registertriggertype", id="my.type", description="x")
    await provider.settled()
    for config in (1, 2):
        await register(worker, "t", "my.type", config=config)
        await provider.expect("registertrigger", config=config)
    error = {"code": "trigger_registration_failed", "message": "nope"}
    await provider.send("triggerregistrationresult", id="t", trigger_type="my.type", function_id="f", error=error)
    await worker.expect("triggerregistrationresult")
    await worker.send("unregistertrigger", id="t")
    again = await provider.expect("registertrigger", config=1)
    assert (await provider.expect("unregistertrigger", id=again["id"]))["disconnected"] is False


async def test_a_trigger_of_a_type_that_nobody_provides_waits_for_one(worker: RawWorker, other: RawWorker, engine: Engine) -> None:
    await register(worker, "t", "my.type", config={"q": 0}, metadata={"m": 1})
    assert await worker.settled() == []
    await other.send("registertriggertype", id="my.type", description="x")
    handed = await other.next()
    assert handed == {
        "type": "registertrigger",
        "id": "t",
        "trigger_type": "my.type",
        "function_id": "f",
        "config": {"q": 0},
        "metadata": {"m": 1},
    }
    await register(worker, "u", "my.type")
    assert await other.next() == {
        "type": "registertrigger",
        "id": "u",
        "trigger_type": "my.type",
        "function_id": "f",
        "config": None,
    }
    await worker.send("unregistertrigger", id="u", trigger_type="my.type")
    assert await other.next() == {"type": "unregistertrigger", "id": "u", "trigger_type": "my.type"}
    await worker.socket.close()
    assert await other.next() == {"type": "unregistertrigger", "id": "t", "trigger_type": "my.type"}


async def test_a_refusal_of_a_worker_that_provides_the_type_is_passed_on_and_success_is_not(
    worker: RawWorker, other: RawWorker
) -> None:
    await other.send("registertriggertype", id="my.type", description="x")
    await other.settled()
    await register(worker, "t", "my.type")
    await worker.settled()
    result = {"id": "t", "trigger_type": "my.type", "function_id": "f"}
    await other.send("triggerregistrationresult", **result)
    await worker.send("triggerregistrationresult", **result, error={"code": "x", "message": "from a stranger"})
    await other.settled()
    assert await worker.settled() == []
    error = {"code": "trigger_registration_failed", "message": "nope"}
    await other.send("triggerregistrationresult", **result, error=error)
    assert await worker.next() == {"type": "triggerregistrationresult", **result, "error": error}


async def test_triggers_wait_again_when_their_provider_leaves_and_follow_the_next(
    worker: RawWorker, other: RawWorker, port: Port
) -> None:
    await register(worker, "t", "my.type")
    second = await port.connect()
    await other.send("registertriggertype", id="my.type", description="x")
    assert (await other.next())["id"] == "t"
    await second.send("registertriggertype", id="my.type", description="x")
    assert [frame["type"] for frame in await second.settled()] == ["registrationrejected"]
    await other.socket.close()
    assert (await second.expect("registertrigger"))["id"] == "t"
    await second.send("unregistertriggertype", id="my.type", trigger_type="my.type")
    await second.settled()
    await second.send("registertriggertype", id="my.type", description="x")
    assert (await second.next())["id"] == "t"


async def test_a_provider_that_registers_its_type_again_gets_its_triggers_again(worker: RawWorker, other: RawWorker) -> None:
    await register(worker, "t", "my.type")
    await worker.settled()
    for _ in range(2):
        await other.send("registertriggertype", id="my.type", description="x")
        assert (await other.next())["id"] == "t"


async def test_a_provider_from_which_a_module_takes_its_type_hears_of_it(port: Port, engine: Engine) -> None:
    class Newcomer(DictModule):
        async def start(self, host: Host) -> None:
            host.register_trigger_type("my.type", self, description="mine now")

    provider = await port.connect(features=[OURS])
    await provider.send("registertriggertype", id="my.type", description="x")
    await provider.settled()
    consumer = await port.connect()
    await register(consumer, "t", "my.type")
    assert (await provider.next())["id"] == "t"
    await engine.add_module(Newcomer())
    assert await provider.next() == {"type": "unregistertrigger", "id": "t", "trigger_type": "my.type", "disconnected": True}


async def test_a_provider_that_moves_hears_which_triggers_it_leaves_behind(port: Port) -> None:
    provider, consumer = await port.connect(), await port.connect()
    await provider.send("registertriggertype", id="my.type", description="x")
    await provider.settled()
    await register(consumer, "t", "my.type")
    assert (await provider.next())["id"] == "t"
    await provider.send(
        "invokefunction",
        function_id="engine::workers::register",
        data={"namespace": "b", "features": [OURS]},
        action={"type": "void"},
    )
    assert await provider.next() == {"type": "unregistertrigger", "id": "t", "trigger_type": "my.type", "disconnected": True}
    belongs = await port.connect(namespace="b")
    await register(belongs, "u", "my.type")
    assert (await provider.next())["id"] == "u"


async def test_a_type_of_another_engine_waits_and_says_so(worker: RawWorker, other: RawWorker) -> None:
    await register(worker, "t", "cron", config={"expression": "* * * * *"})
    told = (await worker.settled())[0]
    assert told["error"]["code"] == "trigger_registration_failed"
    assert "cron" in told["error"]["message"]
    await other.send("registertriggertype", id="cron", description="x")
    assert (await other.next())["id"] == "t"


async def test_a_provider_is_looked_for_at_home_first_and_then_in_default(port: Port) -> None:
    general, special = await port.connect(namespace="default"), await port.connect(namespace="mine")
    await general.send("registertriggertype", id="my.type", description="x")
    await general.settled()
    consumer = await port.connect(namespace="mine")
    await register(consumer, "t", "my.type")
    handed = await general.next()
    assert (handed["id"], handed["namespace"]) == ("t", "mine")
    await special.send("registertriggertype", id="my.type", description="x")
    await special.settled()
    await register(consumer, "u", "my.type")
    assert (await special.next())["id"] == "u"
    await register(consumer, "v", "my.type", trigger_namespace="default", namespace="default")
    handed = await general.next()
    assert handed["id"] == "v"
    assert "namespace" not in handed


async def test_triggers_are_registered_and_let_go_with_functions_too(worker: RawWorker, module: DictModule, engine: Engine) -> None:
    made = await worker.call("engine::register_trigger", {"trigger_type": "state", "function_id": "f", "config": {"scope": "s"}})
    trigger_id = made["result"]["id"]
    await worker.socket.close()
    await until(lambda: len(engine.workers) == 0)
    assert set(module.triggers) == {trigger_id}
    assert await engine.trigger({"function_id": "engine::unregister_trigger", "payload": {"id": trigger_id}}) == {"removed": True}
    assert await engine.trigger({"function_id": "engine::unregister_trigger", "payload": {"id": trigger_id}}) == {"removed": False}
    assert module.triggers == {}


async def test_changes_of_functions_and_workers_are_told_to_those_who_ask(worker: RawWorker, port: Port) -> None:
    await worker.send("registerfunction", id="f")
    await register(worker, "w", "engine::workers-available")
    await register(worker, "f", "engine::functions-available")
    await worker.settled()
    newcomer = await port.connect()
    assert (await worker.next())["data"] == {"event": "worker_connected", "worker_id": newcomer.id}
    await newcomer.send("registerfunction", id="g")
    event = (await worker.next())["data"]
    assert event["event"] == "functions_changed"
    assert {"f", "g"} <= {row["function_id"] for row in event["functions"]}
    await newcomer.socket.close()
    assert await worker.expect("invokefunction", data={"event": "worker_disconnected", "worker_id": newcomer.id})


async def test_steps_that_concern_one_trigger_follow_each_other(engine: Engine, module: DictModule) -> None:
    module.registrations = []
    first = asyncio.ensure_future(engine.register_trigger({"id": "t", "type": "state", "function_id": "f"}))
    pending = module.registrations
    await until(lambda: len(pending) == 1)
    second = asyncio.ensure_future(engine.register_trigger({"id": "t", "type": "state", "function_id": "g"}))
    await asyncio.sleep(0)
    assert module.log == [("register", "t")]
    pending[0].set_result(None)
    await until(lambda: len(pending) == 2)
    assert module.log == [("register", "t"), ("replace", "t"), ("register", "t")]
    pending[1].set_result(None)
    await asyncio.gather(first, second)
    assert module.triggers["t"].function_id == "g"
