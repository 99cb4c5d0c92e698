"""The state module: what an engine hosts, with a start, a stop, and settings that can change meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from iii_state import config as configuration
from iii_state import values
from iii_state.adapters import open_adapter, recognised
from iii_state.adapters.base import Adapter
from iii_state.adapters.kv import KvAdapter
from iii_state.config import KvSettings
from iii_state.errors import ConfigError
from iii_state.figures import Figure
from iii_state.host import Handler, Host
from iii_state.state.dispatch import Dispatcher
from iii_state.state.features import FEATURES
from iii_state.state.functions.admin import AdminFunctions
from iii_state.state.functions.counted import CountedFunction
from iii_state.state.functions.declared import FunctionGroup
from iii_state.state.functions.history import HistoryFunctions
from iii_state.state.functions.lists import ListFunctions
from iii_state.state.functions.many import ManyFunctions
from iii_state.state.functions.peers import PeerFunctions
from iii_state.state.functions.snapshots import Snapshots
from iii_state.state.functions.values import ValueFunctions
from iii_state.state.queue_figures import QueueFigures
from iii_state.state.scope_figures import ScopeFigures
from iii_state.state.tracing import Tracing, place_of
from iii_state.state.triggers import StateTriggers
from iii_state.tasks.closing import Stopping, in_turn

STOP_SECONDS = 10.0


class StateModule:
    """`state::*` and the trigger type `state`, for an engine.

    `config` is the `config` of the `iii-state` entry of an iii `config.yaml`, e.g. `{"adapter": {"name": "kv"}}`;
    `adapter` one to use in place of the one that it names; `tracing` a tracer, such as `iii_state.observe.traces.Traces()`. Raises
    `ConfigError` for a key or value that is not known; `start` raises `StoreError` when the store cannot be opened.
    """

    name = "iii-state"

    def __init__(
        self, config: Mapping[str, Any] | None = None, *, adapter: Adapter | None = None, tracing: Tracing | None = None
    ) -> None:
        self._settings = configuration.parse(config)
        self._tracing = tracing
        self._is_given = adapter is not None
        self._dispatcher: Dispatcher | None = None
        self._counted: dict[str, CountedFunction] = {}
        self._use(adapter or open_adapter(self._settings))
        self._has_started = False
        self._stopping = Stopping(self._stop)
        self._apply_live_settings()

    def _use(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self._snapshots = Snapshots(adapter)
        self._functions = ValueFunctions(adapter)
        self.triggers = StateTriggers(adapter, self._settings)
        """The provider of the trigger type `state`."""
        self._queue_figures = QueueFigures(adapter)
        self._scope_figures = ScopeFigures(adapter, self._settings.server.metrics_scopes)

    async def start(self, host: Host) -> None:
        """Open the store, and register the functions and the trigger type. When that fails, nothing is left open.

        Raises `ConfigError` for a module that has been started before: it is for one engine, and does not come back.
        """
        if self._has_started:
            raise ConfigError("this state module has been started before, and cannot be used again: make another one")
        self._has_started = True
        try:
            if not self._is_given:
                await self._recognise()
            dispatcher = Dispatcher(host, self.adapter, self._settings.dispatch, self._tracing)
            await self.adapter.start(dispatcher.wake)
        except BaseException:
            self._has_started = False
            raise
        try:
            self._dispatcher = dispatcher
            self._functions.loops = dispatcher.loops
            self.triggers.begin(dispatcher)
            self._apply_live_settings()
            self._register_with(host)
        except BaseException:
            await self.stop()
            raise

    async def _recognise(self) -> None:
        """A Redis may turn out to be a cluster."""
        adapter = await recognised(self._settings, self.adapter)
        if adapter is not self.adapter:
            self._use(adapter)
            self._apply_live_settings()

    def _register_with(self, host: Host) -> None:
        groups: tuple[FunctionGroup, ...] = (
            self._functions,
            ManyFunctions(self.adapter, self._functions),
            HistoryFunctions(self.adapter.history),
            ListFunctions(self.adapter, self._snapshots),
            PeerFunctions(self.adapter),
            AdminFunctions(self.adapter.admin),
        )
        for function_id, handler, description in (function for group in groups for function in group):
            metadata = self._about if function_id == "state::set" else None
            counted = self._counted[function_id] = CountedFunction(handler)
            called = self._traced(function_id, self._scope_figures.counting(function_id, counted.call))
            host.register_function(function_id, called, description=description, metadata=metadata)
        host.watch_workers(self._snapshots.end)
        host.register_trigger_type(
            "state", self.triggers, description="State trigger: a function runs after every change", reads_scope_prefix=True
        )

    def _traced(self, function_id: str, handler: Handler) -> Handler:
        if self._tracing is None or not function_id.startswith("state::"):
            return handler
        place = place_of(self._settings.adapter, self.adapter.name)
        return self._tracing.traced(function_id, handler, place, self.adapter.queues.are_wanted)

    def _about(self) -> bytes:
        """Which store this is, and what can be asked of it, as it is now: one that has been emptied is another one."""
        store = self.adapter.store
        features = [feature for feature in FEATURES if self.adapter.has(feature)]
        return values.encode({"iii_state": {"retry_safe": store is not None, "store": store, "features": features}})

    async def stop(self) -> None:
        """Let running handlers finish (bounded), give the rest back, and close the store. It happens once (`closing.Stopping`)."""
        if self._has_started:
            await self._stopping()

    async def _stop(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        self.triggers.end()
        steps: list[Callable[[], Awaitable[None]]] = [self._close_snapshots, self.adapter.stop]
        if dispatcher is not None:
            steps.insert(0, partial(dispatcher.stop, STOP_SECONDS))
        await in_turn(*steps)

    async def _close_snapshots(self) -> None:
        self._snapshots.close()

    async def health(self) -> str | None:
        """None when the store answers, else why not."""
        return await self.adapter.health()

    async def readiness(self) -> str | None:
        """None when the store answers, this engine is one of its fleet, and the triggers that it was given are registered there."""
        if self._dispatcher is None:
            return "it is not running"
        wrong = await self.adapter.health() or self.adapter.absence()
        if wrong is None and (count := self.triggers.registering):
            wrong = f"{count} {'trigger is' if count == 1 else 'triggers are'} being registered"
        return wrong

    async def figures(self) -> list[Figure]:
        """What has been counted of calls, deliveries and the store, and, where this engine is to tell it, what the queues hold."""
        found = [figure for name, counted in self._counted.items() for figure in counted.figures(name, self.adapter.name)]
        if self._dispatcher is not None:
            found += self._dispatcher.tallies.figures()
        found += self.adapter.figures()
        of_queues = await self._queue_figures.figures()
        return [*found, *of_queues, *await self._scope_figures.figures(self._queue_figures.tells)]

    def reconfigure(self, config: Mapping[str, Any] | None) -> list[str]:
        """Apply `triggers_enabled`, `max_value_bytes` and `save_interval_ms` of a new configuration at once.

        Returns the names of the settings that differ and need a restart. Raises `ConfigError` if the configuration is not valid;
        then nothing has changed.
        """
        settings = configuration.parse(config)
        self._settings = msgspec.structs.replace(
            self._settings, triggers_enabled=settings.triggers_enabled, max_value_bytes=settings.max_value_bytes
        )
        self._apply_live_settings()
        if isinstance(settings.adapter, KvSettings) and isinstance(self.adapter, KvAdapter):
            self.adapter.save_every(settings.adapter.save_interval_ms)
        return configuration.need_restart(self._settings, settings)

    def _apply_live_settings(self) -> None:
        limit = self._settings.max_value_bytes
        self._functions.limit = values.MAX_VALUE_BYTES if limit is None else min(limit, values.MAX_VALUE_BYTES)
        self.adapter.queues.enable_events(self._settings.triggers_enabled)
        if self._dispatcher is not None:
            self._dispatcher.pause(not self._settings.triggers_enabled)
