"""The trigger types `engine::functions-available` and `engine::workers-available`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from iii_state import values
from iii_state.engine.functions.registry import FunctionRegistry
from iii_state.engine.introspection import function_row
from iii_state.engine.workers.workers import Workers
from iii_state.host import Host, Trigger


class ChangeTriggers:
    """The trigger types `engine::functions-available` and `engine::workers-available`: told at most once per turn of the loop."""

    def __init__(self, functions: FunctionRegistry, workers: Workers, invoke: Callable[[Trigger, bytes], None]) -> None:
        self._functions = functions
        self._invoke = invoke
        self._on_functions: dict[str, Trigger] = {}
        self._on_workers: dict[str, Trigger] = {}
        self._planned = False
        functions.watch(self._function_changed)
        workers.watch(self._worker_changed)

    def register(self, host: Host) -> None:
        """Register the two types."""
        host.register_trigger_type(
            "engine::functions-available", _Subscribers(self._on_functions), description="Functions have come or gone"
        )
        host.register_trigger_type(
            "engine::workers-available", _Subscribers(self._on_workers), description="A worker has come, gone or described itself"
        )

    def _function_changed(self, namespace: str, function_id: str) -> None:
        if self._on_functions and not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._tell_of_functions)

    def _tell_of_functions(self) -> None:
        self._planned = False
        rows = [function_row(function) for function in self._functions if not function.id.startswith("engine::")]
        event = values.encode({"event": "functions_changed", "functions": rows})
        for trigger in list(self._on_functions.values()):
            self._invoke(trigger, event)

    def _worker_changed(self, event: str, worker_id: str) -> None:
        for trigger in list(self._on_workers.values()):
            self._invoke(trigger, values.encode({"event": event, "worker_id": worker_id}))


class _Subscribers:
    """A provider that keeps its triggers in a dict."""

    def __init__(self, triggers: dict[str, Trigger]) -> None:
        self._triggers = triggers

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> None:
        self._triggers[trigger.id] = trigger

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> None:
        self._triggers.pop(trigger.id, None)
