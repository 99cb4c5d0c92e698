"""The trigger types `engine::functions-available` and `engine::workers-available`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from iii_state import values
from iii_state.access import Access
from iii_state.engine.functions.function import Function
from iii_state.engine.functions.registry import FunctionRegistry
from iii_state.engine.introspection import function_row, may_see_worker
from iii_state.engine.triggers.registry import TriggerRegistry
from iii_state.engine.workers.workers import ConnectedWorker, Workers
from iii_state.host import Host, Trigger


class ChangeTriggers:
    """The trigger types `engine::functions-available` and `engine::workers-available`: told at most once per turn of the loop."""

    def __init__(
        self,
        functions: FunctionRegistry,
        workers: Workers,
        triggers: TriggerRegistry,
        invoke: Callable[[Trigger, bytes], None],
    ) -> None:
        self._functions = functions
        self._triggers = triggers
        self._invoke = invoke
        self._on_functions: dict[str, Trigger] = {}
        self._on_workers: dict[str, Trigger] = {}
        self._seen: dict[str, bytes] = {}
        """What those were told last who may not see everything, by trigger id."""
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
        functions = [function for function in self._functions if not function.id.startswith("engine::")]
        event = _functions_event(functions)
        for trigger in list(self._on_functions.values()):
            access = self._access(trigger)
            if access is None:
                self._invoke(trigger, event)
                continue
            seen = _functions_event([function for function in functions if access.may_call(function.id)])
            if self._seen.get(trigger.id) != seen:  # what it may not see has changed, and that is nothing to it
                self._seen[trigger.id] = seen
                self._invoke(trigger, seen)
        for trigger_id in self._seen.keys() - self._on_functions.keys():
            del self._seen[trigger_id]

    def _worker_changed(self, event: str, worker: ConnectedWorker) -> None:
        for trigger in list(self._on_workers.values()):
            if may_see_worker(self._access(trigger), worker):
                self._invoke(trigger, values.encode({"event": event, "worker_id": worker.id}))

    def _access(self, trigger: Trigger) -> Access | None:
        """What its registrant may know."""
        binding = self._triggers.get(trigger.id)
        return None if binding is None else binding.by.access


def _functions_event(functions: Iterable[Function]) -> bytes:
    return values.encode({"event": "functions_changed", "functions": [function_row(function) for function in functions]})


class _Subscribers:
    """A provider that keeps its triggers in a dict."""

    def __init__(self, triggers: dict[str, Trigger]) -> None:
        self._triggers = triggers

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> None:
        self._triggers[trigger.id] = trigger

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> None:
        self._triggers.pop(trigger.id, None)
