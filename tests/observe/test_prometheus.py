"""A real Prometheus scrapes two engines of one Redis: every panel of the dashboard has something to show, and a rule fires."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from iii_state.client.address import EngineAddress
from iii_state.client.client import Client
from iii_state.errors import FunctionError
from iii_state.guard import tokens as made
from tests.observe.test_package_data import RULES, queries
from tests.support.engines.processes import free_port, running_engine
from tests.support.metrics import program
from tests.support.redis.server import shared_server
from tests.support.waiting import until

pytestmark = pytest.mark.slow

FIRING = 'ALERTS{alertname="IiiStateDeadLetters", alertstate="firing"}'


class Prometheus:
    """A server that scrapes once a second."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"

    async def ask(self, path: str, **parameters: str) -> Any:
        """What its API answers."""
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as answer:
            told = await answer.json()
        assert told["status"] == "success", told
        return told["data"]

    async def is_ready(self) -> bool:
        try:
            async with self._session.get(f"{self._url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that it has for an expression now."""
        found: list[dict[str, Any]] = (await self.ask("query", query=expression))["result"]
        return found


@contextmanager
def scraping(folder: Path, targets: list[str], token: str) -> Iterator[int]:
    """The port of a server that scrapes these."""
    executable, port = program("prometheus"), free_port()
    (folder / "token").write_text(token)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "iii-state",
                "authorization": {"credentials_file": str(folder / "token")},
                "static_configs": [{"targets": targets}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        *(executable, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


async def traffic(client: Client) -> None:
    """Something of everything, a few times a second."""

    def handler(data: object, caller: object) -> bytes | None:
        raise ValueError("no")

    client.serving.register_function("orders::broken", handler)
    client.serving.register_function("orders::changed", lambda data, caller: b"1")
    await client.triggers.register("state", "orders::broken", {"scope": "orders", "key": "1", "retry": {"max_attempts": 1}})
    await client.triggers.register("state", "orders::changed", {"scope": "orders"})
    for number in range(100_000):
        request = json.dumps({"scope": "orders", "key": str(number % 100), "value": number, "ttl_ms": 60_000})
        await client.call("state::set", request.encode())
        await client.call("state::get", b'{"scope":"orders","key":"1"}')
        if not number % 10:
            with pytest.raises(FunctionError):
                await client.call("state::get", b"{}")
        await asyncio.sleep(0.01)


async def test_a_real_prometheus_shows_every_panel_and_an_alert_fires(tmp_path: Path) -> None:
    program("prometheus")
    server, token = shared_server(), made.make()
    server.client.flushall()
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"tokens": [{"name": "all", "hash": made.hashed(token)}]}))
    config = {
        "adapter": {"name": "redis", "config": {"redis_url": server.url}},
        "server": {"tokens_file": str(file)},
    }
    with running_engine(config=config) as first, running_engine(config=config) as second:
        targets = [f"127.0.0.1:{engine.port}" for engine in (first, second)]
        address = EngineAddress(first.url, token=token)
        with scraping(tmp_path, targets, token) as port:
            async with aiohttp.ClientSession() as session, Client(address) as client:
                scraper = Prometheus(session, port)
                await until(scraper.is_ready, "Prometheus does not answer")
                working = asyncio.create_task(traffic(client))
                try:
                    await until(lambda: _has(scraper, "count(iii_state_build_info) == 2"), "two engines are scraped")
                    await until(
                        lambda: _has(scraper, 'ALERTS{alertname="IiiStateDeadLetters", alertstate="firing"}'), "the rule fires"
                    )
                    tellers = await scraper.query("count by (instance) (iii_state_events_waiting)")
                    assert len(tellers) == 1, "one of two tells what belongs to Redis"
                    for query in queries():
                        await until(partial(scraper.query, query), f"nothing to show for {query}")
                    alerts = (await scraper.ask("alerts"))["alerts"]
                    (alert,) = [alert for alert in alerts if alert["state"] == "firing"]
                    assert alert["labels"]["alertname"] == "IiiStateDeadLetters"
                    assert alert["labels"]["function_id"] == "orders::broken"
                    assert "orders::broken has" in alert["annotations"]["summary"]
                    assert not working.done(), working
                finally:
                    working.cancel()


async def _has(scraper: Prometheus, expression: str) -> bool:
    return bool(await scraper.query(expression))
