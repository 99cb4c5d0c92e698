"""One family of errors, codes in one place, and what a caller is told of a mutation whose outcome is in doubt."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import iii_state
from iii_state import Engine, FunctionError, StateModule
from iii_state.errors import Code, StateError
from tests.support.redis.proxy import proxy_to
from tests.support.redis.server import RedisServer

PACKAGE = Path(iii_state.__file__).parent


CAUGHT_WHERE_THEY_ARE_RAISED = {
    "HandshakeError",
    "NoConditions",
    "NotApplied",
    "SessionGone",
}
"""What a session or a handshake refuses, on its way within one adapter or one end of a socket: no caller sees it."""


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(iii_state.__path__, "iii_state."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def test_every_public_exception_is_of_the_family_and_stands_in_one_file() -> None:
    elsewhere = [
        f"{module.__name__}.{name}"
        for module in modules()
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and issubclass(kind, BaseException)
        and kind.__module__ == module.__name__
        and module.__name__ != "iii_state.errors"
        and not name.startswith("_")
        and name not in CAUGHT_WHERE_THEY_ARE_RAISED
    ]
    assert elsewhere == []
    family = [kind for kind in vars(iii_state.errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert len(family) > 15
    assert [kind for kind in family if not issubclass(kind, StateError)] == []


def test_codes_stand_in_one_file() -> None:
    codes = {str(code) for code in Code} - {"worker_lost"}  # a fate has the same name (wire/messages.py)
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in codes
    ]
    assert found == []


CALLS = {
    "state::set": {"scope": "s", "key": "k", "value": 1},
    "state::update": {"scope": "s", "key": "k", "ops": [{"type": "increment", "path": "n", "by": 1}]},
    "state::delete": {"scope": "s", "key": "k"},
}


@pytest.mark.parametrize("function_id", CALLS)
async def test_a_mutation_that_may_have_been_applied_says_so_by_its_code(function_id: str) -> None:
    with RedisServer() as server:
        async with proxy_to(server.port) as proxy, Engine() as engine:
            config = {"redis_url": proxy.url, "call_timeout_ms": 500}
            await engine.add_module(StateModule({"adapter": {"name": "redis", "config": config}}))
            await engine.trigger({"function_id": "state::get", "payload": {"scope": "s", "key": "k"}})
            proxy.mute = True
            with pytest.raises(FunctionError) as raised:
                await engine.trigger({"function_id": function_id, "payload": CALLS[function_id]})
            assert raised.value.code == Code.OUTCOME_UNKNOWN
            what = function_id.removeprefix("state::")
            assert raised.value.message.startswith(f"Failed to {what} value: ")
            assert raised.value.message.endswith("whether the change was made is not known")
            with pytest.raises(FunctionError) as raised:
                await engine.trigger({"function_id": "state::get", "payload": {"scope": "s", "key": "k"}})
            assert raised.value.code == Code.GET_ERROR
            proxy.mute = False
            proxy.cut_all()


@pytest.mark.parametrize("function_id", CALLS)
async def test_a_mutation_that_was_never_sent_has_the_code_of_its_function(function_id: str) -> None:
    with RedisServer() as server:
        async with Engine() as engine:
            config = {"redis_url": server.url, "call_timeout_ms": 300}
            await engine.add_module(StateModule({"adapter": {"name": "redis", "config": config}}))
            server.kill()
            await asyncio.sleep(0)
            with pytest.raises(FunctionError, match="nothing was changed") as raised:
                await engine.trigger({"function_id": function_id, "payload": CALLS[function_id]})
            assert raised.value.code == f"{function_id.removeprefix('state::').upper()}_ERROR"


async def test_a_write_that_its_replicas_have_not_confirmed_says_so_by_its_code() -> None:
    with RedisServer() as server:
        async with Engine() as engine:
            config = {"redis_url": server.url, "wait_replicas": 1, "call_timeout_ms": 300}
            await engine.add_module(StateModule({"adapter": {"name": "redis", "config": config}}))
            with pytest.raises(FunctionError) as raised:
                await engine.trigger({"function_id": "state::set", "payload": CALLS["state::set"]})
            assert raised.value.code == Code.NOT_CONFIRMED
            assert await engine.trigger({"function_id": "state::get", "payload": {"scope": "s", "key": "k"}}) == 1
