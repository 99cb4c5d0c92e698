"""Who serves which function: built-in handlers, Python functions and workers, by namespace and id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from iii_state import lineages
from iii_state.engine.functions.function import Details, Executor, Function, Invocation
from iii_state.errors import Code, FunctionError, NotCarriedOut
from iii_state.host import DEFAULT_NAMESPACE, Handler
from iii_state.tasks.failures import contained
from iii_state.tasks.results import Result

log = logging.getLogger(__name__)


class FunctionRegistry:
    """All functions, by (namespace, id).

    With `first_wins`, the first executor of a function that lives serves it alone; otherwise all do in turn, except where the
    first is exclusive.
    """

    def __init__(self, *, first_wins: bool = False) -> None:
        self._namespaces: dict[str, dict[str, Function]] = {DEFAULT_NAMESPACE: {}}
        self._watchers: list[Callable[[str, str], None]] = []
        self._settling: dict[Function, list[asyncio.Future[None]]] = {}
        self.first_wins = first_wins
        self.get_default = self._namespaces[DEFAULT_NAMESPACE].get
        """Look a function of the namespace `default` up by its id: the short way of `get`, for the path of every call."""

    def __iter__(self) -> Iterator[Function]:
        return (function for functions in self._namespaces.values() for function in functions.values())

    def get(self, namespace: str, function_id: str) -> Function | None:
        """Look a function up."""
        functions = self._namespaces.get(namespace)
        return None if functions is None else functions.get(function_id)

    def find(self, namespace: str, function_id: str) -> Function:
        """The function. Raises `FunctionError` `function_not_found`."""
        function = self.get(namespace, function_id)
        if function is None:
            raise self.not_found(namespace, function_id)
        return function

    def not_found(self, namespace: str, function_id: str) -> FunctionError:
        """The error that says that nobody serves a function, and where else somebody does."""
        message = f"Function {function_id} not found in namespace {namespace}."
        elsewhere = sorted(function.namespace for function in self if function.id == function_id)
        if elsewhere:
            message += f" It is registered in namespace(s): {', '.join(elsewhere)}."
        return NotCarriedOut(Code.FUNCTION_NOT_FOUND, message)

    def call(self, function: Function, call: Invocation, executor: Executor | None = None) -> Result[bytes | None]:
        """Call a function, by the executor given or the one whose turn it is.

        Raises (or sets in the Future) `FunctionError`, or what the function raised; what is no `Exception` is raised as a
        `FunctionError`, since it would end more than the call.
        """
        try:
            if function.handler is not None:
                if call.trace:
                    return lineages.inside(call.trace, function.handler, call.data, call.caller)
                return function.handler(call.data, call.caller)
            return (executor or function.pick(self.first_wins)).execute(function, call)
        except Exception:
            raise
        except BaseException as error:
            raise contained(error) from error

    def takes_events(self, function: Function, go_on: Callable[[], None]) -> bool:
        """Whether an event can be sent to a worker that serves the function. If not, `go_on` is called once when it may be so."""
        executors = function.executors
        if function.handler is not None or not executors:
            return True
        if (outlet := executors[0].outlet) is None or outlet.takes_more:
            return True
        outlets = function.outlets(self.first_wins)
        if not outlets or any(outlet.takes_more for outlet in outlets):
            return True
        go_on = _Once(go_on)
        for outlet in outlets:
            outlet.when_idle(go_on)
        return False

    def takes_calls(self, function: Function, go_on: Callable[[], None]) -> bool:
        """Whether a call can be sent to some worker that serves the function. If not, `go_on` is called once when it may be so."""
        executors = function.executors
        if function.handler is not None or not executors:
            return True
        if (outlet := executors[0].outlet) is None or not outlet.is_behind:
            return True
        outlets = function.outlets(self.first_wins)
        if not outlets or any(not outlet.is_behind for outlet in outlets):
            return True
        go_on = _Once(go_on)
        for outlet in outlets:
            outlet.when_read(go_on)
        return False

    def add_builtin(
        self, function_id: str, handler: Handler, description: str | None, metadata: Callable[[], bytes] | None, provider: str
    ) -> Function:
        """Serve a function in the engine itself. Raises `ValueError` if it is built in already.

        Executors that had registered it stay behind the built-in one.
        """
        function = self.get(DEFAULT_NAMESPACE, function_id)
        known = function is not None
        if function is None:
            function = self._add(DEFAULT_NAMESPACE, function_id)
        elif function.handler is not None:
            raise ValueError(f"function {function_id} is already built in")
        function.handler = handler
        function.provider = provider
        function.describe(Details(description, metadata_now=metadata))
        if not known:
            self._changed(function)
        return function

    def remove_builtin(self, function: Function) -> None:
        """Take a built-in handler away."""
        function.handler = None
        if not function.executors:
            self._drop(function)

    def add_executor(self, namespace: str, function_id: str, executor: Executor) -> tuple[Function, str | None]:
        """Let an executor serve a function.

        Returns the function and, where somebody else keeps it to himself, that one's id (empty for the engine): a built-in
        function is not taken, and an executor behind an exclusive one waits until that one leaves.
        """
        function = self.get(namespace, function_id)
        if function is None:
            function = self._add(namespace, function_id)
            function.executors.append(executor)
            self._changed(function)
            return function, None
        if function.handler is not None:
            return function, ""
        if executor not in function.executors:
            before = function.outlets(self.first_wins)
            function.executors.append(executor)
            for outlet in before:
                outlet.end_turns()  # who waits for one that serves it finds that another one can
        first = function.executors[0]
        if first is not executor and (self.first_wins or first.is_exclusive or executor.is_exclusive):
            return function, first.id
        return function, None

    def remove_executor(self, namespace: str, function_id: str, executor: Executor) -> None:
        """Take an executor away, if it is one of the function's."""
        function = self.get(namespace, function_id)
        if function is None or executor not in function.executors:
            return
        function.forget(executor)
        if not function.executors and function.handler is None:
            self._drop(function)

    def is_served_only_by(self, namespace: str, function_id: str, name: str) -> bool:
        """Whether a function is served, and by nobody but connections with tokens of this name."""
        function = self.get(namespace, function_id)
        if function is None or function.handler is not None or not function.executors:
            return False
        identities = [executor.identity for executor in function.executors]
        return all(identity is not None and identity.name == name for identity in identities)

    def _add(self, namespace: str, function_id: str) -> Function:
        function = Function(namespace, function_id)
        self._namespaces.setdefault(namespace, {})[function_id] = function
        return function

    def _drop(self, function: Function) -> None:
        functions = self._namespaces[function.namespace]
        del functions[function.id]
        if not functions and function.namespace != DEFAULT_NAMESPACE:
            del self._namespaces[function.namespace]
        self.settled(function)
        self._changed(function)

    def watch(self, changed: Callable[[str, str], None]) -> Callable[[], None]:
        """Call `changed(namespace, function_id)` whenever a function comes or goes, until what is returned is called."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    async def settling(self, function: Function) -> None:
        """Wait until an executor of a function settles, or the function goes."""
        settled = asyncio.get_running_loop().create_future()
        self._settling.setdefault(function, []).append(settled)
        await settled

    def settled(self, function: Function) -> None:
        """An executor of a function is settled now, or the function gone."""
        for settled in self._settling.pop(function, ()):
            if not settled.done():
                settled.set_result(None)

    def _changed(self, function: Function) -> None:
        for changed in list(self._watchers):
            try:
                changed(function.namespace, function.id)
            except Exception:
                log.exception("a watcher of functions failed on %s", function.id)


class _Once:
    """Calls another once, however often it is called: for what waits for several things, of which the first counts."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()
