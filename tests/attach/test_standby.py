"""Several attached workers of one store: one serves an engine, the others stand by and take over; engines come and go."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial

import pytest

from tests.attach.conftest import WorkerAt
from tests.support.bridge.engines import bridge_to, running
from tests.support.engines.attached import ATTACH, attached, engine_without_state
from tests.support.engines.calls import call
from tests.support.engines.processes import EngineProcess, free_port, running_engine
from tests.support.redis.proxy import proxy_to
from tests.support.redis.server import RedisServer
from tests.support.sdk.workers import NODE_NEW, NODE_OLD, PYTHON_NEW, PYTHON_OLD, CallFailedError, Sdk, Worker
from tests.support.slow import slow
from tests.support.waiting import wait_until

NOT_THERE = ("function_not_found", "invocation_stopped", "TIMEOUT", "IIITimeoutError")
"""What a caller may be told while nobody serves state."""


def write(worker: Worker, scope: str, key: str, value: int) -> None:
    """Set a value, again and again until somebody serves state; each attempt is the same, so nothing is written twice."""

    def done() -> bool:
        try:
            worker.call("state::set", {"scope": scope, "key": key, "value": value})
        except CallFailedError as error:
            if error.code not in NOT_THERE:
                raise
            return False
        return True

    wait_until(done, f"{key}={value} could not be written")


@pytest.mark.parametrize("sdk", [PYTHON_NEW, *map(slow, (PYTHON_OLD, NODE_OLD, NODE_NEW))], ids=lambda sdk: sdk.name)
def test_when_the_one_that_serves_is_killed_the_other_takes_over_and_no_event_is_lost(
    url: str, redis: RedisServer, unique: str, worker_at: WorkerAt, sdk: Sdk
) -> None:
    handler = f"{unique}::handler"
    with attached(url, "--redis-url", redis.url) as first, attached(url, "--redis-url", redis.url) as second:
        processes = [first, second]
        wait_until(lambda: any("attached to" in process.stderr.text() for process in processes), "nobody serves")
        wait_until(lambda: any("standby at" in process.stderr.text() for process in processes), "nobody stands by")
        serving, waiting = processes if "attached to" in first.stderr.text() else reversed(processes)
        assert "attached to" not in waiting.stderr.text()
        worker, writer = worker_at(sdk, url), worker_at(sdk, url)
        worker.register_function(handler)
        worker.register_trigger(handler, {"scope": unique})
        for number in range(200):
            if number == 100:
                serving.kill()
            write(writer, unique, f"k{number % 7}", number)
        waiting.until_attached()

        def seen(key: str) -> list[int]:
            return [payload["new_value"] for payload in worker.payloads(handler) if payload["key"] == key]

        def all_seen(key: str, wanted: list[int]) -> bool:
            return set(seen(key)) >= set(wanted)

        for key in range(7):
            wanted = list(range(key, 200, 7))
            wait_until(partial(all_seen, f"k{key}", wanted), f"an event of k{key} is lost")
            firsts = list(dict.fromkeys(seen(f"k{key}")))
            assert firsts == wanted  # in order; an event may come twice


def test_one_that_is_stopped_hands_over(url: str, redis: RedisServer, unique: str, worker_at: WorkerAt) -> None:
    handler = f"{unique}::handler"
    with attached(url, "--redis-url", redis.url) as first:
        first.until_attached()
        with attached(url, "--redis-url", redis.url) as second:
            second.until_standby()
            worker = worker_at(PYTHON_NEW, url)
            worker.register_function(handler, "hold")
            worker.register_trigger(handler, {"scope": unique, "retry": {"max_attempts": 1}})
            worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
            worker.wait_for_calls(handler)
            stopping = threading.Thread(target=first.stop)
            stopping.start()
            second.until_attached()
            write(worker, unique, "other", 2)
            assert [call.payload["new_value"] for call in worker.wait_for_calls(handler, 2)] == [1, 2]
            worker.release(handler)  # the first one has waited for it, and acknowledges
            stopping.join()
            assert first.process.returncode == 0
            write(worker, unique, "k", 3)
            worker.wait_for_calls(handler, 3)
            assert [payload["new_value"] for payload in worker.payloads(handler)] == [1, 2, 3]
            worker.release(handler)


def test_siblings_have_names_of_their_own_where_an_engine_insists(url: str, redis: RedisServer) -> None:
    with attached(url, "--redis-url", redis.url) as first, attached(url, "--redis-url", redis.url) as second:
        wait_until(lambda: "standby at" in first.stderr.text() + second.stderr.text(), "nobody stands by")
        names = [row["name"] for row in call(url, "engine::workers::list", {})["workers"] if row["name"].startswith("state")]
        assert len(names) == 2


def test_each_of_several_engines_has_its_own_and_they_share_the_work(redis: RedisServer, unique: str, worker_at: WorkerAt) -> None:
    handler = f"{unique}::handler"
    with ExitStack() as stack:
        urls = [stack.enter_context(engine_without_state("ours")) for _ in range(2)]
        processes = [stack.enter_context(attached(url, "--redis-url", redis.url)) for url in urls]
        for process in processes:
            process.until_attached()
        workers = [worker_at(PYTHON_NEW, urls[0]), worker_at(NODE_NEW, urls[1])]
        for worker in workers:
            worker.register_function(handler)
            worker.register_trigger(handler, {"scope": unique})
        for number in range(40):
            workers[number % 2].call("state::set", {"scope": unique, "key": f"k{number}", "value": number})
        wait_until(lambda: sum(len(worker.calls(handler)) for worker in workers) >= 40, "an event is lost")
        values = [payload["new_value"] for worker in workers for payload in worker.payloads(handler)]
        assert sorted(values) == list(range(40))
        workers[0].kill()  # what comes now is the other's
        for number in range(40, 60):
            workers[1].call("state::set", {"scope": unique, "key": f"k{number}", "value": number})

        def by_the_other() -> set[int]:
            return {payload["new_value"] for payload in workers[1].payloads(handler)}

        wait_until(lambda: by_the_other() >= set(range(40, 60)), "an event is lost")


def test_after_a_restart_of_the_engine_everything_is_there_again(redis: RedisServer, unique: str, worker_at: WorkerAt) -> None:
    handler, port = f"{unique}::handler", free_port()
    engine = EngineProcess(["--no-state"], port=port)
    try:
        with attached(engine.url, "--redis-url", redis.url) as process:
            process.until_attached()
            worker = worker_at(PYTHON_NEW, engine.url)
            worker.register_function(handler, "hold")
            worker.register_trigger(handler, {"scope": unique, "retry": {"max_attempts": 1}})
            worker.call("state::set", {"scope": unique, "key": "k", "value": 1})
            worker.call("state::set", {"scope": unique, "key": "k", "value": 2})
            worker.wait_for_calls(handler)
            engine.kill()
            process.wait_for("was lost; triggers wait")
            worker.release(handler)  # the answer reaches nobody, so the event comes again
            engine = EngineProcess(["--no-state"], port=port)
            process.until_attached(times=2)
            worker.wait_for_calls(handler, 2)
            worker.release(handler)
            calls = worker.wait_for_calls(handler, 3)
            worker.release(handler)
            facts = [(call.payload["new_value"], call.metadata["iii_state"]["attempt"]) for call in calls]
            assert facts == [(1, 1), (1, 1), (2, 1)]
    finally:
        engine.kill()


def test_it_takes_up_where_an_engine_that_serves_the_same_store_itself_leaves_off(redis: RedisServer) -> None:
    port = free_port()
    engine = EngineProcess(["--redis-url", redis.url], port=port)
    try:
        with attached(engine.url, "--redis-url", redis.url) as process:
            process.until_standby()
            assert call(engine.url, "state::set", {"scope": "s", "key": "k", "value": 1})["new_value"] == 1
            assert engine.stop() == 0
            engine = EngineProcess(["--no-state"], port=port)
            process.until_attached()
            assert call(engine.url, "state::get", {"scope": "s", "key": "k"}) == 1
    finally:
        engine.kill()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prefix", "a b"), "words joined by ::"),
        (("--prefix", "engine::state"), "not engine's"),
        (("--name", "iii-state"), "a stock engine's own"),
        (("--redis-url", "redis://x", "--file-path", "y"), "one engine has one store"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    done = subprocess.run([*ATTACH, *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_store_that_cannot_be_opened_is_exit_code_1() -> None:
    done = subprocess.run([*ATTACH, "--redis-url", "redis://127.0.0.1:1"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_without_state_has_nothing_to_configure() -> None:
    command = [sys.executable, "-m", "iii_state", "serve", "--no-state", "--adapter", "kv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "--no-state" in done.stderr
    with running_engine(["--no-state"]) as engine:
        listed = call(engine.url, "engine::functions::list", {})
        assert listed == {"functions": []}


async def test_a_bridge_to_the_engine_itself_is_refused_under_another_address(ours: str) -> None:
    async with proxy_to(int(ours.rpartition(":")[2])) as proxy:
        with attached(ours, "--bridge-url", f"ws://127.0.0.1:{proxy.port}") as process:
            assert await asyncio.to_thread(process.wait) == 1
            assert f"a bridge must not lead back to itself: the state of {ours} would be that of {ours}" in process.stderr.text()


async def test_a_bridge_over_another_engine_to_the_engine_itself_is_refused(ours: str) -> None:
    async with running(bridge_to(ours)) as between:
        with attached(ours, "--bridge-url", between.url) as process:
            assert await asyncio.to_thread(process.wait) == 1
            assert "a bridge must not lead back to itself" in process.stderr.text()
