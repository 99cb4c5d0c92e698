"""Whatever a function raises ends its own call, and nothing else: exceptions that are no `Exception` included."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from iii_state import Engine, FunctionError, StateModule
from iii_state.client.client import Client
from iii_state.host import Caller, Trigger
from iii_state.tasks.results import Result, result_of
from iii_state.values import Json
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import RawWorker
from tests.support.waiting import until


class OfItsOwn(BaseException):
    pass


class Unspeakable(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Unheard(BaseException):
    def __str__(self) -> str:
        raise OfItsOwn("instead of words")


def failed() -> BaseException:
    try:
        pytest.fail("not as expected")
    except BaseException as error:
        return error


KINDS: dict[str, Callable[[], BaseException]] = {
    "own": lambda: OfItsOwn("mine"),
    "cancelled": asyncio.CancelledError,
    "generator exit": GeneratorExit,
    "pytest.fail": failed,
    "unspeakable": Unspeakable,
    "unheard": Unheard,
}


@pytest.fixture(params=KINDS)
def error(request: pytest.FixtureRequest) -> BaseException:
    return KINDS[request.param]()


def plain(error: BaseException) -> Callable[[Any], Any]:
    def function(event: Any) -> Any:
        raise error

    return function


def asynchronous(error: BaseException) -> Callable[[Any], Awaitable[Any]]:
    async def function(event: Any) -> Any:
        await asyncio.sleep(0)
        raise error

    return function


@pytest.mark.parametrize("make", [plain, asynchronous])
async def test_a_call_over_the_socket_is_answered_and_so_are_those_around_it(
    make: Callable[[BaseException], Any], error: BaseException, engine: Engine, worker: RawWorker
) -> None:
    engine.register_function("raises", make(error))
    engine.register_function("works", lambda event: event)
    for number, function_id in enumerate(("works", "raises", "works")):
        await worker.send("invokefunction", function_id=function_id, data=number, invocation_id=str(number))
    answers = {frame["invocation_id"]: frame for frame in [await worker.next() for _ in range(3)]}
    assert answers["0"]["result"] == 0
    assert answers["2"]["result"] == 2
    assert answers["1"]["error"]["code"] == "invocation_failed"
    assert await worker.settled() == []


@pytest.mark.parametrize("make", [plain, asynchronous])
async def test_a_caller_in_the_process_is_answered(
    make: Callable[[BaseException], Any], error: BaseException, engine: Engine
) -> None:
    engine.register_function("raises", make(error))
    async with asyncio.timeout(10):
        with pytest.raises(FunctionError) as caught:
            await engine.trigger({"function_id": "raises"})
        assert caught.value.code == "invocation_failed"
        with pytest.raises(FunctionError):
            await engine.trigger({"function_id": "raises", "timeout_ms": 5000})
        await engine.trigger({"function_id": "raises", "action": {"type": "void"}})


async def test_a_function_of_a_module_that_raises_ends_its_own_call(
    error: BaseException, engine: Engine, worker: RawWorker
) -> None:
    class Module(DictModule):
        async def start(self, host: Any) -> None:
            host.register_function("module::raises", self.raises)
            host.register_function("module::later", self.later)

        def raises(self, data: Json, caller: Caller) -> Result[bytes | None]:
            raise error

        def later(self, data: Json, caller: Caller) -> Result[bytes | None]:
            answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
            answer.set_exception(error)
            return answer

    await engine.add_module(Module())
    async with asyncio.timeout(10):
        for function_id in ("module::raises", "module::later"):
            assert "error" in await worker.call(function_id)
            assert "error" in await worker.call(function_id, metadata={"the": "longer way"})
            with pytest.raises(FunctionError):
                await engine.trigger({"function_id": function_id})
    assert (await worker.call("echo", 1))["result"]["data"] == 1


async def test_an_async_function_that_raises_leaves_nothing_to_the_event_loop(error: BaseException, engine: Engine) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    engine.register_function("raises", asynchronous(error))
    with pytest.raises(FunctionError):
        await engine.trigger({"function_id": "raises"})
    await asyncio.sleep(0)
    gc.collect()
    assert reported == []


async def test_the_caller_of_a_call_can_still_be_cancelled(engine: Engine) -> None:
    ended = asyncio.Event()

    async def waits(event: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    engine.register_function("waits", waits)
    for request in ({"function_id": "waits"}, {"function_id": "waits", "timeout_ms": 60_000}):
        ended.clear()
        caller = asyncio.ensure_future(engine.trigger(request))
        await asyncio.sleep(0.01)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        async with asyncio.timeout(10):
            await ended.wait()


@pytest.mark.parametrize("turns", range(8))
async def test_a_caller_may_be_cancelled_in_the_turn_in_which_it_is_answered(turns: int, engine: Engine) -> None:
    """Then it is cancelled or answered, and hears of no error; what it has registered without hearing of it goes."""
    loop = asyncio.get_running_loop()
    answers: list[asyncio.Future[None]] = []
    registered: set[str] = set()

    class Provider:
        def register(self, trigger: Trigger, replaces: Trigger | None = None) -> Result[None]:
            registered.add(trigger.id)
            answers.append(loop.create_future())
            return answers[-1]

        def unregister(self, trigger: Trigger, *, disconnected: bool) -> None:
            registered.discard(trigger.id)

    class Module(DictModule):
        async def start(self, host: Any) -> None:
            host.register_trigger_type("odd", Provider(), description="")

    async def answered(event: Any) -> None:
        answers.append(loop.create_future())
        await answers[-1]

    await engine.add_module(Module())
    engine.register_function("answered", answered)
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "register": lambda: engine.register_trigger({"type": "odd", "function_id": "answered"}),
        "call": lambda: engine.trigger({"function_id": "answered"}),
        "call with a limit": lambda: engine.trigger({"function_id": "answered", "timeout_ms": 60_000}),
    }
    for name, call in calls.items():
        answers.clear()
        caller = asyncio.ensure_future(call())
        await until(lambda: bool(answers))
        answers[0].set_result(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        caller.cancel()
        try:
            await caller
        except asyncio.CancelledError:
            if name == "register":
                await until(lambda: not registered)


@pytest.mark.parametrize("make", [plain, asynchronous])
@pytest.mark.parametrize("role", ["handler", "condition"])
async def test_an_event_is_tried_again_and_other_subscriptions_go_on(
    role: str, make: Callable[[BaseException], Any], error: BaseException
) -> None:
    module = StateModule({"dispatch": {"max_attempts": 2, "backoff_ms": 1}})
    seen: list[str] = []
    async with Engine() as engine:
        await engine.add_module(module)
        engine.register_function("raises", make(error))
        engine.register_function("works", lambda event: seen.append("works"))
        config = {"scope": "s", **({"condition_function_id": "raises"} if role == "condition" else {})}
        handler = "works" if role == "condition" else "raises"
        await engine.register_trigger({"type": "state", "function_id": handler, "config": config})
        for number in range(5):  # which are looked at in the same turn, after the one that raises
            engine.register_function(f"good-{number}", lambda event, number=number: seen.append(f"good-{number}"))
            await engine.register_trigger({"type": "state", "function_id": f"good-{number}", "config": {"scope": "s"}})
        await engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": 1}})
        await until(lambda: len(seen) == 5)
        await until(lambda: bool(module.adapter.admin.dead_letters()))
        (letter,) = await result_of(module.adapter.admin.dead_letters())
        assert letter.attempts == 2
        assert letter.error.startswith("invocation_failed: ")
        assert sorted(seen) == [f"good-{number}" for number in range(5)]


async def test_a_provider_that_raises_refuses_a_trigger_and_nothing_else(
    error: BaseException, engine: Engine, worker: RawWorker
) -> None:
    class Provider:
        def register(self, trigger: Trigger, replaces: Trigger | None = None) -> None:
            if trigger.function_id == "refused":
                raise error

        def unregister(self, trigger: Trigger, *, disconnected: bool) -> None:
            raise error

    class Module(DictModule):
        async def start(self, host: Any) -> None:
            host.register_trigger_type("odd", Provider(), description="")

    await engine.add_module(Module())
    await worker.send("registertrigger", id="1", trigger_type="odd", function_id="refused", config={})
    assert (await worker.expect("triggerregistrationresult"))["error"]["code"] == "trigger_registration_failed"
    await worker.send("registertrigger", id="2", trigger_type="odd", function_id="taken", config={})
    await worker.send("unregistertrigger", id="2", trigger_type="odd")
    assert await worker.settled() == []
    with pytest.raises(FunctionError, match="trigger_registration_failed"):
        await engine.register_trigger({"type": "odd", "function_id": "refused"})


async def test_a_handler_of_a_change_trigger_that_raises_holds_back_no_other(error: BaseException, engine: Engine) -> None:
    told: list[Any] = []
    engine.register_function("raises", plain(error))
    engine.register_function("works", told.append)
    for function_id in ("raises", "works"):
        await engine.register_trigger({"type": "engine::functions-available", "function_id": function_id})
    engine.register_function("new", lambda event: None)
    await until(lambda: bool(told))


async def test_a_client_of_ours_answers_for_what_it_serves(
    error: BaseException, engine: Engine, worker: RawWorker, port: Any
) -> None:
    def raises(data: Json, caller: Caller) -> Result[bytes | None]:
        raise error

    async with Client(f"ws://{port.host}:{port.port}") as client:
        client.serving.register_function("served::raises", raises)
        client.serving.register_function("served::works", lambda data, caller: bytes(data))
        await client.call("engine::workers::list", b"{}")
        assert (await worker.call("served::raises"))["error"]["code"] == "invocation_failed"
        assert (await worker.call("served::works", 5))["result"] == 5


PROGRAM = """
import asyncio, sys
from iii_state import Engine

async def later(event):
    sys.exit(int(event["code"]))

async def main():
    async with Engine() as engine:
        engine.register_function("ends", lambda event: sys.exit(int(event["code"])))
        engine.register_function("ends_later", later)
        _, port = await engine.serve("127.0.0.1", 0)
        print(port, flush=True)
        await asyncio.Event().wait()

__import__(sys.argv[1]).run(main())
"""


@pytest.mark.parametrize("function_id", ["ends", "ends_later"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_function_that_ends_the_program_is_answered_first(loop: str, function_id: str) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, loop, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert program.stdout is not None
        async with Client(f"ws://127.0.0.1:{int(await program.stdout.readline())}") as client:
            with pytest.raises(FunctionError) as caught:
                await asyncio.wait_for(client.call(function_id, b'{"code":3}'), 10)
        assert caught.value.code == "invocation_failed"
        assert await asyncio.wait_for(program.wait(), 10) == 3
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
