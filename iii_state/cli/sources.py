"""Where commands for operators look: at an engine, or at a Redis itself, with no engine in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from iii_state import values
from iii_state.adapters.redis.opening import inspection
from iii_state.cli.calls import engine_at, url_option
from iii_state.client.client import Client
from iii_state.config import RedisSettings
from iii_state.errors import Code, FunctionError
from iii_state.host import LOCAL
from iii_state.state.functions.admin import AdminFunctions
from iii_state.tasks.results import result_of

C = TypeVar("C", bound=Callable[..., Any])

Ask = Callable[[str, bytes], Awaitable[bytes | None]]
"""Calls a function `iii-state::*` by its id."""


def source_options(command: C) -> C:
    """`--url`, or `--redis-url` and `--prefix`, and `--json`."""
    url = url_option()
    redis_url = click.option("--redis-url", help="A Redis to look at instead, with no engine in between.")
    prefix = click.option("--prefix", default=RedisSettings().prefix, show_default=True, help="Of the keys in that Redis.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
    return url(redis_url(prefix(as_json(command))))


def is_typed(option: str) -> bool:
    """Whether an option was given with the command, and not by its default or the environment."""
    return click.get_current_context().get_parameter_source(option) is ParameterSource.COMMANDLINE


@asynccontextmanager
async def opened(url: str, redis_url: str | None, prefix: str) -> AsyncIterator[Ask]:
    """Ask an engine, or Redis itself. Options that would be passed over are wrong usage: they name another place."""
    if redis_url is None and is_typed("prefix"):
        raise click.UsageError("--prefix is of the keys in a Redis: give --redis-url with it, or leave it out to ask an engine.")
    if redis_url is not None and is_typed("url"):
        raise click.UsageError("--url (an engine) and --redis-url (Redis itself) were given; give one of them.")
    if redis_url is None:
        async with Client(engine_at(url)) as client:
            yield client.call
        return
    async with inspection(RedisSettings(redis_url=redis_url, prefix=prefix)) as inspected:
        functions = {function_id: function for function_id, function, _ in AdminFunctions(inspected)}

        async def ask(function_id: str, data: bytes) -> bytes | None:
            if function_id == "iii-state::engines":
                return values.encode({"engines": [each._asdict() for each in await inspected.engines()]})
            if function_id not in functions:
                raise FunctionError(Code.FUNCTION_NOT_FOUND, f"no engine was asked: {function_id} is what an engine tells")
            return await result_of(functions[function_id](data, LOCAL))

        yield ask
