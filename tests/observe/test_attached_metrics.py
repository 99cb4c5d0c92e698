"""`iii-state attach --metrics-port`: an attached worker shows its metrics on a port of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from iii_state.guard import tokens as made
from tests.support.engines.attached import AttachProcess, attached
from tests.support.engines.processes import EngineProcess, free_port, running_engine
from tests.support.http import answer_to
from tests.support.metrics import lint, scraped, status
from tests.support.waiting import until

ON_A_PORT = ("--metrics-port", "0")


def where(worker: AttachProcess) -> str:
    """Where a worker shows its metrics, without the path."""
    worker.wait_for("metrics at ")
    found = re.search(r"metrics at (\S+)/metrics", worker.stderr.text())
    assert found is not None
    return found[1]


async def test_a_leader_and_a_standby_tell_what_they_are(tmp_path: Path) -> None:
    with running_engine(["--no-state"]) as engine, attached(engine.url, *ON_A_PORT) as worker:
        worker.until_attached()
        metrics = await scraped(where(worker))
        assert {role: metrics("attached", role=role) for role in ("leader", "standby", "waiting")} == {
            "leader": 1,
            "standby": 0,
            "waiting": 0,
        }
        assert metrics("calls_total", function="state::set", adapter="kv", code="ok") == 0
        assert metrics("build_info")
        assert await lint(metrics.text) == ""
        engine.kill()
        await until(lambda: _is_waiting(where(worker)))


async def _is_waiting(url: str) -> bool:
    return (await scraped(url))("attached", role="waiting") == 1


async def test_it_tells_of_a_missing_engine() -> None:
    with attached(f"ws://127.0.0.1:{free_port()}", *ON_A_PORT) as worker:
        assert (await scraped(where(worker)))("attached", role="waiting") == 1


async def test_it_wants_tokens_where_the_configuration_has_some(tmp_path: Path) -> None:
    token = made.make()
    file = tmp_path / "tokens.json"
    entry = {"name": "prometheus", "hash": made.hashed(token), "rights": {"operate": True}}
    file.write_text(json.dumps({"tokens": [entry]}))
    config = {"server": {"tokens_file": str(file)}}
    with running_engine(["--no-state"]) as engine, attached(engine.url, *ON_A_PORT, config=config) as worker:
        url = where(worker)
        assert (await status(url))[0] == 401
        assert (await scraped(url, {"Authorization": f"Bearer {token}"})).all("attached")
        port = int(url.rpartition(":")[2])
        assert (await answer_to(("127.0.0.1", port), target="/metrics", host="evil.example")).status == 403


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--metrics-port", "0", "--metrics-host", "0.0.0.0"), "can be reached by others"),
        (("--metrics-port", "0", "--metrics-host", ""), "it is empty"),
    ],
)
def test_an_address_that_cannot_be_had_is_an_error(arguments: tuple[str, ...], words: str) -> None:
    with attached(f"ws://127.0.0.1:{free_port()}", *arguments) as worker:
        assert worker.wait() != 0
        assert words in worker.stderr.text()


def test_a_port_that_is_taken_is_an_error() -> None:
    with running_engine() as engine:
        assert isinstance(engine, EngineProcess)
        with attached(engine.url, "--metrics-port", str(engine.port)) as worker:
            assert worker.wait() == 1
            assert f"cannot listen on 127.0.0.1:{engine.port}: another program has this port" in worker.stderr.text()
