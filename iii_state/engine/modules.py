"""The modules of an engine: what each sees of it, and their start, health and end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Sequence

from iii_state.engine.functions.function import Function, Invocation
from iii_state.engine.functions.registry import FunctionRegistry
from iii_state.engine.triggers.binding import TriggerType
from iii_state.engine.triggers.registry import TriggerRegistry
from iii_state.engine.workers.workers import ConnectedWorker, Workers
from iii_state.errors import Code, ConfigError, FunctionError, NotCarriedOut, own, words
from iii_state.figures import Figure
from iii_state.host import DEFAULT_NAMESPACE, Handler, Measured, Module, Probed, Runner, TriggerProvider
from iii_state.tasks.results import Result, result_of, then
from iii_state.wire.messages import WORKER_GONE

log = logging.getLogger(__name__)

_HEALTH_SECONDS = 5
_FIGURES_SECONDS = 8
_MODULE_SECONDS = 30


class Modules:
    """The modules of one engine, each with what it has registered there."""

    def __init__(self, functions: FunctionRegistry, triggers: TriggerRegistry, workers: Workers) -> None:
        self._tables = (functions, triggers, workers)
        self._running: list[tuple[Module, ModuleHost]] = []
        self._starting: list[Module] = []

    def host(self, name: str) -> ModuleHost:
        """What a module of this name, or the engine itself, registers with."""
        return ModuleHost(*self._tables, name)

    async def add(self, module: Module) -> None:
        """Start a module. Raises what its `start` raises, and `ConfigError` for one that is here already."""
        if module in self._starting or any(known is module for known, _ in self._running):
            raise ConfigError(f"the module {module.name} is in this engine already")
        host = self.host(module.name)
        self._starting.append(module)
        try:
            await module.start(host)
        except BaseException:
            host.withdraw()
            raise
        finally:
            self._starting.remove(module)
        self._running.append((module, host))

    async def stop(self) -> None:
        """Stop all modules in reverse order, each within a time; one that fails to stop does not keep the others."""
        cut_off = None
        while self._running:
            module, host = self._running.pop()
            try:
                async with asyncio.timeout(_MODULE_SECONDS):
                    await module.stop()
            except TimeoutError:
                log.error("module %s has not stopped within %d s, and is left alone", module.name, _MODULE_SECONDS)
            except BaseException as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    cut_off = error  # the event loop ends: the other modules are stopped all the same
                log.error("module %s failed to stop: %s", module.name, words(error), exc_info=error)
            host.withdraw()
        if cut_off is not None:
            raise cut_off

    async def health(self) -> dict[str, str]:
        """What is wrong, by the names of modules; empty when all is well."""
        return await self._reasons(lambda module: module.health())

    async def readiness(self) -> dict[str, str]:
        """Why work cannot be carried out now, by the names of modules; empty where it can."""
        wrong = await self._reasons(lambda module: module.readiness() if isinstance(module, Probed) else module.health())
        return {**wrong, **{module.name: "it is being started" for module in self._starting}}

    async def _reasons(self, look: Callable[[Module], Awaitable[str | None]]) -> dict[str, str]:
        names = [module.name for module, _ in self._running]
        looks = (asyncio.wait_for(look(module), _HEALTH_SECONDS) for module, _ in self._running)
        reasons = await asyncio.gather(*looks, return_exceptions=True)
        return {
            name: words(reason) if isinstance(reason, BaseException) else reason
            for name, reason in zip(names, reasons, strict=True)
            if reason is not None
        }

    async def figures(self) -> list[Figure]:
        """What the modules have counted; one that fails to tell is left out."""
        found: list[Figure] = []
        for module, _ in self._running:
            if isinstance(module, Measured):
                try:
                    async with asyncio.timeout(_FIGURES_SECONDS):
                        found += await module.figures()
                except Exception as error:
                    log.warning("module %s does not tell its figures: %s", module.name, words(error))
        return found


class ModuleHost:
    """What one module sees of the engine (`host.Host`); `withdraw` takes back all that it registered."""

    def __init__(self, functions: FunctionRegistry, triggers: TriggerRegistry, workers: Workers, module_name: str) -> None:
        self._functions = functions
        self._triggers = triggers
        self._workers = workers
        self._name = module_name
        self._registered: list[Function] = []
        self._types: list[TriggerType] = []
        self._unwatch: list[Callable[[], None]] = []

    def register_function(
        self,
        function_id: str,
        handler: Handler,
        *,
        description: str | None = None,
        metadata: Callable[[], bytes] | None = None,
    ) -> None:
        self._registered.append(self._functions.add_builtin(function_id, handler, description, metadata, self._name))

    def register_trigger_type(
        self, trigger_type: str, provider: TriggerProvider, *, description: str, reads_scope_prefix: bool = False
    ) -> None:
        offered = TriggerType(DEFAULT_NAMESPACE, trigger_type, provider, description, None, self._name, reads_scope_prefix)
        self._triggers.add_type(offered)
        self._types.append(offered)

    def invoke(
        self,
        function_id: str,
        data: bytes,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        metadata: bytes | None = None,
        runner: Runner | None = None,
        trace: bytes = b"",
    ) -> Result[bytes | None]:
        functions, call = self._functions, Invocation(data, metadata=metadata, trace=trace)
        function = functions.find(namespace, function_id)
        if runner is not None:
            for executor in function.executors:
                if executor is runner and executor.is_settled:
                    return functions.call(function, call, executor)
        if function.handler is not None:
            return _own_errors(lambda: functions.call(function, call))
        if function.is_served:
            return self._run(function, call, runner)
        return asyncio.ensure_future(self._invoke_settled(namespace, function_id, call, runner))

    async def _invoke_settled(self, namespace: str, function_id: str, call: Invocation, runner: Runner | None) -> bytes | None:
        """Call a function whose worker may turn out to belong to another namespace, once that is known."""
        functions = self._functions
        while not (function := functions.find(namespace, function_id)).is_served:
            await functions.settling(function)
        return await result_of(self._run(function, call, runner))

    def _run(self, function: Function, call: Invocation, runner: Runner | None) -> Result[bytes | None]:
        functions = self._functions
        if runner is None:
            return functions.call(function, call)
        for executor in function.executors:
            if executor is runner:
                return functions.call(function, call, executor)
        raise NotCarriedOut(Code.INVOCATION_STOPPED, f"{runner.name} does not serve {function.id} any more")

    def pick(self, function_id: str, namespace: str = DEFAULT_NAMESPACE, avoid: Container[object] = ()) -> Runner | None:
        functions = self._functions
        function = functions.get(namespace, function_id)
        return None if function is None or function.handler is not None else function.pick(functions.first_wins, avoid)

    def runners(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> Sequence[Runner]:
        functions = self._functions
        function = functions.get(namespace, function_id)
        if function is None or function.handler is not None:
            return ()
        return [executor for executor in function.serving(functions.first_wins) if executor.may_crash]

    def takes_events(self, function_id: str, namespace: str, go_on: Callable[[], None]) -> bool:
        functions = self._functions
        function = functions.get(namespace, function_id)
        return function is None or functions.takes_events(function, go_on)

    def is_on_its_way(self, answer: asyncio.Future[bytes | None]) -> bool:
        return any(worker.is_sending(answer) for worker in self._workers)

    def has_function(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        return self._functions.get(namespace, function_id) is not None

    def watch_functions(self, changed: Callable[[str, str], None]) -> None:
        self._unwatch.append(self._functions.watch(changed))

    def watch_workers(self, gone: Callable[[str], None]) -> None:
        def changed(event: str, worker: ConnectedWorker) -> None:
            if event == WORKER_GONE:
                gone(worker.id)

        self._unwatch.append(self._workers.watch(changed))

    def withdraw(self) -> None:
        """Take back the functions and trigger types of a module that has stopped."""
        for function in self._registered:
            self._functions.remove_builtin(function)
        for offered in self._types:
            self._triggers.remove_type(offered)
        for unwatch in self._unwatch:
            unwatch()
        self._registered.clear()
        self._types.clear()
        self._unwatch.clear()


def _own_errors(call: Callable[[], Result[bytes | None]]) -> Result[bytes | None]:
    """Make a call of a built-in function, whose errors are its own: those of a call that it makes itself, too."""

    def in_own_words(error: BaseException) -> BaseException:
        return own(error) if isinstance(error, FunctionError) else error

    try:
        answer = call()
    except FunctionError as error:
        raise own(error) from error
    outcome = then(answer, lambda result: result, in_own_words)
    if isinstance(answer, asyncio.Future) and isinstance(outcome, asyncio.Future):
        made = answer
        outcome.add_done_callback(lambda done: made.cancel() if done.cancelled() else None)
    return outcome
