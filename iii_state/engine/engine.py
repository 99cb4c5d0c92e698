"""An iii engine that lives in a Python process: functions, triggers, modules, and workers over WebSockets."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

from iii_state import lineages, values
from iii_state.config import ServerLimits, ServerSettings
from iii_state.engine.available import ChangeTriggers
from iii_state.engine.checks import optional_text, wrong_member, wrong_request
from iii_state.engine.figures import engine_figures
from iii_state.engine.functions.function import Details, Invocation
from iii_state.engine.functions.python_function import PythonCallable, PythonFunction, PythonTasks
from iii_state.engine.functions.registry import FunctionRegistry
from iii_state.engine.introspection import Introspection
from iii_state.engine.ledger import Ledger
from iii_state.engine.modules import Modules
from iii_state.engine.probes import ProbeResult, Probes
from iii_state.engine.server import Server
from iii_state.engine.triggers.binding import Binding
from iii_state.engine.triggers.registry import TriggerRegistry, registration_error
from iii_state.engine.workers.workers import Workers
from iii_state.errors import Code, FunctionError, InvalidValue
from iii_state.figures import Figure
from iii_state.guard import Guard
from iii_state.host import DEFAULT_NAMESPACE, LOCAL, Caller, Module, Trigger
from iii_state.tasks.background import Background
from iii_state.tasks.closing import Stopping, in_turn
from iii_state.tasks.failures import contained
from iii_state.tasks.results import Result
from iii_state.wire.quiet_log import QuietLog

log = logging.getLogger(__name__)
quiet = QuietLog(log)

_SWEEP_SECONDS = 1
_FUNCTIONS_SECONDS = 10
_DEEP = 100
"""A payload that nests deeper gets a stack that has room for it, however deep the caller's is."""


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
    `guard` says who may connect: `Guard.of({"token_file": "token"})`, say; without one, this machine's own programs.
    """

    id = ""
    name = "in-process"

    def __init__(
        self,
        *,
        call_timeout: float = 300.0,
        duplicates: Literal["round-robin", "first-wins"] = "round-robin",
        guard: Guard | None = None,
    ) -> None:
        self.guard = guard or Guard()
        self._reloading = asyncio.Lock()
        self.functions = FunctionRegistry(first_wins=duplicates == "first-wins")

        def limits() -> ServerLimits:
            return self.guard.settings.limits

        ledger = Ledger(limits)
        self.triggers = TriggerRegistry(self.functions, ledger)
        self.workers = Workers(self.functions, self.triggers, call_timeout, ledger, limits)
        self._call_timeout = call_timeout
        self._modules = Modules(self.functions, self.triggers, self.workers)
        self._own: dict[tuple[str, str], PythonFunction] = {}
        self._background = Background()
        self._find = self.functions.get_default
        self._server: Server | None = None
        self._tasks: PythonTasks | None = None
        self._stopping = Stopping(self._stop)

    # --- life

    async def __aenter__(self) -> Self:
        if self._server is not None:
            raise RuntimeError("an engine runs once: make another one")
        self._loop = asyncio.get_running_loop()
        self._tasks = PythonTasks(self._loop, self._call_timeout)
        probes = Probes(self.guard, self._health, self._readiness)
        self._server = Server(self.workers, self.guard, probes, self.figures)
        host = self._modules.host("engine")
        Introspection(self.functions, self.triggers, self.workers, self).register(host)
        ChangeTriggers(self.functions, self.workers, self.triggers, self._notify).register(host)
        self._server.channels.register(host)
        self._background.start(self._sweep_regularly(), "the engine's sweep")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Take no more connections, stop the modules in reverse order, then let the workers go (1012) and end what runs.

        Handlers that run may finish (10 s). It happens once: giving up waiting does not cut it off, and every call waits for it.
        In a Python function of this engine it returns at once, and the engine stops behind that function.
        """
        if self._server is None:
            return
        tasks = self._tasks
        if tasks is not None and tasks.runs(asyncio.current_task()):
            self._stopping.begin()
        else:
            await self._stopping()

    async def _stop(self) -> None:
        ends = self._loop.time() + _FUNCTIONS_SECONDS
        tasks = self._tasks
        assert tasks is not None
        await in_turn(
            self.server.stop_listening,
            self._modules.stop,
            self.server.stop,
            lambda: tasks.stop(max(1.0, ends - self._loop.time())),
            self._background.stop,
        )

    def _running(self) -> PythonTasks:
        """The engine's own tasks. Raises `RuntimeError` outside `async with`."""
        if self._tasks is None or self._stopping.is_over:
            raise RuntimeError("this engine is not running: use it inside `async with Engine() as engine`")
        return self._tasks

    def _check_takes_more(self) -> None:
        self._running()
        if self._stopping.has_begun:
            raise RuntimeError("this engine has been stopped: make another one")

    async def _sweep_regularly(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                self.sweep()
                await self.server.tick(_SWEEP_SECONDS)
            except Exception:
                log.exception("the engine's sweep failed; it goes on")

    def sweep(self) -> None:
        """End calls that take longer than the engine's timeout; the engine does it about once a second."""
        self.workers.sweep()
        self._running().sweep()

    async def add_module(self, module: Module) -> None:
        """Start a module in this engine. It is stopped with the engine, in reverse order.

        Raises what the module's `start` raises (`ConfigError`, `StoreError`); what it had registered is gone then. One that is in
        this engine already is a `ConfigError`.
        """
        self._check_takes_more()
        await self._modules.add(module)
        if self._stopping.has_begun:
            await self._modules.stop()
            self._check_takes_more()

    async def serve(self, host: str = "127.0.0.1", port: int = 49134) -> tuple[str, int]:
        """Take workers on a WebSocket port; port 0 is a free one. Returns the address once it listens. May be called several times.

        Raises `OSError` for an address that cannot be had, `ConfigError` for one that others can reach while no token is wanted.
        """
        self._check_takes_more()
        return await self.server.listen(host, port)

    async def reload_guard(self, settings: ServerSettings | None = None) -> None:
        """Read the guard's files again: tokens, certificates. Who came with a token that is good no more is let go (1012).

        Raises `ConfigError` for files that cannot be used, and then everything is as it was.
        """
        async with self._reloading:
            self.guard.reload(settings)
            await self.server.apply_guard()
            for binding in self.triggers.of(self):
                self._apply_rights(binding)

    def _apply_rights(self, binding: Binding) -> None:
        """A trigger that a worker has registered to outlive its connection goes with the token or the right to it."""
        by = binding.by
        if not by.worker_id:
            return
        now = None if by.identity is None else self.guard.renewed(by.identity)
        if not self.guard.still_admits(by.identity):
            self.triggers.apply_rights(binding, None)
        elif now != by.identity:
            self.triggers.apply_rights(binding, Caller(by.worker_id, by.namespace, now))

    @property
    def server(self) -> Server:
        """The ports; there from `async with` on."""
        self._running()
        assert self._server is not None
        return self._server

    async def health(self) -> dict[str, str]:
        """What is wrong, by the names of modules; empty when all is well."""
        return await self._modules.health()

    async def readiness(self) -> dict[str, str]:
        """Why this engine is not to be given work now, by the names of modules and `engine`; empty where it is."""
        wrong = await self._modules.readiness()
        return {"engine": "it is being stopped", **wrong} if self._stopping.has_begun else wrong

    async def _health(self) -> ProbeResult:
        wrong = await self.health()
        return ProbeResult(wrong, {} if wrong else {"workers": len(self.workers)})

    async def _readiness(self) -> ProbeResult:
        return ProbeResult(await self.readiness(), {"workers": len(self.workers)})

    async def figures(self) -> list[Figure]:
        """What this engine and its modules have counted, as `/metrics` shows it."""
        return [*engine_figures(self.functions, self.triggers, self.workers, self.server), *await self._modules.figures()]

    # --- functions

    def register_function(
        self, function_id: str, function: PythonCallable, *, description: str | None = None, namespace: str = DEFAULT_NAMESPACE
    ) -> FunctionRegistration:
        """Serve a function with a Python callable: `def f(event)` or `def f(event, metadata)`, plain or async, on Python objects.

        What it returns is the result (None: no result). What it raises reaches the caller as code `invocation_failed`, a
        `FunctionError` with its own code. Registering the same id again replaces. Raises `ValueError` for a built-in id, or one
        that is no text.
        """
        if wrong_member({"function_id": function_id, "namespace": namespace}) is not None:
            raise ValueError(f"function_id and namespace have to be strings of Unicode text, not {function_id!r} and {namespace!r}")
        known = self.functions.get(namespace, function_id)
        if known is not None and known.handler is not None:
            raise ValueError(f"function {function_id} is built in")
        executor = PythonFunction(function, self._running())
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
        Raises `FunctionError`: `function_not_found`, `TIMEOUT`, `deserialization_error` for a payload that is no JSON or another
        member that is not what it should be, or what the function failed with.
        """
        try:
            function_id = request["function_id"]
            function = self._find(function_id)
        except (KeyError, TypeError):
            raise wrong_request(request) from None
        try:
            data = values.encode(request.get("payload"))
        except InvalidValue as error:
            raise FunctionError(Code.DESERIALIZATION_ERROR, f"Failed to deserialize input for {function_id}: {error}") from None
        if function is None or (handler := function.handler) is None or len(request) > 1 + ("payload" in request):
            return await self._trigger_with_options(request, data)
        answer: Result[bytes | None] = None
        try:
            if len(data) > 2 * _DEEP and values.nesting_exceeds(data, _DEEP):
                with values.deeper_stack():
                    answer = handler(data, LOCAL)
            else:
                answer = handler(data, LOCAL)
            result = (await answer) if isinstance(answer, asyncio.Future) else answer
        except FunctionError:
            raise
        except BaseException as error:
            if _interrupts(answer, error):
                raise
            raise contained(error) from error
        return None if result is None else values.decode(result)

    async def _trigger_with_options(self, request: dict[str, Any], data: bytes) -> Any:
        self._running()
        if (wrong := wrong_member(request)) is not None:
            raise FunctionError(Code.DESERIALIZATION_ERROR, f"Failed to deserialize the call: {wrong}")
        action = (request.get("action") or {}).get("type")
        timeout_ms = request.get("timeout_ms")
        if action not in (None, "void"):
            raise FunctionError(Code.ENQUEUE_ERROR, f"this engine has no action {action!r}")
        namespace = request.get("namespace") or DEFAULT_NAMESPACE
        try:
            call = Invocation(data, metadata=optional_text(request.get("metadata")), trace=lineages.within.get())
        except InvalidValue as error:
            raise FunctionError(Code.DESERIALIZATION_ERROR, f"Failed to deserialize the call: metadata: {error}") from None
        answer: Result[bytes | None] = None
        limit: asyncio.Timeout | None = None
        try:
            answer = self.functions.call(self.functions.find(namespace, request["function_id"]), call)
            if action == "void":
                if isinstance(answer, asyncio.Future):
                    answer.add_done_callback(_log_failure(request["function_id"]))
                return None
            if isinstance(answer, asyncio.Future):
                async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000) as limit:
                    result = await answer
            else:
                result = answer
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit is not None and limit.expired():
                raise FunctionError(Code.TIMEOUT, f"no answer within {timeout_ms:g} ms") from None
            if _interrupts(answer, error):
                raise
            if action == "void":
                log.warning("a void call of %s failed: %s", request["function_id"], error)
                return None
            if isinstance(error, FunctionError):
                raise
            raise contained(error) from error
        return None if result is None else values.decode(result)

    def _notify(self, trigger: Trigger, event: bytes) -> None:
        """Run a trigger of the engine's own types; a function that is not there is not waited for."""
        function = self.functions.get(trigger.namespace, trigger.function_id)
        if function is None:
            return
        try:
            answer = self.functions.call(function, Invocation(event, metadata=trigger.metadata))
        except Exception as error:
            quiet.warning("the handler %s of trigger %s failed: %s", trigger.function_id, trigger.id, error)
            return
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(_log_failure(trigger.function_id))

    # --- triggers

    async def register_trigger(self, request: dict[str, Any]) -> TriggerRegistration:
        """Register a trigger: `{"type": …, "function_id": …}`, and optionally `"config"`, `"metadata"`, `"namespace"`, `"id"`.

        Once this has returned, nothing that happens later is missed. Without a provider of the type the trigger waits for one.
        Raises `FunctionError` (`trigger_registration_failed`) for a config that cannot be used.
        """
        self._running()
        if (wrong := wrong_member(request, ("type", "function_id"), ("namespace", "id"))) is not None:
            raise FunctionError(Code.TRIGGER_REGISTRATION_FAILED, f"Failed to parse the trigger: {wrong}")
        namespace = request.get("namespace") or DEFAULT_NAMESPACE
        try:
            config, metadata = optional_text(request.get("config")), optional_text(request.get("metadata"))
        except InvalidValue as error:
            raise FunctionError(Code.TRIGGER_REGISTRATION_FAILED, f"Failed to parse trigger config or metadata: {error}") from None
        trigger_id = request.get("id") or str(uuid.uuid4())
        trigger = Trigger(trigger_id, request["type"], request["function_id"], config, metadata, namespace)
        answer = self.triggers.register(trigger, self, namespace)
        if isinstance(answer, asyncio.Future):
            try:
                await answer
            except BaseException as error:
                if _interrupts(answer, error):
                    if answer.done() and not answer.cancelled() and answer.exception() is None:
                        self.triggers.unregister(trigger.id, self)  # its caller was stopped in the turn in which it was told
                    raise
                raise registration_error(error) from error
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


def _interrupts(answer: object, error: BaseException) -> bool:
    """Whether `error`, which has just been raised, is for the task that waits for a call, and not the call's own.

    A task may be cancelled in the very turn in which the call has been answered: `answer` tells nothing of that then.
    """
    if not isinstance(answer, asyncio.Future):
        return False
    task = asyncio.current_task()
    return not answer.done() or (isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0)


def _log_failure(function_id: str) -> Callable[[asyncio.Future[Any]], None]:
    def log_failure(done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            quiet.warning("a call of %s that nobody waits for failed: %s", function_id, error)

    return log_failure
