"""What a page over an engine asks for: what the engine is and what the caller may do, the engines of the store, what was counted.

Nothing is kept for it: who asks twice makes rates of the differences, so that it costs nothing while nobody looks.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec

from iii_state import values
from iii_state.adapters.base import Adapter, EngineSeen
from iii_state.errors import Code
from iii_state.figures import BOUNDS, Figure, Histogram
from iii_state.host import Caller, engine_name
from iii_state.rights import Rights
from iii_state.state.functions.declared import Declared, Registration, everybodys, failing_with, for_operators
from iii_state.tasks.background import Background
from iii_state.tasks.results import Result, result_of, then
from iii_state.values.requests import read


class _Nothing(msgspec.Struct):
    """A request without members."""


class OverviewFunctions:
    """The functions over any adapter. `figures` gives what the module has counted."""

    def __init__(self, adapter: Adapter, figures: Callable[[], Awaitable[list[Figure]]], background: Background) -> None:
        self._adapter = adapter
        self._figures = figures
        self._background = background

    def __iter__(self) -> Iterator[Registration]:
        store_failed = partial(failing_with, Code.STORE_ERROR)
        about, engines, figures = "iii-state::about", "iii-state::engines", "iii-state::figures"
        yield (
            about,
            Declared(about, _Nothing, _reader(about), self._about, values.encode, store_failed("tell what this is"), everybodys),
            "Tell what this engine is, and what the caller may do",
        )
        yield (
            engines,
            Declared(
                engines, _Nothing, _reader(engines), self._engines, values.encode, store_failed("list engines"), for_operators
            ),
            "List the engines that share this store",
        )
        yield (
            figures,
            Declared(
                figures, _Nothing, _reader(figures), self._counted, values.encode, store_failed("read figures"), for_operators
            ),
            "Tell what this engine has counted since its start, and what the queues hold",
        )

    def _about(self, request: _Nothing, caller: Caller) -> Mapping[str, Any]:
        rights = None if caller.access is None else caller.access.rights
        return {
            "engine": engine_name() if rights is None or rights.operate else None,
            "version": version("iii-state"),
            "adapter": self._adapter.name,
            "store": self._adapter.store,
            "now_ms": int(time.time() * 1000),
            "token": None if caller.identity is None else caller.identity.name,
            "rights": None if rights is None else _shown(rights),
        }

    def _engines(self, request: _Nothing, caller: Caller) -> Result[Mapping[str, Any]]:
        async def listed() -> Mapping[str, Any]:
            health = await self._adapter.health()
            seen: list[EngineSeen] = [] if health is not None else await result_of(self._adapter.admin.engines())
            return {
                "engines": [each._asdict() for each in seen],
                "this": engine_name(),
                "adapter": self._adapter.name,
                "health": health,
                "now_ms": int(time.time() * 1000),
            }

        return self._background.call(listed())

    def _counted(self, request: _Nothing, caller: Caller) -> Result[Mapping[str, Any]]:
        def told(figures: list[Figure]) -> Mapping[str, Any]:
            return {"at_ms": int(time.time() * 1000), "bounds": BOUNDS, "figures": [_row(figure) for figure in figures]}

        return then(self._background.call(_awaited(self._figures)), told)


async def _awaited(ask: Callable[[], Awaitable[list[Figure]]]) -> list[Figure]:
    return await ask()


def _reader(function_id: str) -> Callable[[values.Json], _Nothing]:
    return partial(read, function_id, expected=_Nothing)


def _shown(rights: Rights) -> dict[str, Any]:
    return {"read_only": rights.read_only, "operate": rights.operate, "scopes": rights.scopes, "functions": rights.functions}


def _row(figure: Figure) -> dict[str, Any]:
    value = figure.value
    labels = dict(zip(figure.family.labels, figure.labels, strict=True))
    shown = {"buckets": value.buckets, "sum": value.sum} if isinstance(value, Histogram) else value
    return {"name": figure.family.name, "labels": labels, "value": shown}
