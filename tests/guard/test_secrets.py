"""Secrets are in no error, no log line, no repr and no answer: of configurations that are wrong, of stores that are away."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from iii_state import config
from iii_state.engine import Engine
from iii_state.errors import ConfigError, StateError
from iii_state.guard import Guard, tokens
from iii_state.state.module import StateModule
from tests.support.engines.processes import IN_PYTHON, EngineProcess, free_port
from tests.support.http import answer_to

SECRET = "hunter2hunter2"
URL = f"redis://me:{SECRET}@localhost:1"

WRONG: list[Any] = [
    URL,
    [URL],
    {"adapter": URL},
    {"adapter": {"name": URL}},
    {"adapter": {"name": "redis", "config": URL}},
    {"adapter": {"name": "redis", "config": {"redis_url": [URL]}}},
    {"adapter": {"name": "redis", "config": {"redis_url": {"url": URL}}}},
    {"adapter": {"name": "redis", "config": {"redis_url": f"redis://me:{SECRET}@localhost:port"}}},
    {"adapter": {"name": "redis", "config": {"redis_url": f"redis://me:{SECRET}@localhost/db"}}},
    {"adapter": {"name": "redis", "config": {"redis_url": f"redis://me:{SECRET}#@localhost"}}},
    {"adapter": {"name": "redis", "config": {"redis_url": f"http://me:{SECRET}@localhost"}}},
    {"adapter": {"name": "redis", "config": {"redis_url": f"redis://me:1{SECRET}@[localhost"}}},
    {"adapter": {"name": "redis", "config": {"redis_url": f"rediss://me:{SECRET}@localhost?ssl_cert_reqs=x"}}},
    {"adapter": {"name": "redis", "config": {"redis_url": f"redis+sentinel://me:{SECRET}@localhost"}}},
    {"adapter": {"name": "redis", "config": {"redis_url": URL, "tls": {"ca": "/nowhere"}}}},
    {"adapter": {"name": "redis", "config": {"prefix": [URL]}}},
    {"adapter": {"name": "bridge", "config": {"bridge_url": f"tcp://me:{SECRET}@localhost"}}},
    {"adapter": {"name": "bridge", "config": {"bridge_url": f"tcp://localhost?access_token={SECRET}"}}},
    {"adapter": {"name": "bridge", "config": {"bridge_url": f"ws://me:{SECRET}@localhost:99999"}}},
    {"adapter": {"name": "bridge", "config": {"token": [SECRET]}}},
    {"adapter": {"name": "bridge", "config": {"token": {SECRET: 1}}}},
    {"adapter": {"name": "bridge", "config": {"token": SECRET, "token_file": "x"}}},
    {"triggers_enabled": URL},
    {"max_value_bytes": URL},
    {"dispatch": URL},
    {"dispatch": {"retention_ms": URL}},
    {"server": URL},
    {"server": {"tls": URL}},
    {"server": {"allow_origins": URL}},
    {"server": {"allow_origins": [{"x": SECRET}]}},
    {"server": {"limits": {"connections": URL}}},
]


@pytest.mark.parametrize("given", WRONG, ids=lambda given: str(given)[:70])
def test_no_error_of_a_configuration_quotes_a_secret(given: Any) -> None:
    with pytest.raises(StateError) as refused:
        StateModule(given)
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        f"workers: [{{name: iii-state, config: {{adapter: {{config: {{redis_url: {URL}: x: y",
        f"workers:\n  - name: iii-state\n    config:\n      token: {SECRET}\n     redis_url: [",
        f"{SECRET}",
        f"- {SECRET}",
        f"workers: {SECRET}",
        f"workers: [{SECRET}]",
        f"workers: [{{name: iii-state, config: {SECRET}}}]",
        f"workers: [{{name: iii-state, config: [{SECRET}]}}]",
        f"workers: [{{name: other, config: {SECRET}}}, {{config: {SECRET}}}]",
        f"\tworkers: {SECRET}",
        f'workers: "{SECRET}',
    ],
)
def test_no_error_of_a_file_quotes_a_secret(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "config.yaml"
    file.write_text(text)
    error = ""
    try:
        config.load(file)
    except ConfigError as raised:
        error = str(raised)
    assert SECRET not in error + caplog.text


@pytest.mark.parametrize(
    "adapter",
    [
        {"name": "bridge", "config": {"bridge_url": f"ws://me:{SECRET}@127.0.0.1:1/?access_token={SECRET}", "token": SECRET}},
        {"name": "bridge", "config": {"bridge_url": "ws://127.0.0.1:1", "token": SECRET}},
    ],
)
async def test_health_and_log_tell_no_secret_of_a_store_that_is_away(
    adapter: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    adapter["config"]["call_timeout_ms"] = 200
    async with Engine() as engine:
        await engine.add_module(StateModule({"adapter": adapter}))
        place = await engine.serve("127.0.0.1", 0)
        told = await answer_to(place, target="/healthz")
        assert told.status == 503
        assert "127.0.0.1" in json.loads(told.rest)["reasons"]["iii-state"]
        assert SECRET.encode() not in told.rest
        with pytest.raises(StateError) as refused:
            await engine.trigger({"function_id": "state::get", "payload": {"scope": "s", "key": "k"}})
        assert SECRET not in str(refused.value)
    assert SECRET not in caplog.text


async def test_a_redis_that_refuses_or_is_away_is_told_of_without_its_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for url in (
        f"redis://me:{SECRET}@127.0.0.1:1",
        f"redis://:{SECRET}@no-such-host.invalid",
        f"unix:///nowhere?password={SECRET}",
    ):
        async with Engine() as engine:
            with pytest.raises(StateError) as refused:
                await engine.add_module(StateModule({"adapter": {"name": "redis", "config": {"redis_url": url}}}))
        assert SECRET not in str(refused.value)
    assert SECRET not in caplog.text


def test_nothing_is_logged_with_everything_logged(tmp_path: Path) -> None:
    """`-vv serve`, with secrets wherever they can be."""
    token = tokens.make()
    file = tmp_path / "tokens.yaml"
    file.write_text(yaml.safe_dump({"tokens": [{"name": "ci", "hash": tokens.hashed(token)}]}))
    bridge = {"bridge_url": f"ws://me:{SECRET}@127.0.0.1:{free_port()}", "token": SECRET, "call_timeout_ms": 100}
    engine = EngineProcess(
        config={"adapter": {"name": "bridge", "config": bridge}, "server": {"tokens_file": str(file)}},
        environment={"III_STATE_TOKEN": SECRET + SECRET},
        serve=[*IN_PYTHON, "-vv", "serve"],
    )
    arguments = Path(f"/proc/{engine.process.pid}/cmdline")
    assert not arguments.exists() or SECRET.encode() not in arguments.read_bytes()
    assert engine.stop() == 0
    for secret in (SECRET, token):
        assert secret not in engine.stderr.text()


def test_no_repr_shows_what_a_guard_keeps(tmp_path: Path) -> None:
    token = tokens.make()
    file = tmp_path / "token"
    file.write_text(token)
    guard = Guard.of({"token_file": str(file)})
    for what in (guard, guard.tokens, guard.settings, vars(guard), vars(guard.tokens)):
        assert token not in repr(what)
