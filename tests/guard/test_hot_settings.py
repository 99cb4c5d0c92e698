"""Settings that change while an engine runs: a changed file, SIGHUP, a file that cannot be used, and what needs a restart."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from iii_state import config as configuration
from iii_state.adapters.kv.journal.file import force_log_to_disk
from iii_state.engine import Engine
from iii_state.state.module import StateModule
from tests.support.engines.attached import attached
from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.engines.raw_worker import Port
from tests.support.engines.with_tokens import GuardedPort, Tokens, code, limited
from tests.support.waiting import until

SECONDS = 20.0


class Config:
    """An iii config.yaml that is written again while an engine reads it."""

    def __init__(self, file: Path, **settings: Any) -> None:
        self.file = file
        self.replace(**settings)

    @staticmethod
    def text(**settings: Any) -> str:
        return json.dumps({"workers": [{"name": "iii-state", "config": settings}]})

    def replace(self, **settings: Any) -> None:
        """As editors do: another file takes its name."""
        written = self.file.with_suffix(".new")
        written.write_text(self.text(**settings))
        written.replace(self.file)

    def overwrite(self, **settings: Any) -> None:
        """As a redirection of a shell does."""
        self.file.write_text(self.text(**settings))


@asynccontextmanager
async def port_of(engine: EngineProcess, tokens: Tokens | None = None) -> AsyncIterator[GuardedPort]:
    async with aiohttp.ClientSession() as session:
        port = GuardedPort(session, "127.0.0.1", engine.port, tokens) if tokens else Port(session, "127.0.0.1", engine.port)
        yield port  # type: ignore[misc]
        await port.disconnect()


async def said(engine: EngineProcess, pattern: str) -> re.Match[str]:
    return await asyncio.to_thread(engine.stderr.wait_for, re.compile(pattern), SECONDS)


async def has_read(engine: EngineProcess, times: int) -> None:
    """Wait until it has read its configuration so often again, and says so (`log_level: info`)."""
    found = re.compile("has been read again")
    await until(lambda: len(found.findall(engine.stderr.text())) >= times)


@pytest.fixture
async def config(tmp_path: Path) -> Config:
    return Config(tmp_path / "config.yaml", max_value_bytes=3)


@pytest.mark.parametrize("way", ["replaced", "overwritten", "replaced and SIGHUP"])
async def test_a_changed_file_is_applied_while_the_engine_runs(config: Config, way: str) -> None:
    with running_engine(["--config", str(config.file)]) as engine:
        async with port_of(engine) as port:
            worker = await port.connect()

            async def outcome(value: str) -> str | None:
                return code(await worker.call("state::set", {"scope": "s", "key": "k", "value": value}))

            assert await outcome("12345") == "VALUE_TOO_LARGE"
            if way == "overwritten":
                config.overwrite(max_value_bytes=7)
            else:
                config.replace(max_value_bytes=7)
            if way.endswith("SIGHUP"):
                engine.process.send_signal(signal.SIGHUP)

            async def fits() -> bool:
                return await outcome("12345") is None

            await until(fits)
            assert await outcome("123456") == "VALUE_TOO_LARGE"


async def test_triggers_are_switched_off_and_on(config: Config) -> None:
    config.replace(triggers_enabled=True)
    with running_engine(["--config", str(config.file)]) as engine:
        async with port_of(engine) as port:
            worker = await port.connect(name="w", pid=1)
            await worker.send("registerfunction", id="f")
            await worker.send("registertrigger", id="t", trigger_type="state", function_id="f", config={})
            for times, enabled in enumerate((False, True), 1):
                config.replace(triggers_enabled=enabled, log_level="info")
                engine.process.send_signal(signal.SIGHUP)
                await has_read(engine, times)
                await worker.call("state::set", {"scope": "s", "key": "k", "value": enabled})
            event = await worker.expect("invokefunction", function_id="f")
            assert event["data"]["new_value"] is True, "what was written while they were off has no event"
            await worker.answer(event)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workers: [", r"is no YAML"),
        (Config.text(max_value_bytes="many"), r"max_value_bytes has to be a whole number"),
        (Config.text(max_value=5), r"unknown key max_value; did you mean max_value_bytes\?"),
        (Config.text(server={"tokens_file": "nowhere.yaml"}, max_value_bytes=9), r"cannot read nowhere\.yaml"),
        (Config.text(server={"limits": {"frames": 1}}), r"unknown key server\.limits\.frames"),
    ],
)
async def test_a_file_that_cannot_be_used_changes_nothing_and_is_one_line(config: Config, text: str, says: str) -> None:
    with running_engine(["--config", str(config.file)]) as engine:
        config.file.write_text(text)
        line = (await said(engine, "the configuration is as it was: .*")).string
        assert re.search(says, line)
        assert engine.stderr.text().count("\n") == 2, "one line beside `listening on`"
        async with port_of(engine) as port:
            worker = await port.connect()
            assert code(await worker.call("state::set", {"scope": "s", "key": "k", "value": "12345"})) == "VALUE_TOO_LARGE"
            config.replace(max_value_bytes=7)

            async def fits() -> bool:
                return code(await worker.call("state::set", {"scope": "s", "key": "k", "value": "12345"})) is None

            await until(fits)


async def test_what_needs_a_restart_is_said_by_name_and_the_rest_is_applied(config: Config) -> None:
    with running_engine(["--config", str(config.file)]) as engine:
        config.replace(max_value_bytes=7, dispatch={"concurrency": 3}, server={"port": 1}, adapter={"name": "redis"})
        line = (await said(engine, "needs a restart: .*")).string
        assert "adapter.name" in line
        assert "dispatch.concurrency" in line
        assert "server" not in line, "--port goes before the file"
        async with port_of(engine) as port:
            worker = await port.connect()
            assert code(await worker.call("state::set", {"scope": "s", "key": "k", "value": "12345"})) is None


async def test_a_changed_tokens_file_gives_and_takes_without_a_signal(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.yaml", {"root": {}, "own": {}, "old": {}})
    with running_engine(["--tokens-file", str(tokens.file)]) as engine:
        async with port_of(engine, tokens) as port:
            own, old = await port.join("own"), await port.join("old")
            assert code(await own.call("state::set", {"scope": "a", "key": "k", "value": 1})) is None
            tokens.write({"root": {}, "own": limited(scopes=["b"], read_only=True), "new": {}})
            assert await old.closed() == 1012
            assert code(await own.call("state::get", {"scope": "a", "key": "k"})) == "FORBIDDEN"
            assert code(await own.call("state::set", {"scope": "b", "key": "k", "value": 1})) == "FORBIDDEN"
            with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                await port.join("old")
            assert code(await (await port.join("new")).call("state::get", {"scope": "a", "key": "k"})) is None


async def test_limits_change_for_connections_that_are_open(config: Config) -> None:
    with running_engine(["--config", str(config.file)]) as engine:
        async with port_of(engine) as port:
            worker = await port.connect(name="w", pid=1)
            await worker.send("registerfunction", id="f1")
            config.replace(server={"limits": {"registrations": 1}}, log_level="info")
            await has_read(engine, 1)
            await worker.send("registerfunction", id="f2")
            refused = await worker.expect("registrationrejected", function_id="f2")
            assert refused["error"]["code"] == "LIMIT_EXCEEDED"


async def test_the_level_of_the_log_changes_unless_an_option_says_it(config: Config) -> None:
    with running_engine(["--config", str(config.file)]) as engine:
        config.replace(log_level="debug")
        await has_read(engine, 1)
        config.replace(log_level="error", dispatch={"concurrency": 1})
        await said(engine, "needs a restart")
        config.file.write_text("workers: [")
        await said(engine, "ERROR +the configuration is as it was")


async def test_an_attached_worker_applies_its_changed_file(config: Config) -> None:
    with running_engine(["--no-state"]) as engine, attached(engine.url, "--config", str(config.file)):
        async with port_of(engine) as port:
            worker = await port.connect()

            async def outcome() -> str | None:
                return code(await worker.call("state::set", {"scope": "s", "key": "k", "value": "12345"}))

            async def is_refused() -> bool:
                return await outcome() == "VALUE_TOO_LARGE"

            await until(is_refused)
            config.replace(max_value_bytes=7)

            async def fits() -> bool:
                return await outcome() is None

            await until(fits)


async def test_the_save_interval_changes_for_the_wait_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[Path] = []

    def count(path: Path) -> None:
        forced.append(path)
        force_log_to_disk(path)

    monkeypatch.setattr("iii_state.adapters.kv.journal.journal.force_log_to_disk", count)
    settings: dict[str, Any] = {
        "adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path / "data")}},
        "save_interval_ms": 3_600_000,
    }
    async with Engine() as engine:
        module = StateModule(settings)
        await engine.add_module(module)
        await engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": 1}})
        assert module.reconfigure({**settings, "save_interval_ms": 100}) == []
        await until(lambda: forced)


def test_settings_have_the_names_of_the_configuration() -> None:
    parsed = configuration.parse
    assert (
        configuration.need_restart(parsed({}), parsed({"save_interval_ms": 100, "log_level": "info", "max_value_bytes": 1})) == []
    )
    changed = {
        "adapter": {"name": "redis", "config": {"prefix": "p"}},
        "dispatch": {"max_attempts": 1, "retention_ms": 1, "max_queue_length": 1},
        "server": {"host": "::1", "limits": {"connections": 1}},
    }
    names = configuration.need_restart(parsed({"adapter": {"name": "redis"}}), parsed(changed))
    assert names == [
        "adapter.config.prefix",
        "dispatch.max_attempts",
        "dispatch.max_queue_length",
        "dispatch.retention_ms",
        "server.host",
    ]
    assert "adapter.name" in configuration.need_restart(parsed({}), parsed(changed))
