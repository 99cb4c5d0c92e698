"""An engine whose state breaks its promises now and then: `python -m tests.linearizability.planted_engine FAULT --port N`.

The store is a real one; a double around it does the harm, to one call of `ONE_IN`. `none` does none.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Sequence
from typing import Any, cast

import click
import uvloop

from iii_state import Engine, StateModule
from iii_state.adapters.base import Adapter, Reading, Updated
from iii_state.adapters.kv import KvAdapter
from iii_state.cli.run.process import stopped_by_signals
from iii_state.errors import ConditionFailed, StoreError
from iii_state.tasks.background import Background
from iii_state.tasks.results import result_of
from iii_state.values.conditions import Conditions
from iii_state.values.transactions import Done, Step

ONE_IN = 40
LATE_SECONDS = 0.01

FAULTS = (
    "none",
    "a stale read",
    "a lost update",
    "a write applied twice",
    "a straggler of a refused write",
    "a write after its answer",
    "a key that is not listed",
    "a condition judged on a stale value",
    "a transaction half applied",
    "a failed condition applied after all",
)


class PlantedValues:
    """Values of a real adapter, with one of `FAULTS`."""

    def __init__(self, fault: str, adapter: Adapter) -> None:
        self._values = adapter.values
        self._fault = fault
        self._calls = itertools.count(1)
        self._previous: dict[tuple[str, str], bytes | None] = {}
        """What each place held before its last write."""
        self._tasks = Background()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._values, name)

    def _strikes(self, *faults: str) -> bool:
        return self._fault in faults and next(self._calls) % ONE_IN == 0

    async def _note(self, scope: str, key: str) -> None:
        self._previous[scope, key] = await result_of(self._values.get(scope, key))

    def read(self, scope: str, key: str) -> Any:
        if self._strikes("a stale read"):
            return Reading(self._previous.get((scope, key)))
        return self._values.read(scope, key)

    def set(self, scope: str, key: str, value: bytes, **more: Any) -> Any:
        return self._tasks.call(self._set(scope, key, value, more))

    async def _set(self, scope: str, key: str, value: bytes, more: dict[str, Any]) -> bytes | None:
        conditions: Conditions | None = more.get("conditions")
        previous = self._previous.get((scope, key))
        await self._note(scope, key)
        if conditions is not None and self._strikes("a condition judged on a stale value"):
            conditions.check(scope, key, previous)
            return await self._values_set(scope, key, value, {})
        if self._strikes("a straggler of a refused write", "a write after its answer"):
            self._later(self._values_set(scope, key, value, more))
            if self._fault != "a write after its answer":
                raise StoreError("the store is away; nothing was changed")
            return await result_of(self._values.get(scope, key))
        return await self._values_set(scope, key, value, more)

    async def _values_set(self, scope: str, key: str, value: bytes, more: dict[str, Any]) -> bytes | None:
        try:
            return await result_of(self._values.set(scope, key, value, **more))
        except ConditionFailed:
            if self._strikes("a failed condition applied after all"):
                self._later(result_of(self._values.set(scope, key, value)))
            raise

    def transact(self, scope: str, steps: Sequence[Step], *arguments: Any, **more: Any) -> Any:
        return self._tasks.call(self._transact(scope, steps, arguments, more))

    async def _transact(self, scope: str, steps: Sequence[Step], arguments: tuple[Any, ...], more: dict[str, Any]) -> list[Done]:
        last = steps[-1].key
        before = await result_of(self._values.get(scope, last))
        done: list[Done] = await result_of(self._values.transact(scope, steps, *arguments, **more))
        if self._strikes("a transaction half applied"):
            values = self._values
            await result_of(values.delete(scope, last) if before is None else values.set(scope, last, before))
        return done

    def _later(self, work: Awaitable[object]) -> None:
        async def wait_and_do() -> None:
            await asyncio.sleep(LATE_SECONDS)
            await work

        self._tasks.start(wait_and_do(), "a planted fault")

    def update(self, scope: str, key: str, *arguments: Any, **more: Any) -> Any:
        return self._tasks.call(self._update(scope, key, arguments, more))

    async def _update(self, scope: str, key: str, arguments: tuple[Any, ...], more: dict[str, Any]) -> Updated:
        await self._note(scope, key)
        values = self._values
        if self._strikes("a lost update"):
            old = await result_of(values.get(scope, key))
            await asyncio.sleep(LATE_SECONDS)
            await result_of(values.delete("aside", key) if old is None else values.set("aside", key, old))
            made = await result_of(values.update("aside", key, *arguments, **more))
            await result_of(values.set(scope, key, made.new))
            return made
        made = await result_of(values.update(scope, key, *arguments, **more))
        if self._strikes("a write applied twice"):
            await result_of(values.update(scope, key, *arguments, **more))
        return made

    def keys(self, scope: str) -> Any:
        keys = self._values.keys(scope)
        if self._strikes("a key that is not listed"):
            assert isinstance(keys, list), "the store of this process answers at once"
            return keys[1:]
        return keys


class PlantedAdapter:
    """A real adapter with `PlantedValues`."""

    def __init__(self, fault: str, adapter: Adapter) -> None:
        self._adapter = adapter
        self.values = PlantedValues(fault, adapter)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


@click.command()
@click.argument("fault", type=click.Choice(FAULTS))
@click.option("--port", type=int, required=True)
def main(fault: str, port: int) -> None:
    """Run it until it is told to stop."""
    uvloop.run(_serve(fault, port))


async def _serve(fault: str, port: int) -> None:
    stopped = stopped_by_signals()
    async with Engine() as engine:
        await engine.add_module(StateModule({}, adapter=cast(Adapter, PlantedAdapter(fault, KvAdapter()))))
        host, port = await engine.serve("127.0.0.1", port)
        print(f"listening on ws://{host}:{port}", file=sys.stderr, flush=True)
        await stopped.wait()


if __name__ == "__main__":
    main()
