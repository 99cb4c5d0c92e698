"""Whatever a frame holds: the connection stays, and whoever can be answered is."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iii_state.engine.functions.registry import FunctionRegistry
from iii_state.engine.ledger import Ledger
from iii_state.engine.triggers.binding import TriggerType
from iii_state.engine.triggers.registry import TriggerRegistry
from iii_state.engine.workers.worker import Worker, connect
from iii_state.engine.workers.workers import Description, Workers
from iii_state.wire.backlog import Backlog
from iii_state.wire.limits import DEFAULT
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import RawWorker

VALID: list[dict[str, Any]] = [
    {"type": "invokefunction", "function_id": "state::set", "data": {"scope": "s", "key": "k", "value": 1}},
    {
        "type": "invokefunction",
        "function_id": "mine",
        "data": {"a": 1},
        "metadata": {"m": 1},
        "traceparent": "00-1",
        "baggage": "b",
    },
    {"type": "invokefunction", "function_id": "nope", "data": None, "action": {"type": "enqueue", "queue": "q"}},
    {"type": "invokefunction", "function_id": "state::fail", "data": "code", "namespace": "default"},
    {"type": "registerfunction", "id": "mine", "description": "d", "metadata": {"m": 1}, "request_format": {}},
    {"type": "unregisterfunction", "id": "mine"},
    {"type": "registertriggertype", "id": "my.type", "description": "d"},
    {"type": "unregistertriggertype", "id": "my.type"},
    {"type": "registertrigger", "id": "t", "trigger_type": "state", "function_id": "f", "config": {"scope": "s"}, "metadata": 1},
    {"type": "registertrigger", "id": "u", "trigger_type": "my.type", "function_id": "f", "config": None},
    {"type": "unregistertrigger", "id": "t", "trigger_type": "state"},
    {
        "type": "triggerregistrationresult",
        "id": "u",
        "trigger_type": "my.type",
        "function_id": "f",
        "error": {"code": "c", "message": "m"},
    },
    {"type": "invocationresult", "function_id": "mine", "result": {"a": 1}, "error": None},
    {"type": "registerservice", "id": "s", "name": "n"},
    {"type": "reattach", "previous_worker_id": "x", "reattach_token": "y"},
    {"type": "ping"},
    {"type": "observe", "anything": 1},
    {
        "type": "invokefunction",
        "function_id": "engine::workers::register",
        "data": {"name": "w", "pid": 1},
        "action": {"type": "void"},
    },
]

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", " ", "\ud800", "default", 10**400, -(2**64), {}, [], [[]], {"type": "void"}, {"code": 1}, 1e308]),
    st.dictionaries(st.text(max_size=4), st.none(), max_size=2),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid frame, of which members are replaced, dropped or added, and bytes are cut out, put in or changed."""
    message = dict(draw(st.sampled_from(VALID)))
    if draw(st.booleans()):
        message["invocation_id"] = draw(st.one_of(st.uuids().map(str), st.text(max_size=5), odd))
    for name in draw(st.lists(st.sampled_from([*message, "namespace", "action", "data", "config", "error"]), max_size=2)):
        if draw(st.booleans()):
            message[name] = draw(odd)
        else:
            message.pop(name, None)
    frame = json.dumps(message, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(frame)))
        frame = frame[:at] + draw(st.binary(max_size=3)) + frame[at + draw(st.integers(0, 3)) :]
    return frame


class Link:
    """A connection that keeps what is sent."""

    is_open = True
    is_behind = False
    takes_more = True
    unsent = position = left = times_behind = 0

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.sent: list[bytes] = []
        self.holds = 0

    def when_read(self, go_on: Callable[[], None]) -> None:
        raise AssertionError("a connection that is not behind was waited for")

    when_idle = when_read

    def end_turns(self) -> None:
        pass

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    send_call = send

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        self.holds -= 1

    def probe(self) -> None:
        pass

    def close(self, code: int, reason: bytes = b"") -> None:
        raise AssertionError("a frame closed the connection")

    def abort(self) -> None:
        raise AssertionError("a frame ended the connection")


def connected() -> tuple[Worker, Link]:
    functions = FunctionRegistry()
    ledger = Ledger(lambda: DEFAULT)
    triggers = TriggerRegistry(functions, ledger)
    module = DictModule()
    for name, handler in (("state::set", module.set), ("state::fail", module.fail), ("echo", module.echo)):
        functions.add_builtin(name, handler, None, None, "dict")
    triggers.add_type(TriggerType("default", "state", module, ""))
    link = Link()
    return connect(Workers(functions, triggers, 300.0, ledger), link), link


async def check(frames: list[bytes]) -> None:
    worker, link = connected()
    worker.describe(Description())  # so that no call waits until it is known where the triggers before it belong
    for frame in frames:
        before = len(link.sent)
        worker.receive(frame)
        worker.receive(frame, True)
        answers = [json.loads(sent) for sent in link.sent[before:]]
        assert all(isinstance(answer, dict) for answer in answers), "never anything but an object"
        expected = wants_answer(frame)
        if expected is not None:
            answered = [a for a in answers if a["type"] == "invocationresult" and a["invocation_id"] == expected]
            executed = [a for a in answers if a["type"] == "invokefunction"]
            assert len(answered) + len(executed) == 2, (frame, answers)
    before = len(link.sent)
    worker.receive(b'{"type":"invokefunction","function_id":"echo","data":1,"invocation_id":"still here"}')
    assert [json.loads(sent)["invocation_id"] for sent in link.sent[before:]] == ["still here"]
    assert link.holds == 0
    worker.disconnected()


def wants_answer(frame: bytes) -> object:
    """The invocation's id, if the frame is JSON that asks for a call and for its outcome."""
    try:
        message = json.loads(frame.decode())
        json.dumps(message, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or message.get("type") != "invokefunction":
        return None
    action = message.get("action")
    if isinstance(action, dict) and action.get("type") == "void":
        return None
    invocation_id = message.get("invocation_id")
    return invocation_id if isinstance(invocation_id, str) and invocation_id else None


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_arbitrary_bytes_leave_the_connection_usable(frames: list[bytes]) -> None:
    uvloop.run(check(frames))


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(mutated(), max_size=4))
def test_mutated_frames_are_answered_where_they_can_be_and_leave_the_connection_usable(frames: list[bytes]) -> None:
    uvloop.run(check(frames))


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b'"data":{"a":}', id="broken JSON"),
        pytest.param(b'"data":"\xff"', id="invalid UTF-8"),
        pytest.param(b'"data":"\\ud800"', id="a lone surrogate"),
        pytest.param(b'"data":NaN', id="NaN"),
        pytest.param(b'"data":' + DEEP, id="100,000 levels"),
        pytest.param(b'"data":1,"function_id":7', id="an id that is a number"),
        pytest.param(b'"data":1,"namespace":[]', id="a namespace that is a list"),
        pytest.param(b'"data":1,"type":"unknown"', id="an unknown type"),
        pytest.param(b'"data":1,"type":7', id="a type that is a number"),
        pytest.param(b'"data":1,"action":"void"', id="an action that is a string"),
        pytest.param(b'"data":1', id="no function"),
    ],
)
async def test_a_frame_that_cannot_be_used_is_answered_over_a_real_socket(worker: RawWorker, broken: bytes) -> None:
    invocation_id = str(uuid.uuid4())
    function = b"" if broken == b'"data":1' else b'"function_id":"echo",'
    frame = b'{"type":"invokefunction",%b"invocation_id":"%b",%b}' % (function, invocation_id.encode(), broken)
    await worker.socket.send_bytes(frame)
    await worker.socket._writer.send_frame(frame, 1)
    for _ in range(2):
        outcome = await worker.next()
        assert outcome["invocation_id"] == invocation_id
        assert outcome["error"]["code"] == "deserialization_error"
    assert (await worker.call("echo", 1))["result"]["data"] == 1


async def test_huge_numbers_pass_through_untouched(worker: RawWorker) -> None:
    number = str(random.Random(1).getrandbits(4000))
    await worker.send("registerfunction", id="f")
    data = f'{{"n":{number},"e":1e400}}'
    await worker.socket.send_str(f'{{"type":"invokefunction","function_id":"f","data":{data},"invocation_id":"x"}}')
    message = await worker.socket.receive(10)
    assert f'"n":{number},"e":1e400' in message.data


async def test_an_answer_of_a_worker_that_cannot_be_read_fails_the_call(worker: RawWorker, other: RawWorker) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    await worker.send("invokefunction", function_id="f", data=1, invocation_id="x")
    invocation = await other.next()
    invocation_id = invocation["invocation_id"]
    await other.socket.send_str(f'{{"type":"invocationresult","invocation_id":"{invocation_id}","result":NaN}}')
    assert (await worker.next())["error"]["code"] == "invocation_error"
    assert await other.settled() == []


@pytest.mark.parametrize("unreadable", ["1e999", '{"code":"c","message":-1e999}', '[{"a":1e400}]'])
async def test_an_error_that_holds_a_number_beyond_a_double_is_an_error(
    worker: RawWorker, other: RawWorker, caplog: pytest.LogCaptureFixture, unreadable: str
) -> None:
    await other.send("registerfunction", id="f")
    await other.send("registertriggertype", id="my.type", description="")
    await other.settled()
    await worker.send("invokefunction", function_id="f", data=1, invocation_id="x")
    invocation_id = (await other.next())["invocation_id"]
    await other.socket.send_str(f'{{"type":"invocationresult","invocation_id":"{invocation_id}","error":{unreadable}}}')
    assert (await worker.next())["error"] == {"code": "invocation_failed", "message": unreadable}
    await worker.send("registertrigger", id="t", trigger_type="my.type", function_id="f", config={})
    await other.expect("registertrigger", id="t")
    await other.socket.send_str(f'{{"type":"triggerregistrationresult","id":"t","error":{unreadable}}}')
    assert (await worker.expect("triggerregistrationresult", id="t"))["error"]["message"] == unreadable
    assert "could not be handled" not in caplog.text


@pytest.mark.parametrize("function_id", ["f", "state::get", "nope"])
async def test_an_action_or_an_id_beyond_a_double_ends_no_connection(
    worker: RawWorker, other: RawWorker, caplog: pytest.LogCaptureFixture, function_id: str
) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    call = f'"type":"invokefunction","function_id":"{function_id}","data":{{"scope":"s","key":"k"}}'
    await worker.socket.send_str(f'{{{call},"invocation_id":"x","action":1e999}}')
    assert (await worker.next())["error"]["message"] == "Unknown action 1e999"
    await worker.socket.send_str(f'{{{call},"invocation_id":1e999,"namespace":"default"}}')
    assert (await worker.call("echo", 1))["result"]["data"] == 1
    assert "could not be handled" not in caplog.text
