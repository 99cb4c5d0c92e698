"""The calls that a worker makes: refused, carried out by the engine, or passed on to workers that serve the function."""

from __future__ import annotations

from functools import partial

from msgspec import Raw

from iii_state import values
from iii_state.engine.functions.function import Function, Invocation
from iii_state.engine.functions.registry import FunctionRegistry
from iii_state.engine.workers.workers import ConnectedWorker
from iii_state.errors import Code, FunctionError, NotCarriedOut
from iii_state.host import DEFAULT_NAMESPACE
from iii_state.wire import messages
from iii_state.wire.calls import IncomingCalls
from iii_state.wire.messages import ABSENT, InvokeFunction, given

MAX_DEFERRED_BYTES = 16 * 1024 * 1024
"""A worker is not read any more when its calls that wait for other workers to read hold this much, until they hold half of it.

One that provides trigger types is read on, since others wait for it, too; four times as much and its calls are refused.
"""


class Invocations:
    """The calls that one worker makes."""

    def __init__(self, worker: ConnectedWorker, functions: FunctionRegistry, answering: IncomingCalls) -> None:
        self._worker = worker
        self._functions = functions
        self._answering = answering
        self._deferred_bytes = 0
        self._deferring = False

    def invoke(self, message: InvokeFunction, size: int) -> None:
        """Take a call, in a frame of so many bytes."""
        invocation_id = message.invocation_id if messages.is_given(message.invocation_id) else ABSENT
        function_text = values.encode_string(message.function_id)
        if messages.is_given(message.action):
            kind = _action_type(message.action)
            if kind == "enqueue":
                refused = FunctionError(Code.ENQUEUE_ERROR, "this engine has no queues: call the function without enqueue")
                self._answering.fail(invocation_id, function_text, refused)
                return
            if kind != "void":
                shown = bytes(message.action)[:100].decode(errors="replace")
                refused = FunctionError(Code.DESERIALIZATION_ERROR, f"Unknown action {shown}")
                self._answering.fail(invocation_id, function_text, refused)
                return
            invocation_id = ABSENT
        namespace = message.namespace
        if namespace is not None and not namespace.strip():
            self._answering.fail(invocation_id, function_text, FunctionError(Code.INVALID_NAMESPACE, "The namespace is blank."))
            return
        if (access := self._worker.caller.access) is not None and not access.may_call(message.function_id):
            self._answering.fail(invocation_id, function_text, access.refusal(f"call {message.function_id}"))
            return
        function = self._functions.get(namespace or DEFAULT_NAMESPACE, message.function_id)
        if function is None:
            error = self._functions.not_found(namespace or DEFAULT_NAMESPACE, message.function_id)
            self._answering.fail(invocation_id, function_text, error)
            return
        call = Invocation(
            message.data,
            self._worker.caller,
            given(message.metadata),
            messages.trace_members(message),
            _read_id(invocation_id),
        )
        if function.handler is not None:
            carry_out = partial(self._carry_out, invocation_id, function, call, size)
            self._answering.let_in(size, carry_out, (function.id_text, message.data))
        elif access is not None and access.limits_what_is_asked(function.id):
            refused = access.refusal(f"call {function.id} here: a worker serves it, and does not know which scopes the token has")
            self._answering.fail(invocation_id, function_text, refused)
        else:
            self._pass_on(invocation_id, function, call, size, 0)

    def _carry_out(self, invocation_id: Raw, function: Function, call: Invocation, size: int) -> None:
        try:
            answer = self._functions.call(function, call)
        except Exception as error:
            self._answering.fail(invocation_id, function.id_text, error)
            return
        self._answering.settle(invocation_id, function.id_text, answer, size, call.data)

    def _pass_on(self, invocation_id: Raw, function: Function, call: Invocation, size: int, deferred: int) -> None:
        """Pass a call on to a worker; one that has much to read is waited for. `deferred` is its size if it has waited already."""
        if deferred:
            self._deferred_bytes -= deferred
            if self._deferring and self._deferred_bytes <= MAX_DEFERRED_BYTES // 2:
                self._deferring = False
                self._worker.link.release()
            found = self._functions.get(function.namespace, function.id)
            if found is None:
                error = self._functions.not_found(function.namespace, function.id)
                self._answering.fail(invocation_id, function.id_text, error)
                return
            function = found
        again = partial(self._pass_on, invocation_id, function, call, size, size)
        if self._deferred_bytes + size > 4 * MAX_DEFERRED_BYTES and self._worker.is_exclusive and not deferred:
            busy = NotCarriedOut(
                Code.CHANNEL_SEND_FAILED, f"{self._deferred_bytes} bytes of calls wait for workers that read slowly"
            )
            self._answering.fail(invocation_id, function.id_text, busy)
            return
        if not self._functions.takes_calls(function, again):
            self._deferred_bytes += size
            if self._deferred_bytes > MAX_DEFERRED_BYTES and not self._deferring and not self._worker.is_exclusive:
                self._deferring = True
                self._worker.link.hold()
            return
        self._carry_out(invocation_id, function, call, 0)


def _action_type(action: Raw) -> object:
    value = messages.read(action)
    return value.get("type") if isinstance(value, dict) else None


def _read_id(invocation_id: Raw) -> str | None:
    if not invocation_id:
        return None
    value = messages.read(invocation_id)
    return value if isinstance(value, str) else None
