"""A worker on an official SDK with a limited token: what it may not do fails by itself, and the worker goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.engines.with_tokens import Tokens, limited
from tests.support.sdk.workers import NODE_NEW, NODE_OLD, PYTHON_NEW, PYTHON_OLD, CallFailedError, Sdk, installed, running_worker
from tests.support.slow import slow

RIGHTS = limited(functions=["state::*", "own::*"], register=["own::*"], scopes=["own/*", "settle"])


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineProcess, Tokens]]:
    tokens = Tokens(tmp_path_factory.mktemp("guarded") / "tokens.yaml", {"own": RIGHTS})
    with running_engine(["--tokens-file", str(tokens.file)]) as engine:
        yield engine, tokens


@pytest.mark.parametrize("sdk", [PYTHON_NEW, NODE_NEW, slow(PYTHON_OLD), slow(NODE_OLD)], ids=lambda sdk: sdk.name)
def test_what_is_refused_does_not_end_the_worker(guarded: tuple[EngineProcess, Tokens], sdk: Sdk, unique: str) -> None:
    engine, tokens = guarded
    headers = {"WORKER_HEADERS": json.dumps({"Authorization": f"Bearer {tokens.of('own')}"})}
    with running_worker(installed(sdk), engine.url, f"limited-{unique}", environment=headers) as worker:
        scope = f"own/{unique}"
        worker.register_function(f"others::{unique}", kind="echo")
        worker.register_function(f"own::{unique}", kind="echo")
        worker.register_trigger(f"own::{unique}", {"scope": "secret"}, name="refused")
        worker.register_trigger(f"own::{unique}", {"scope": scope})
        with pytest.raises(CallFailedError, match="FORBIDDEN"):
            worker.call("state::set", {"scope": "secret", "key": "k", "value": 1})
        value: dict[str, Any] = {"scope": scope, "key": "k", "value": 1}
        assert worker.call("state::set", value) == {"old_value": None, "new_value": 1}
        assert worker.wait_for_calls(f"own::{unique}")[0].payload["scope"] == scope
        assert worker.call(f"own::{unique}", {"n": 1})["n"] == 1
