"""`--log-format json`: an object a line, whatever is in it, from the first line of a process to its last."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

import pytest

from iii_state.client.client import Client
from iii_state.observe.logs import IDS, JsonLines
from iii_state.wire.quiet_log import QuietLog
from tests.support.engines.attached import AttachProcess, attached
from tests.support.engines.processes import EngineProcess, free_port, running_engine
from tests.support.waiting import until

JSON = ("--log-format", "json")


def record(message: str, *details: object, **more: Any) -> logging.LogRecord:
    return logging.getLogger("iii_state.some.part").makeRecord(
        "iii_state.some.part", logging.WARNING, "file", 1, message, details, more.pop("exc_info", None), extra=more
    )


def lines(process: EngineProcess | AttachProcess) -> list[dict[str, Any]]:
    """What a process has logged; every line is an object."""
    return [json.loads(line) for line in process.stderr.text().splitlines()]


def test_a_line_has_time_level_logger_message_and_the_ids_that_are_known() -> None:
    text = JsonLines().format(record("%s failed %d times", "f", 3, function_id="f", attempt=3, scope=None, something_else=1))
    fields = json.loads(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("time"))
    assert fields == {
        "level": "warning",
        "logger": "iii_state.some.part",
        "message": "f failed 3 times",
        "function_id": "f",
        "attempt": 3,
    }


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\u202e", "\ud800", "é\u2028", '"}{'])
def test_whatever_a_name_holds_it_is_one_line_of_ascii(name: str) -> None:
    text = JsonLines().format(record("about %s", name, key=name))
    assert text.isascii()
    assert text.isprintable()
    assert (json.loads(text)["message"], json.loads(text)["key"]) == (f"about {name}", name)


def test_an_exception_is_one_field() -> None:
    try:
        raise ValueError("no\nway")
    except ValueError:
        text = JsonLines().format(record("failed", exc_info=sys.exc_info()))
    assert "\n" not in text
    assert json.loads(text)["exception"].startswith("Traceback (most recent call last):\n")
    assert json.loads(text)["exception"].endswith("ValueError: no\nway")


def test_no_id_is_a_word_that_log_records_use_themselves() -> None:
    assert not set(IDS) & set(vars(record("x")))


def test_errors_and_warnings_of_one_kind_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    quiet = QuietLog(logging.getLogger("kind"), burst=3)
    for number in range(10):
        quiet.error("failed %d", number, ids={"function_id": "f"})
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [("ERROR", f"failed {n}") for n in range(3)]
    assert caplog.records[0].__dict__["function_id"] == "f"
    quiet._since -= 11
    quiet.error("failed again")
    assert [each.getMessage() for each in caplog.records[3:]] == ["7 more errors of this kind were not logged", "failed again"]


async def test_an_engine_logs_objects_from_its_first_line_to_its_last() -> None:
    with running_engine(JSON, config={"log_level": "info", "triggers_enabled": True}) as engine:
        (listening,) = [line for line in lines(engine) if line["message"].startswith("listening on ws://")]
        assert (listening["level"], listening["logger"]) == ("info", "iii_state")
        async with Client(engine.url) as client:

            def handler(data: object, caller: object) -> bytes | None:
                raise ValueError("no\n\x1b")

            client.serving.register_function("f", handler)
            config = {"scope": "s\n", "retry": {"max_attempts": 1}}
            await client.triggers.register("state", "f", config)
            await client.call("state::set", b'{"scope":"s\\n","key":"k","value":1}')
            (dead,) = await until(lambda: [line for line in lines(engine) if line.get("event_id")])
        assert (dead["level"], dead["logger"]) == ("error", "iii_state.state.dispatch.outcomes")
        assert {name: dead[name] for name in ("function_id", "scope", "key", "attempt", "code")} == {
            "function_id": "f",
            "scope": "s\n",
            "key": "k",
            "attempt": 1,
            "code": "invocation_failed",
        }
        assert engine.stop() == 0
        assert lines(engine)


def test_why_a_process_cannot_start_is_an_object_too() -> None:
    with running_engine() as engine:
        taken = str(engine.port)
        with attached(engine.url, *JSON, "--metrics-port", taken) as worker:
            assert worker.wait() == 1
            (line,) = lines(worker)
            assert line["level"] == "critical"
            assert f"cannot listen on 127.0.0.1:{taken}: another program has this port" in line["message"]


def test_an_attached_worker_logs_objects() -> None:
    with running_engine(["--no-state"]) as engine, attached(engine.url, *JSON) as worker:
        worker.until_attached()
        assert lines(worker)[-1]["message"].startswith(f"attached to {engine.url}")
        assert worker.stop() == 0
        assert lines(worker)


def test_without_the_option_the_log_is_text() -> None:
    with attached(f"ws://127.0.0.1:{free_port()}", "--metrics-port", "0") as worker:
        worker.wait_for("metrics at ")
        assert worker.stderr.text().startswith("metrics at http://127.0.0.1:")
