"""Rights through what stands between: a bridge, an attached worker, a worker on an official SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from iii_state.engine import Engine
from iii_state.state.module import StateModule
from tests.support.engines.attached import attached, said
from tests.support.engines.raw_worker import Port
from tests.support.engines.with_tokens import Guarded, code, guarded, limited

ENTRIES = {
    "root": {},
    "bridge": limited(functions=["state::*"], register=[], scopes=["mine", "mine/*"]),
    "attach": limited(register=["state", "state::*", "iii-state::*"], trigger_types=True),
    "own": limited(scopes=["mine"], operate=True),
    "full": limited(),
}


@asynccontextmanager
async def bridged(remote: Guarded) -> AsyncIterator[Port]:
    """The port of an engine without tokens whose state is a bridge to another, with the token `bridge`."""
    url = remote.port.url.replace("http", "ws")
    config: dict[str, Any] = {"bridge_url": url, "token": remote.tokens.of("bridge")}
    async with Engine() as engine:
        await engine.add_module(StateModule({"adapter": {"name": "bridge", "config": config}}))
        async with aiohttp.ClientSession() as session:
            port = Port(session, *await engine.serve("127.0.0.1", 0))
            yield port
            await port.disconnect()


async def test_through_a_bridge_the_bridges_token_counts(tmp_path: Path) -> None:
    async with guarded(tmp_path / "tokens.yaml", ENTRIES) as remote, bridged(remote) as port:
        root, caller = await remote.join("root"), await port.connect(name="caller", pid=1)
        await root.call("state::set", {"scope": "secret", "key": "k", "value": "s3cret"})
        assert code(await caller.call("state::set", {"scope": "mine", "key": "k", "value": 1})) is None
        assert (await caller.call("state::get", {"scope": "mine", "key": "k"}))["result"] == 1
        for function_id, more in (("get", {}), ("set", {"value": 1}), ("delete", {}), ("update", {"ops": []})):
            assert code(await caller.call(f"state::{function_id}", {"scope": "secret", "key": "k", **more})) == "FORBIDDEN"
        for function_id in ("list", "list_keys", "list_entries", "history"):
            assert code(await caller.call(f"state::{function_id}", {"scope": "secret"})) == "FORBIDDEN"
        assert (await caller.call("state::list_groups", {}))["result"] == {"groups": ["mine"]}
        assert code(await caller.call("iii-state::dead_list", {})) == "FORBIDDEN"


async def test_a_bridge_has_the_events_of_its_tokens_scopes_and_no_other(tmp_path: Path) -> None:
    async with guarded(tmp_path / "tokens.yaml", ENTRIES) as remote, bridged(remote) as port:
        root, caller = await remote.join("root"), await port.connect(name="caller", pid=1)
        await caller.send("registerfunction", id="f")
        for scope in ("mine", "secret"):
            await caller.send("registertrigger", id=scope, trigger_type="state", function_id="f", config={"scope": scope})
        await caller.call("engine::triggers::list", {})
        for scope in ("secret", "mine"):
            await root.call("state::set", {"scope": scope, "key": "k", "value": 1})
        event = await caller.expect("invokefunction", function_id="f")
        assert event["data"]["scope"] == "mine"
        await caller.answer(event)
        assert [frame for frame in await caller.settled() if frame["type"] == "invokefunction"] == []


async def test_an_attached_worker_needs_the_rights_that_the_page_names(tmp_path: Path) -> None:
    async with guarded(tmp_path / "tokens.yaml", ENTRIES, with_state=False) as engine:
        url = engine.port.url.replace("http", "ws")
        with attached(url, environment={"III_TOKEN": engine.tokens.of("attach")}) as process:
            await said(process, "attached to ")
            full, own = await engine.join("full"), await engine.join("own")
            await full.send("registerfunction", id="f")
            await full.send("registertrigger", id="t", trigger_type="state", function_id="f", config={"scope": "mine"})
            assert code(await full.call("state::set", {"scope": "mine", "key": "k", "value": 1})) is None
            event = await full.expect("invokefunction", function_id="f")
            assert event["data"]["scope"] == "mine"
            await full.answer(event)
            for function_id in ("state::get", "state::list_groups", "iii-state::dead_list", "iii-state::dead_drop"):
                assert code(await own.call(function_id, {"scope": "mine", "key": "k"})) == "FORBIDDEN"
            await own.send("registertrigger", id="o", trigger_type="state", function_id="f", config={"scope": "secret"})
            assert (await own.expect("triggerregistrationresult", id="o"))["error"]["code"] == "FORBIDDEN"
