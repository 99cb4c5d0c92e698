"""The command line against a real engine process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from iii_state.cli.calls import request
from iii_state.client.client import Client
from tests.support.engines.processes import EngineProcess, Lines, free_port, running_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as process:
        yield process


def iii_state(*arguments: str, url: str | None = None, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"} | ({} if url is None else {"III_STATE_URL": url})
    command = [sys.executable, "-m", "iii_state", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_set_get_update_delete_list_groups(engine: EngineProcess) -> None:
    def run(*arguments: str, text: str = "") -> str:
        done = iii_state(*arguments, url=engine.url, text=text)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    assert run("set", "users", "ada", '{"name": "Ada", "n": 1.0}') == '{"old_value":null,"new_value":{"name":"Ada","n":1.0}}\n'
    assert run("get", "users", "ada") == '{"name":"Ada","n":1.0}\n'
    ops = '[{"type":"increment","path":"n","by":1}]'
    updated = '{"old_value":{"name":"Ada","n":1.0},"new_value":{"name":"Ada","n":2.0}}\n'
    assert run("update", "users", "ada", "-", text=ops) == updated
    assert run("set", "users", "bob", "-", text="[1,\n2]") == '{"old_value":null,"new_value":[1,2]}\n'
    assert run("list", "users") == '{"name":"Ada","n":2.0}\n[1,2]\n'
    assert json.loads(run("list", "users", "--json")) == [{"name": "Ada", "n": 2.0}, [1, 2]]
    assert run("keys", "users") == "ada\nbob\n"
    assert json.loads(run("keys", "users", "--json")) == {"keys": ["ada", "bob"]}
    assert run("entries", "users") == '["ada",{"name":"Ada","n":2.0}]\n["bob",[1,2]]\n'
    run("set", "line\nbreak", "", "12345678901234567890")
    assert run("keys", "line\nbreak") == '""\n'
    assert run("groups") == '"line\\nbreak"\nusers\n'
    assert json.loads(run("groups", "--json")) == {"groups": ["line\nbreak", "users"]}
    assert run("get", "line\nbreak", "") == "12345678901234567890\n"
    assert run("delete", "users", "bob") == "[1,2]\n"
    assert run("get", "users", "bob") == "null\n"


def test_a_value_with_a_deadline(engine: EngineProcess) -> None:
    assert iii_state("set", "leases", "gone", "1", "--ttl-ms", "1", url=engine.url).returncode == 0
    assert iii_state("update", "leases", "kept", "[]", "--ttl-ms", "3600000", url=engine.url).returncode == 0
    assert iii_state("list", "leases", url=engine.url).stdout == "{}\n"
    for command in (("set", "leases", "l", "1"), ("update", "leases", "l", "[]")):
        done = iii_state(*command, "--ttl-ms", "0", url="ws://127.0.0.1:1")
        assert (done.returncode, "Invalid value for '--ttl-ms': 0 is not in the range x>=1" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "s", "k", "hello"), ["'hello' is no JSON", """'"hello"'"""]),
        (("set", "s", "k", "{'a': 1}"), ["is no JSON"]),
        (("set", "s", "k", "NaN"), ["is no JSON"]),
        (("set", "s", "k"), ["Missing argument 'VALUE'"]),
        (("update", "s", "k", "[1,]"), ["OPS", "is no JSON"]),
        (("frobnicate",), ["No such command 'frobnicate'"]),
        (("serve", "--port", "99999"), ["99999"]),
        (("serve", "--file-path", "x", "--redis-url", "y"), ["--file-path", "--redis-url"]),
        (("serve", "--adapter", "redis", "--file-path", "x"), ["--file-path is for the kv adapter"]),
        (("serve", "--bridge-url", "ws://x", "--file-path", "x"), ["--bridge-url", "--file-path"]),
        (("get", "s", "k", "--url", "localhost"), ["--url", "an address like ws://", "'localhost'"]),
        (("get", "s", "k", "--url", "ws://localhost:x"), ["--url", "an address like ws://"]),
        (("attach", "--engine", "localhost:49134"), ["--engine", "an address like ws://"]),
        (("triggers", "--prefix", "other"), ["--prefix", "give --redis-url"]),
        (("dead", "list", "--redis-url", "redis://localhost:1", "--url", "ws://localhost:1"), ["--url", "--redis-url"]),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_is_wrong(arguments: tuple[str, ...], words: list[str]) -> None:
    done = iii_state(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_of_the_engine_is_exit_code_1(engine: EngineProcess) -> None:
    done = iii_state("update", "s", "k", '{"type":"set"}', url=engine.url)
    assert (done.returncode, done.stdout) == (1, "")
    expected = (
        "Error: deserialization_error: Failed to deserialize input for state::update: ops: invalid type: map, expected a sequence"
    )
    assert done.stderr.strip() == expected


def test_an_op_that_failed_is_exit_code_1_and_the_answer_is_printed(engine: EngineProcess) -> None:
    iii_state("set", "failing", "k", '{"t":"x"}', url=engine.url)
    done = iii_state("update", "failing", "k", '[{"type":"increment","path":"t","by":1}]', url=engine.url)
    assert done.returncode == 1
    assert json.loads(done.stdout)["new_value"] == {"t": "x"}
    assert done.stderr.strip() == "op 0: increment.not_number: Expected number at path 't', got string."


def test_nobody_at_the_url_is_said_in_one_line() -> None:
    done = iii_state("get", "s", "k", "--url", "ws://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: no iii engine answers at ws://127.0.0.1:1: ")
    assert len(done.stderr.splitlines()) == 1


def test_attach_refuses_a_bridge_to_the_engine_that_it_is_to_serve() -> None:
    done = iii_state("attach", "--engine", "ws://127.0.0.1:1", "--bridge-url", "ws://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: a bridge must not lead back to itself: ws://127.0.0.1:1 is the engine")


def test_what_is_wrong_with_a_configuration_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("workers: []\n")
    with running_engine() as engine:
        done = iii_state("serve", "--port", str(engine.port), "--config", str(tmp_path / "config.yaml"))
    assert done.stderr.count("has no entry iii-state") == 1


def test_watch_prints_events_until_it_is_interrupted(engine: EngineProcess) -> None:
    command = [sys.executable, "-m", "iii_state", "watch", "watched", "--url", engine.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = Lines(process.stdout)
    number = 0

    def first_event() -> str | None:
        return lines.text().splitlines()[0] if lines.text() else None

    while first_event() is None and number < 100:  # until the watch is registered
        number += 1
        iii_state("set", "watched", "k", f'{{"n": {number}}}', url=engine.url)
        iii_state("set", "other", "k", "1", url=engine.url)
    iii_state("delete", "watched", "k", url=engine.url)
    lines.wait(lambda: True if "state:deleted" in lines.text() else None, 10, "the event of the delete")
    events = [json.loads(line) for line in lines.text().splitlines()]
    assert {event["scope"] for event in events} == {"watched"}
    assert "_caller_worker_id" not in events[0]
    assert events[-1]["old_value"] == {"n": number}
    assert not any("cause" in event for event in events)
    iii_state("set", "watched", "k", "1", "--ttl-ms", "30", url=engine.url)
    lines.wait(lambda: True if "expired" in lines.text() else None, 10, "the event of the deadline")
    assert json.loads(lines.text().splitlines()[-1])["cause"] == "expired"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_watch_waits_for_an_engine_that_goes_away_and_says_so() -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(running_engine(port=port))
        command = [sys.executable, "-m", "iii_state", "watch", "--url", engine.url]
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stderr is not None
        events, said = Lines(process.stdout), Lines(process.stderr)

        def write_until(words: str) -> None:
            for _ in range(100):
                iii_state("set", "s", "k", f'"{words}"', url=engine.url)
                if words in events.text():
                    return
            raise AssertionError(f"no event {words}")

        write_until("first")
        engine.kill()
        said.wait_for(re.compile(f"the connection to {engine.url} was lost; waiting"), 10)
        stack.enter_context(running_engine(port=port))
        said.wait_for(re.compile("watching again; what changed meanwhile is not shown"), 10)
        write_until("second")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        said.join()
        assert len(said.text().splitlines()) == 2


def test_serve_says_what_it_cannot_do(tmp_path: Path) -> None:
    def failing(*arguments: str) -> str:
        done = iii_state("serve", "--port", "0", *arguments)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "cannot read" in failing("--config", str(tmp_path / "missing.yaml"))
    (tmp_path / "config.yaml").write_text("workers:\n  - name: iii-state\n    config: {adaptor: {}}\n")
    assert "unknown key adaptor; did you mean adapter?" in failing("--config", str(tmp_path / "config.yaml"))
    (tmp_path / "file").write_text("")
    assert "has to be a directory" in failing("--file-path", str(tmp_path / "file"))
    with running_engine() as engine:
        done = iii_state("serve", "--port", str(engine.port))
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1:{engine.port}: " in done.stderr
        assert "Traceback" not in done.stderr


def test_serve_on_file_keeps_values_over_a_restart_and_refuses_a_second(tmp_path: Path) -> None:
    with running_engine(["--file-path", str(tmp_path / "data")]) as engine:
        iii_state("set", "s", "k", "1", url=engine.url)
        second = iii_state("serve", "--port", "0", "--file-path", str(tmp_path / "data"))
        assert second.returncode == 1
        assert "in use by another process" in second.stderr
    with running_engine(["--file-path", str(tmp_path / "data")]) as engine:
        assert iii_state("get", "s", "k", url=engine.url).stdout == "1\n"


def test_sighup_applies_the_configuration_anew(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("workers:\n  - name: iii-state\n    config: {max_value_bytes: 3}\n")
    with running_engine(["--config", str(file)]) as engine:
        assert iii_state("set", "s", "k", "1234", url=engine.url).returncode == 1
        file.write_text("workers:\n  - name: iii-state\n    config: {max_value_bytes: 4}\n")
        engine.process.send_signal(signal.SIGHUP)
        for _ in range(50):
            if iii_state("set", "s", "k", "1234", url=engine.url).returncode == 0:
                break
        assert iii_state("get", "s", "k", url=engine.url).stdout == "1234\n"


def test_help_and_completion() -> None:
    done = iii_state("--help")
    assert done.returncode == 0
    for command in ("serve", "get", "set", "update", "delete", "list", "keys", "entries", "groups", "watch"):
        assert f"  {command} " in done.stdout
        assert iii_state(command, "--help").returncode == 0
    completion = subprocess.run(
        [sys.executable, "-c", "from iii_state.cli import main; main(prog_name='iii-state')"],
        env={"_III_STATE_COMPLETE": "bash_source", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "complete" in completion.stdout


def test_entries_reads_a_scope_of_many_pages(engine: EngineProcess) -> None:
    numbers = range(2500)

    async def fill() -> None:
        async with Client(engine.url) as client:
            await asyncio.gather(*(client.call("state::set", request(scope="many", key=str(n), value=n)) for n in numbers))

    uvloop.run(fill())
    printed = iii_state("entries", "many", url=engine.url).stdout.splitlines()
    assert sorted(map(json.loads, printed)) == sorted([str(number), number] for number in numbers)


def test_a_negative_number_is_a_value(engine: EngineProcess) -> None:
    done = iii_state("set", "negative", "k", "-5", url=engine.url)
    assert (done.returncode, done.stdout) == (0, '{"old_value":null,"new_value":-5}\n'), done
    assert "-5" not in iii_state("set", "negative", "k", "1", "-5", url=engine.url).stdout


def test_what_looks_like_an_option_is_one_or_stands_behind_two_dashes(engine: EngineProcess) -> None:
    for arguments in (("--ttl_ms=5", "5"), ("-x", "5"), ("k", "--ttl_ms=5", "5")):
        done = iii_state("set", "dashes", *arguments, url=engine.url)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert "behind --" in done.stderr
    assert iii_state("set", "dashes", "--ttl-ms=60000", "k", "5", url=engine.url).returncode == 0
    assert iii_state("set", "dashes", "--", "--ttl_ms=5", "5", url=engine.url).returncode == 0
    assert iii_state("keys", "dashes", url=engine.url).stdout == "k\n--ttl_ms=5\n"


def test_watch_ends_when_nobody_reads_it_any_more(engine: EngineProcess) -> None:
    command = [sys.executable, "-m", "iii_state", "watch", "unread", "--url", engine.url]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watch.stdout is not None
    assert watch.stderr is not None
    watch.stdout.close()
    try:
        for number in range(100):
            iii_state("set", "unread", "k", str(number), url=engine.url)
            if watch.poll() is not None:
                break
        assert watch.wait(10) is not None
        assert "Traceback" not in watch.stderr.read()
    finally:
        watch.kill()
        watch.wait()
        watch.stderr.close()
