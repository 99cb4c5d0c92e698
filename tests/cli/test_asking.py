"""Conditions, meta, parts of a scope and many keys on the command line, as they are typed, against a real engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from iii_state import Engine
from iii_state.cli import main
from tests.cli.test_cli import iii_state
from tests.cli.test_what_to_do import error
from tests.support.engines.processes import EngineProcess, running_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as process:
        yield process


HAS_A = '[{"path":"a","present":true}]'


class Typed:
    """Commands at an engine: what they print, where they are to succeed, and what they say, where they are not."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, *arguments: str, text: str = "") -> str:
        done = CliRunner().invoke(main, arguments, input=text, env={"III_STATE_URL": self.url})
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        return done.stdout

    def fails(self, *arguments: str, text: str = "") -> str:
        done = CliRunner().invoke(main, arguments, input=text, env={"III_STATE_URL": self.url})
        assert done.exit_code == 1, done.output
        return done.stderr.strip()


@pytest.fixture
def typed(engine: EngineProcess) -> Typed:
    return Typed(engine.url)


def unmet(index: int, scope: str, path: str = "root") -> str:
    return f"Error: CONDITION_FAILED: Condition {index} does not hold at path '{path}' of scope '{scope}', key 'k'"


def test_the_conditions_of_a_set(typed: Typed) -> None:
    assert typed.run("set", "sets", "k", "1", "--if-absent") == '{"old_value":null,"new_value":1}\n'
    assert typed.fails("set", "sets", "k", "2", "--if-absent") == unmet(0, "sets")
    assert typed.fails("set", "sets", "k", "-5", "--if-equals", "-5") == unmet(0, "sets")
    assert typed.run("set", "sets", "k", "-5", "--if-equals", "1.0") == '{"old_value":1,"new_value":-5}\n'
    etag = json.loads(typed.run("get", "sets", "k", "--meta"))["etag"]
    assert json.loads(typed.run("set", "sets", "k", "[]", "--if-etag", etag, "--meta"))["etag"] != etag
    assert typed.fails("set", "sets", "k", "3", "--if-etag", etag) == unmet(0, "sets")
    assert typed.fails("set", "sets", "k", "3", "--if-equals", "[]", "--if", HAS_A) == unmet(1, "sets", "a")
    assert typed.run("get", "sets", "k") == "[]\n"


def test_the_conditions_of_an_update_and_a_delete(typed: Typed) -> None:
    take = ("update", "stock", "k", '[{"type":"decrement","path":"n","by":1}]', "--if", '{"path":"n","gte":1}')
    typed.run("set", "stock", "k", '{"n":1}')
    assert typed.run(*take) == '{"old_value":{"n":1},"new_value":{"n":0}}\n'
    assert typed.fails(*take) == unmet(0, "stock", "n")
    assert typed.fails("delete", "stock", "k", "--if-equals", '{"n":1}') == unmet(0, "stock")
    assert typed.fails("delete", "stock", "k", "--if-etag", "x") == unmet(0, "stock")
    assert typed.run("delete", "stock", "k", "--if-equals", '{"n":0.0}') == '{"n":0}\n'
    assert typed.run("delete", "stock", "k", "--if-absent") == "null\n"


def test_a_strict_update_refuses_all(typed: Typed) -> None:
    typed.run("set", "strict", "k", '{"n":1,"t":"x"}')
    ops = '[{"type":"increment","path":"n","by":1},{"type":"increment","path":"t","by":1}]'
    assert typed.fails("update", "strict", "k", ops, "--strict").startswith("Error: OP_FAILED: ")
    assert typed.run("get", "strict", "k") == '{"n":1,"t":"x"}\n'


def test_what_is_known_of_a_value(typed: Typed) -> None:
    typed.run("set", "meta", "k", "1", "--ttl-ms", "60000")
    known = json.loads(typed.run("get", "meta", "k", "--meta"))
    assert (known["value"], known["revision"]) == (1, None)
    assert 0 < known["ttl_ms"] <= 60_000
    assert json.loads(typed.run("update", "meta", "k", "[]", "--meta"))["etag"] is not None
    assert json.loads(typed.run("get", "meta", "nothing", "--meta")) == dict.fromkeys(("value", "etag", "ttl_ms", "revision"))


def test_touch(typed: Typed) -> None:
    assert typed.fails("touch", "touched", "k", "--forever") == "nothing is stored at touched k"
    typed.run("set", "touched", "k", "1")
    assert typed.run("touch", "touched", "k", "--ttl-ms", "60000") == '{"found":true}\n'
    assert json.loads(typed.run("get", "touched", "k", "--meta"))["ttl_ms"] > 0
    assert typed.run("touch", "touched", "k", "--forever") == '{"found":true}\n'
    assert json.loads(typed.run("get", "touched", "k", "--meta"))["ttl_ms"] is None


def test_a_part_of_a_scope(typed: Typed) -> None:
    for key in ("b2", "a1", "b10", "c"):
        typed.run("set", "parts", key, f'"{key}"')
    assert typed.run("list", "parts", "--prefix", "b", "--order", "desc") == '"b2"\n"b10"\n'
    assert typed.run("list", "parts", "--limit", "1", "--order", "asc", "--json") == '["a1"]\n'
    assert typed.run("keys", "parts", "--limit", "2") == "a1\nb10\n"
    assert typed.run("keys", "parts", "--limit", "2", "--after", "b10") == "b2\nc\n"
    assert json.loads(typed.run("keys", "parts", "--limit", "1", "--json")) == {"keys": ["a1"], "next": "a1"}
    assert typed.run("keys", "parts", "--prefix", "b", "--order", "desc") == "b2\nb10\n"
    assert typed.run("entries", "parts", "--prefix", "b", "--order", "asc") == '["b10","b10"]\n["b2","b2"]\n'


def test_many_values_at_once(typed: Typed) -> None:
    typed.run("set", "many", "a", "1")
    typed.run("set", "many", "n", "null")
    assert typed.run("get-many", "many", "n", "nothing", "a") == '["n",null]\n["a",1]\n'
    answer = {"values": [{"found": False, "value": None}, {"found": True, "value": 1}]}
    assert json.loads(typed.run("get-many", "many", "nothing", "a", "--json")) == answer


def test_a_transaction(typed: Typed) -> None:
    steps = json.dumps(
        [
            {"type": "set", "key": "a", "value": 1},
            {"type": "update", "key": "b", "ops": [{"type": "increment", "path": "n", "by": 1}]},
            {"type": "delete", "key": "a"},
        ]
    )
    printed = '{"old_value":null,"new_value":1}\n{"old_value":null,"new_value":{"n":1}}\n{"old_value":1}\n'
    assert typed.run("transact", "steps", steps) == printed
    assert len(json.loads(typed.run("transact", "steps", "-", "--json", text=steps))["results"]) == 3
    refused = '[{"type":"set","key":"x","value":1},{"type":"delete","key":"k","if":[{"present":true}]}]'
    words = "Condition 0 does not hold at path 'root' of scope 'steps', key 'k'"
    assert typed.fails("transact", "steps", refused) == f"Error: CONDITION_FAILED: steps[1]: {words}"
    skipped = '[{"type":"update","key":"b","ops":[{"type":"append","path":"n","value":1}]}]'
    assert typed.fails("transact", "steps", skipped).startswith("step 0, op 0: append.type_mismatch: ")
    assert typed.run("keys", "steps") == "b\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "s", "k", "1", "--if-equals", "hello"), "Invalid value for --if-equals: 'hello' is no JSON"),
        (("set", "s", "k", "1", "--if", "1"), "Invalid value for --if: it has to be a list of conditions"),
        (("delete", "s", "k", "--if", "[{]"), "Invalid value for --if: '[{]' is no JSON"),
        (("set", "s", "k", "1", "--if-absent", "--if-equals", "1"), "--if-absent never holds together with --if-etag or"),
        (("touch", "s", "k"), "Give --ttl-ms or --forever, one of them."),
        (("touch", "s", "k", "--ttl-ms", "5", "--forever"), "Give --ttl-ms or --forever, one of them."),
        (("list", "s", "--order", "up"), "Invalid value for '--order': 'up' is not one of 'asc', 'desc'."),
        (("keys", "s", "--limit", "0"), "Invalid value for '--limit': 0 is not in the range 1<=x<=100000."),
        (("get-many", "s"), "Missing argument 'KEYS...'."),
        (("transact", "s", "[1,]"), "Invalid value for STEPS: '[1,]' is no JSON"),
    ],
)
def test_wrong_usage_says_what_is_wrong(arguments: tuple[str, ...], words: str) -> None:
    assert words in error(*arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "s", "k", "1", "--if", "[]"), "if: invalid length"),
        (("set", "s", "k", "1", "--if", '{"equal":1}'), "if[0]"),
        (("transact", "s", '[{"type":"move","key":"k"}]'), "steps[0].type: unknown variant `move`"),
    ],
)
def test_what_the_engine_cannot_use_is_said_in_its_words(arguments: tuple[str, ...], words: str, typed: Typed) -> None:
    said = typed.fails(*arguments)
    assert said.startswith("Error: deserialization_error: ")
    assert words in said


async def test_what_an_older_engine_lacks_is_refused_and_nothing_is_done() -> None:
    called: list[Any] = []
    async with Engine() as engine:
        for name in ("set", "get", "delete", "update", "list", "list_keys", "list_entries"):
            engine.register_function(f"state::{name}", called.append)
        host, port = await engine.serve("127.0.0.1", 0)
        typed = Typed(f"ws://{host}:{port}")
        for arguments, feature in (
            (("set", "s", "k", "1", "--if-absent"), "if"),
            (("set", "s", "k", "1", "--meta"), "meta"),
            (("get", "s", "k", "--meta"), "meta"),
            (("delete", "s", "k", "--if-etag", "x"), "if"),
            (("update", "s", "k", "[]", "--strict"), "meta"),
            (("update", "s", "k", "[]", "--if", "[]"), "if"),
            (("touch", "s", "k", "--forever"), "touch"),
            (("list", "s", "--limit", "1"), "prefix"),
            (("keys", "s", "--after", "k"), "prefix"),
            (("entries", "s", "--order", "asc"), "prefix"),
            (("get-many", "s", "k"), "many"),
            (("transact", "s", "[]"), "transact"),
        ):
            words = f"Error: UNSUPPORTED: the engine at {typed.url} does not have the feature `{feature}`; nothing was changed"
            assert await asyncio.to_thread(typed.fails, *arguments) == words
        assert called == []


def test_an_engine_without_state_is_said_to_be_one() -> None:
    with running_engine(["--no-state"]) as engine:
        said = Typed(engine.url).fails("touch", "s", "k", "--forever")
    assert said == f"Error: function_not_found: the engine at {engine.url} has no state (state::set)"


def test_every_help_shows_how_it_is_typed() -> None:
    for command in ("set", "update", "delete", "list", "keys", "get-many", "transact", "touch"):
        done = iii_state(command, "--help")
        assert done.returncode == 0
        assert f"  iii-state {command} " in done.stdout, done.stdout
