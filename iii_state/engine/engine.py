"""An iii engine that lives in a Python process: functions, triggers, modules, and workers over WebSockets."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

from iii_state import values
from iii_state.engine.introspection import ChangeTriggers, Introspection
from iii_state.engine.python_function import PythonCallable, PythonFunction, PythonTasks
from iii_state.engine.registry import Call, Details, Function, Functions, as_function_error
from iii_state.engine.server import Server
from iii_state.engine.triggers import Triggers, TriggerType
from iii_state.engine.workers import WORKER_GONE, Workers
from iii_state.errors import FunctionError, InvalidValue
from iii_state.host import DEFAULT_NAMESPACE, LOCAL, Answer, Handler, Module, Trigger, TriggerProvider

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 1
_HEALTH_SECONDS = 5


class Engine:
    """An iii engine in this process.

        async with Engine() as engine:
            await engine.add_module(module)
            engine.register_function("orders::changed", on_change)
            await engine.register_trigger({"type": "state", "function_id": "orders::changed", "config": {"scope": "orders"}})
            await engine.trigger({"function_id": "state::set", "payload": {"scope": "orders", "key": "1", "value": {}}})
            host, port = await engine.serve("127.0.0.1", 49134)

    `call_timeout` bounds, in seconds, every call of a worker's or a Python function (error `TIMEOUT`). `duplicates` says who
    serves a function that several workers register: all in turn (`"round-robin"`), or the first that lives (`"first-wins"`).
    """

    id = ""
    name = "in-process"

    def __init__(self, *, call_timeout: float = 300.0, duplicates: Literal["round-robin", "first-wins"] = "round-robin") -> None:
        self.functions = Functions(first_wins=duplicates == "first-wins")
        self.triggers = Triggers()
        self.workers = Workers(self.functions, self.triggers, call_timeout)
        self._call_timeout = call_timeout
        self._modules: list[tuple[Module, ModuleHost]] = []
        self._own: dict[tuple[str, str], PythonFunction] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._find = self.functions.get_default
        self._server: Server | None = None

    # --- life

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._tasks = PythonTasks(self._loop, self._call_timeout)
        self._server = Server(self.workers, self.health)
        host = ModuleHost(self, "engine")
        Introspection(self.functions, self.triggers, self.workers, self).register(host)
        ChangeTriggers(self.functions, self.workers, self._notify).register(host)
        self._server.channels.register(host)
        self._sweeper = self._loop.create_task(self._look_after())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Take no more connections, stop the modules in reverse order, then let the workers go (1012) and end what runs."""
        await self.server.stop_listening()
        while self._modules:
            module, host = self._modules.pop()
            try:
                await module.stop()
            except Exception:
                log.exception("module %s failed to stop", module.name)
            host.withdraw()
        await self.server.stop()
        await self._tasks.stop()
        self._sweeper.cancel()
        await asyncio.wait([self._sweeper])

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                self.sweep()
                self.server.tick(_SWEEP_SECONDS)
            except Exception:
                log.exception("the engine's sweep failed; it goes on")

    def sweep(self) -> None:
        """End calls that take longer than the engine's timeout; the engine does it about once a second."""
        self.workers.sweep()
        self._tasks.sweep()

    async def add_module(self, module: Module) -> None:
        """Start a module in this engine. It is stopped with the engine, in reverse order.

        Raises what the module's `start` raises (`ConfigError`, `StoreError`); what it had registered is gone then.
        """
        host = ModuleHost(self, module.name)
        try:
            await module.start(host)
        except BaseException:
            host.withdraw()
            raise
        self._modules.append((module, host))

    async def serve(self, host: str = "127.0.0.1", port: int = 49134) -> tuple[str, int]:
        """Take workers on a WebSocket port; port 0 is a free one. Returns the address once it listens. May be called several times.

        Raises `OSError` for an address that cannot be had.
        """
        return await self.server.listen(host, port)

    @property
    def server(self) -> Server:
        """The ports; there from `async with` on."""
        assert self._server is not None, "an engine has ports inside `async with Engine()`"
        return self._server

    async def health(self) -> dict[str, str]:
        """What is wrong, by the names of modules; empty when all is well."""
        looks = (asyncio.wait_for(module.health(), _HEALTH_SECONDS) for module, _ in self._modules)
        reasons = await asyncio.gather(*looks, return_exceptions=True)
        names = [module.name for module, _ in self._modules]
        return {
            name: str(reason) or type(reason).__name__ for name, reason in zip(names, reasons, strict=True) if reason is not None
        }

    # --- functions

    def register_function(
        self, function_id: str, function: PythonCallable, *, description: str | None = None, namespace: str = DEFAULT_NAMESPACE
    ) -> FunctionRegistration:
        """Serve a function with a Python callable: `def f(event)` or `def f(event, metadata)`, plain or async, on Python objects.

        What it returns is the result (None: no result). What it raises reaches the caller as code `invocation_failed`, a
        `FunctionError` with its own code. Registering the same id again replaces. Raises `ValueError` for a built-in id.
        """
        known = self.functions.get(namespace, function_id)
        if known is not None and known.handler is not None:
            raise ValueError(f"function {function_id} is built in")
        executor = PythonFunction(function, self._tasks)
        earlier = self._own.get((namespace, function_id))
        registered, _ = self.functions.add_executor(namespace, function_id, executor)
        if earlier is not None:
            self.functions.remove_executor(namespace, function_id, earlier)
        registered.describe(Details(description), executor)
        self._own[namespace, function_id] = executor
        return FunctionRegistration(self, namespace, function_id, executor)

    def _unregister_function(self, namespace: str, function_id: str, executor: PythonFunction) -> None:
        if self._own.get((namespace, function_id)) is executor:
            del self._own[namespace, function_id]
            self.functions.remove_executor(namespace, function_id, executor)

    async def trigger(self, request: dict[str, Any]) -> Any:
        """Call a function: `{"function_id": …, "payload": …}`, and optionally `"metadata"`, `"namespace"`, `"timeout_ms"` and
        `"action": {"type": "void"}`.

        Returns the result as a Python object; None for no result, and at once for a void call, whose errors are logged.
        Raises `FunctionError`: `function_not_found`, `TIMEOUT`, `deserialization_error` for a payload that is no JSON, or
        what the function failed with.
        """
        function_id = request["function_id"]
        function = self._find(function_id)
        try:
            data = values.encode(request.get("payload"))
        except InvalidValue as error:
            raise FunctionError("deserialization_error", f"Failed to deserialize input for {function_id}: {error}") from None
        if function is None or (handler := function.handler) is None or len(request) > 1 + ("payload" in request):
            return await self._trigger_with_options(request, data)
        try:
            answer = handler(data, LOCAL)
            result = (await answer) if isinstance(answer, asyncio.Future) else answer
        except FunctionError:
            raise
        except Exception as error:
            raise as_function_error(error) from error
        return None if result is None else values.decode(result)

    async def _trigger_with_options(self, request: dict[str, Any], data: bytes) -> Any:
        action = (request.get("action") or {}).get("type")
        metadata = request.get("metadata")
        timeout_ms = request.get("timeout_ms")
        if action not in (None, "void"):
            raise FunctionError("enqueue_error", f"this engine has no action {action!r}")
        namespace = request.get("namespace") or DEFAULT_NAMESPACE
        call = Call(data, metadata=None if metadata is None else values.encode(metadata))
        try:
            answer = self.functions.call(self.functions.find(namespace, request["function_id"]), call)
            if action == "void":
                if isinstance(answer, asyncio.Future):
                    answer.add_done_callback(_log_failure(request["function_id"]))
                return None
            if isinstance(answer, asyncio.Future):
                result = await asyncio.wait_for(answer, None if timeout_ms is None else timeout_ms / 1000)
            else:
                result = answer
        except Exception as error:
            if isinstance(error, TimeoutError) and timeout_ms is not None:
                raise FunctionError("TIMEOUT", f"no answer within {timeout_ms:g} ms") from None
            if action == "void":
                log.warning("a void call of %s failed: %s", request["function_id"], error)
                return None
            if isinstance(error, FunctionError):
                raise
            raise as_function_error(error) from error
        return None if result is None else values.decode(result)

    def _notify(self, trigger: Trigger, event: bytes) -> None:
        """Run a trigger of the engine's own types; a function that is not there is not waited for."""
        function = self.functions.get(trigger.namespace, trigger.function_id)
        if function is None:
            return
        try:
            answer = self.functions.call(function, Call(event, metadata=trigger.metadata))
        except Exception as error:
            log.warning("the handler %s of trigger %s failed: %s", trigger.function_id, trigger.id, error)
            return
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(_log_failure(trigger.function_id))

    # --- triggers

    async def register_trigger(self, request: dict[str, Any]) -> TriggerRegistration:
        """Register a trigger: `{"type": …, "function_id": …}`, and optionally `"config"`, `"metadata"`, `"namespace"`, `"id"`.

        Once this has returned, nothing that happens later is missed. Without a provider of the type the trigger waits for one.
        Raises `FunctionError` (`trigger_registration_failed`) for a config that cannot be used.
        """
        config = request.get("config")
        metadata = request.get("metadata")
        namespace = request.get("namespace") or DEFAULT_NAMESPACE
        trigger = Trigger(
            request.get("id") or str(uuid.uuid4()),
            request["type"],
            request["function_id"],
            None if config is None else values.encode(config),
            None if metadata is None else values.encode(metadata),
            namespace,
        )
        answer = self.triggers.register(trigger, self, namespace)
        if isinstance(answer, asyncio.Future):
            await answer
        return TriggerRegistration(self, trigger.id)

    def trigger_failed(self, trigger: Trigger, error: FunctionError) -> None:
        """A trigger of this process is not served."""
        log.warning("trigger %s of type %s for %s: %s", trigger.id, trigger.trigger_type, trigger.function_id, error)


class FunctionRegistration:
    """A function that a Python callable serves, until `unregister`."""

    def __init__(self, engine: Engine, namespace: str, function_id: str, executor: PythonFunction) -> None:
        self.function_id = function_id
        self.namespace = namespace
        self._engine = engine
        self._executor = executor

    def unregister(self) -> None:
        """Serve it no more; calls that run go on."""
        self._engine._unregister_function(self.namespace, self.function_id, self._executor)


class TriggerRegistration:
    """A registered trigger, until `unregister`."""

    def __init__(self, engine: Engine, trigger_id: str) -> None:
        self.id = trigger_id
        self._engine = engine

    async def unregister(self) -> None:
        """Let the trigger go, and what is waiting for it."""
        answer = self._engine.triggers.unregister(self.id, self._engine)
        if isinstance(answer, asyncio.Future):
            await answer


class ModuleHost:
    """What one module sees of the engine (`host.Host`); `withdraw` takes back all that it registered."""

    def __init__(self, engine: Engine, module_name: str) -> None:
        self._engine = engine
        self._name = module_name
        self._functions: list[Function] = []
        self._types: list[tuple[str, object]] = []
        self._unwatch_workers: list[Callable[[], None]] = []

    def register_function(
        self, function_id: str, handler: Handler, *, description: str | None = None, metadata: bytes | None = None
    ) -> None:
        self._functions.append(self._engine.functions.add_builtin(function_id, handler, description, metadata, self._name))

    def register_trigger_type(self, trigger_type: str, provider: TriggerProvider, *, description: str) -> None:
        self._engine.triggers.add_type(TriggerType(DEFAULT_NAMESPACE, trigger_type, provider, description, None, self._name))
        self._types.append((trigger_type, provider))

    def invoke(
        self, function_id: str, data: bytes, *, namespace: str = DEFAULT_NAMESPACE, metadata: bytes | None = None
    ) -> Answer[bytes | None]:
        functions = self._engine.functions
        return functions.call(functions.find(namespace, function_id), Call(data, metadata=metadata))

    def has_function(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        return self._engine.functions.get(namespace, function_id) is not None

    def watch_functions(self, changed: Callable[[str, str], None]) -> None:
        self._engine.functions.watch(changed)

    def watch_workers(self, gone: Callable[[str], None]) -> None:
        def changed(event: str, worker_id: str) -> None:
            if event == WORKER_GONE:
                gone(worker_id)

        self._unwatch_workers.append(self._engine.workers.watch(changed))

    def withdraw(self) -> None:
        """Take back the functions and trigger types of a module that has stopped."""
        for function in self._functions:
            self._engine.functions.remove_builtin(function)
        for trigger_type, _ in self._types:
            self._engine.triggers.remove_type(DEFAULT_NAMESPACE, trigger_type, None)
        for unwatch in self._unwatch_workers:
            unwatch()
        self._functions.clear()
        self._types.clear()
        self._unwatch_workers.clear()


def _log_failure(function_id: str) -> Callable[[asyncio.Future[Any]], None]:
    def look(done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            log.warning("a call of %s that nobody waits for failed: %s", function_id, error)

    return look
