"""`/metrics` on an engine's port: who may see it, how it is turned off, and what it says of connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from iii_state import Engine, StateModule
from iii_state.config import ServerSettings
from iii_state.errors import ConfigError
from iii_state.guard import Guard
from tests.support.engines.fixtures import session
from tests.support.engines.processes import running_engine
from tests.support.engines.raw_worker import Port
from tests.support.engines.with_tokens import guarded, limited
from tests.support.http import answer_to
from tests.support.metrics import lint, scraped, status

__all__ = ["session"]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine() as running:
        await running.add_module(StateModule())
        yield running


async def test_connections_and_bytes_are_counted_and_those_that_are_over_stay_counted(engine: Engine, session: object) -> None:
    port = Port(session, *await engine.serve("127.0.0.1", 0))  # type: ignore[arg-type]
    worker = await port.connect()
    before = await scraped(port.url)
    assert (before("connections_open"), before("workers"), before("connections_total")) == (1, 1, 1)
    await worker.call("state::set", {"scope": "s", "key": "k", "value": "x" * 10_000})
    during = await scraped(port.url)
    received, sent = ((during(name) or 0) - (before(name) or 0) for name in ("received_bytes_total", "sent_bytes_total"))
    assert 10_000 < received < 11_000
    assert 10_000 < sent < 11_000
    await worker.socket.close()
    await asyncio.sleep(0.05)
    after = await scraped(port.url)
    assert (after("connections_open"), after("workers"), after("connections_total")) == (0, 0, 1)
    assert (after("received_bytes_total") or 0) >= (during("received_bytes_total") or 0)
    assert await lint(after.text) == ""


async def test_with_tokens_it_takes_one_that_may_operate(tmp_path: Path) -> None:
    entries = {"all": {}, "operator": limited(operate=True), "limited": limited(functions=["state::*"])}
    async with guarded(tmp_path / "tokens.json", entries) as place:
        url = place.port.url

        def bearer(label: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {place.tokens.of(label)}"}

        assert (await status(url))[0] == 401
        assert (await status(url, {"Authorization": "Bearer nonsense"}))[0] == 401
        assert await status(url, bearer("limited")) == (403, "the token 'limited' may not see metrics (the right `operate`)")
        assert (await scraped(url, bearer("operator")))("workers") == 0
        assert (await scraped(url, bearer("all")))("workers") == 0


async def test_host_and_origin_are_checked_as_on_every_path(engine: Engine) -> None:
    place = await engine.serve("127.0.0.1", 0)
    assert (await answer_to(place, target="/metrics", host="evil.example")).status == 403
    assert (await answer_to(place, "Origin: https://evil.example", target="/metrics")).status == 403
    assert (await answer_to(place, target="/metrics")).status == 200


async def test_it_can_be_turned_off_while_it_runs() -> None:
    async with Engine(guard=Guard.of({"metrics": False})) as engine:
        host, port = await engine.serve("127.0.0.1", 0)
        url = f"http://{host}:{port}"
        assert await status(url) == (404, "metrics are turned off (server.metrics)")
        await engine.reload_guard(ServerSettings(metrics=True))
        assert (await status(url))[0] == 200


def test_the_setting_has_to_be_true_or_false() -> None:
    with pytest.raises(ConfigError, match=r"server\.metrics"):
        Guard.of({"metrics": "sometimes"})


async def test_serve_has_an_option_that_goes_before_the_setting() -> None:
    with running_engine() as engine:
        assert (await scraped(engine.url))("calls_total", function="state::get", adapter="kv", code="ok") == 0
    with running_engine(["--no-metrics"], config={"server": {"metrics": True}}) as engine:
        assert (await status(engine.url))[0] == 404


async def test_a_module_that_fails_to_tell_is_left_out(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: StateModule) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(StateModule, "figures", fails)
    host, port = await engine.serve("127.0.0.1", 0)
    metrics = await scraped(f"http://{host}:{port}")
    assert metrics("workers") == 0
    assert not metrics.all("calls_total")
