"""How workers on the official SDKs bring a token: a header, the environment, or the address."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from iii_state.guard import tokens
from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.sdk.workers import NODE_NEW, NODE_OLD, PYTHON_NEW, PYTHON_OLD, Sdk, Worker, installed, running_worker
from tests.support.slow import slow
from tests.support.waiting import wait_until

TOKEN = tokens.make()

every_sdk = pytest.mark.parametrize("sdk", [PYTHON_NEW, NODE_NEW, slow(PYTHON_OLD), slow(NODE_OLD)], ids=lambda sdk: sdk.name)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    file = tmp_path_factory.mktemp("guarded") / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    with running_engine(["--token-file", str(file)]) as engine:
        yield engine


def check(worker: Worker, scope: str) -> None:
    at = {"scope": scope, "key": "k"}
    assert worker.call("state::set", {**at, "value": 1}) == {"old_value": None, "new_value": 1}
    assert worker.call("state::get", at) == 1


@every_sdk
def test_a_header_of_the_options_lets_a_worker_in(guarded: EngineProcess, sdk: Sdk, unique: str) -> None:
    headers = {"WORKER_HEADERS": json.dumps({"Authorization": f"Bearer {TOKEN}"})}
    with running_worker(installed(sdk), guarded.url, "by-header", environment=headers) as worker:
        check(worker, unique)


@every_sdk
def test_the_query_of_the_address_lets_a_worker_in(guarded: EngineProcess, sdk: Sdk, unique: str) -> None:
    with running_worker(installed(sdk), f"{guarded.url}/?access_token={TOKEN}", "by-query") as worker:
        check(worker, unique)


def test_the_environment_lets_a_new_python_worker_in_on_telemetry_and_channels_too(guarded: EngineProcess, unique: str) -> None:
    environment = {"III_TOKEN": TOKEN, "OTEL_ENABLED": "true"}
    with running_worker(installed(PYTHON_NEW), guarded.url, "by-environment", environment=environment) as worker:
        check(worker, unique)


@pytest.mark.parametrize("sdk", [PYTHON_NEW, NODE_NEW], ids=lambda sdk: sdk.name)
def test_with_a_wrong_token_a_worker_stays_outside(guarded: EngineProcess, sdk: Sdk) -> None:
    before = guarded.stderr.text().count("its token is not known")
    headers = {"WORKER_HEADERS": json.dumps({"Authorization": f"Bearer {tokens.make()}"})}
    worker = Worker(installed(sdk), guarded.url, "outside", headers)
    try:
        wait_until(lambda: guarded.stderr.text().count("its token is not known") > before, "it was never refused")
        assert TOKEN not in guarded.stderr.text()
    finally:
        worker.kill()
