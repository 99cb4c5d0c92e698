"""What a worker of ours serves: functions, and trigger types with the triggers that an engine has bound to them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import msgspec
from msgspec import Raw

from iii_state import lineages, values
from iii_state.errors import Code, FunctionError, NotCarriedOut, words
from iii_state.host import DEFAULT_NAMESPACE, Caller, Handler, Trigger, TriggerProvider
from iii_state.tasks.failures import contained
from iii_state.tasks.results import Result, then
from iii_state.tasks.steps import Steps
from iii_state.values import Json
from iii_state.wire import messages
from iii_state.wire.calls import IncomingCalls
from iii_state.wire.messages import ABSENT, given

log = logging.getLogger(__name__)

Listener = Callable[[Json, Json | None], Result[bytes | None]]
"""A function that takes a call's data and its metadata, both as JSON text."""


class _Function(msgspec.Struct, frozen=True):
    text: bytes
    take: Callable[[messages.InvokeFunction], Result[bytes | None]]
    registration: bytes
    answers: bool
    """Whether it is called for its result, which may be large, and not told of something."""


class _TriggerType(msgspec.Struct, frozen=True):
    provider: TriggerProvider
    registration: bytes


class Serving:
    """What is served, over any number of connections one after the other; `tell` sends a frame on the one there is."""

    def __init__(self, caller: Caller, tell: Callable[[bytes], None]) -> None:
        self._caller = caller
        self._tell = tell
        self.absent = _not_found
        """What a call of a function is answered that is not served, or not any more."""
        self._functions: dict[str, _Function] = {}
        self._types: dict[str, _TriggerType] = {}
        self._bound: dict[str, Trigger] = {}
        """The triggers of the types provided here, by their ids."""
        self._steps = Steps()
        self._in_order: deque[asyncio.Future[None] | Callable[[], None]] = deque()
        """Triggers that are being registered, and the calls that came behind them."""
        self._gate: asyncio.Future[None] | None = None
        self._unconfirmed: dict[str, set[str]] = {}
        """Of types that are being provided anew: the triggers that the engine has not handed over again."""

    def registrations(self) -> Iterator[bytes]:
        """The frames that tell an engine of all of it."""
        for provided in self._types.values():
            yield provided.registration
        for function in self._functions.values():
            yield function.registration

    def retire(self) -> None:
        """Tell the engine that others may serve all of this from now on; what is under way here, and what is bound, goes on."""
        for trigger_type in self._types:
            self._tell(messages.encode(messages.UnregisterTriggerType(trigger_type)))
        for function_id in self._functions:
            self._tell(messages.encode(messages.UnregisterFunction(function_id)))

    # --- what comes too early

    def hold(self) -> None:
        """Carry no call out until `release`: a trigger that the engine is about to hand over may be there for what it does."""
        if self._gate is None:
            self._gate = asyncio.get_running_loop().create_future()
            self._gate.add_done_callback(self._go_on)
            self._in_order.append(self._gate)

    def release(self) -> None:
        """Carry out what has waited, in order, and what comes from now on."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.set_result(None)

    # --- functions

    def register_function(
        self, function_id: str, handler: Handler, description: str | None = None, metadata: bytes | None = None
    ) -> None:
        """Serve a function from now on; one of the same id is replaced."""
        message = messages.RegisterFunction(function_id, description, metadata=ABSENT if metadata is None else Raw(metadata))
        caller = self._caller
        self._serve(message, lambda call: handler(call.data, caller), answers=True)

    def register_listener(self, function_id: str, listener: Listener, description: str) -> None:
        """Serve a function that is told of the calls' metadata, as `register_function` does."""
        message = messages.RegisterFunction(function_id, description)
        self._serve(message, lambda call: listener(call.data, given(call.metadata)), answers=False)

    def _serve(
        self,
        message: messages.RegisterFunction,
        take: Callable[[messages.InvokeFunction], Result[bytes | None]],
        *,
        answers: bool,
    ) -> None:
        function = _Function(values.encode_string(message.id), take, messages.encode(message), answers)
        self._functions[message.id] = function
        self._tell(function.registration)

    def unregister_function(self, function_id: str) -> None:
        """Serve a function no more."""
        if self._functions.pop(function_id, None) is not None:
            self._tell(messages.encode(messages.UnregisterFunction(function_id)))

    def take_call(self, message: messages.InvokeFunction, answering: IncomingCalls) -> None:
        """Carry a call out, when the triggers that came before it are registered: it may be what they are there for."""
        if self._in_order:
            self._in_order.append(partial(self._carry_out, message, answering))
        else:
            self._carry_out(message, answering)

    def _carry_out(self, message: messages.InvokeFunction, answering: IncomingCalls) -> None:
        function = self._functions.get(message.function_id)
        if function is None:
            answering.fail(message.invocation_id, values.encode_string(message.function_id), self.absent(message.function_id))
        elif function.answers:
            size = len(message.data) + 1
            answering.let_in(size, partial(_answer, function, message, answering, size), (function.text, message.data))
        else:
            _answer(function, message, answering, 0)

    # --- trigger types

    def register_trigger_type(self, trigger_type: str, provider: TriggerProvider, description: str) -> None:
        """Provide a trigger type from now on."""
        provided = _TriggerType(provider, messages.encode(messages.RegisterTriggerType(trigger_type, description)))
        self._types[trigger_type] = provided
        self._tell(provided.registration)

    def unregister_trigger_type(self, trigger_type: str) -> None:
        """Provide a trigger type no more; its triggers are let go."""
        if self._types.get(trigger_type) is not None:
            for trigger in [trigger for trigger in self._bound.values() if trigger.trigger_type == trigger_type]:
                del self._bound[trigger.id]
                self._let_go(trigger)
            del self._types[trigger_type]
            self._tell(messages.encode(messages.UnregisterTriggerType(trigger_type)))

    def renew_trigger_type(self, trigger_type: str) -> None:
        """Provide a type once more that the engine has lost, or has given to another worker; it hands over the triggers again."""
        self._unconfirmed[trigger_type] = {trigger.id for trigger in self._bound.values() if trigger.trigger_type == trigger_type}
        self._tell(self._types[trigger_type].registration)

    def drop_unconfirmed(self, trigger_type: str) -> None:
        """Let the triggers of a renewed type go that the engine has not handed over again: they were let go meanwhile."""
        for trigger_id in self._unconfirmed.pop(trigger_type, ()):
            trigger = self._bound.pop(trigger_id, None)
            if trigger is not None:
                self._let_go(trigger)

    def take_trigger(self, message: messages.RegisterTrigger) -> None:
        """Take on a trigger of a type that is provided here, and tell the engine what became of it."""
        if message.trigger_type in self._unconfirmed:
            self._unconfirmed[message.trigger_type].discard(message.id)
        config, metadata = given(message.config), given(message.metadata)
        trigger = Trigger(
            message.id,
            message.trigger_type,
            message.function_id,
            None if config is None else bytes(config),
            None if metadata is None else bytes(metadata),
            message.namespace or DEFAULT_NAMESPACE,
        )
        replaces = self._bound.pop(message.id, None)
        provided = self._types.get(message.trigger_type)
        self._bound[trigger.id] = trigger
        try:
            if provided is None:
                raise FunctionError(Code.TRIGGER_TYPE_NOT_FOUND, f"trigger type {message.trigger_type} is not provided here")
            provider = provided.provider
            answer = self._steps.after(trigger.id, lambda: provider.register(trigger, replaces))
        except Exception as error:
            self._registered(trigger, error)
            return
        if isinstance(answer, asyncio.Future):
            self._in_order.append(answer)
            answer.add_done_callback(lambda done: self._registered(trigger, _failure(done)))
            answer.add_done_callback(self._go_on)
        else:
            self._registered(trigger, None)

    def _go_on(self, _: asyncio.Future[None]) -> None:
        in_order = self._in_order
        while in_order:
            first = in_order[0]
            if isinstance(first, asyncio.Future):
                if not first.done():
                    return
                in_order.popleft()
            else:
                in_order.popleft()
                first()

    def _registered(self, trigger: Trigger, error: BaseException | None) -> None:
        if self._bound.get(trigger.id) is not trigger:
            return  # let go or replaced meanwhile: the engine does not wait for this any more
        text = ABSENT
        if error is not None:
            del self._bound[trigger.id]
            failure = error if isinstance(error, FunctionError) else FunctionError(Code.TRIGGER_REGISTRATION_FAILED, words(error))
            text = Raw(messages.error_text(failure))
        result = messages.TriggerRegistrationResult(trigger.id, trigger.trigger_type, trigger.function_id, text)
        self._tell(messages.encode(result))

    def drop_trigger(self, message: messages.UnregisterTrigger) -> None:
        """The engine has let a trigger go.

        Unless it says that this was asked for (`disconnected` is false, which a stock engine does not), the provider is told that
        the trigger's worker is away and may come back.
        """
        trigger = self._bound.pop(message.id, None)
        if trigger is not None:
            self._let_go(trigger, disconnected=message.disconnected is not False)

    def disconnected(self) -> None:
        """The connection is gone, and with it all triggers; the engine hands them over again on the next one."""
        bound, self._bound = self._bound, {}
        self._in_order.clear()
        self._gate = None
        self._unconfirmed.clear()
        for trigger in bound.values():
            self._let_go(trigger)

    def _let_go(self, trigger: Trigger, *, disconnected: bool = True) -> None:
        provided = self._types.get(trigger.trigger_type)
        if provided is None:
            return
        provider = provided.provider
        try:
            then(self._steps.after(trigger.id, lambda: provider.unregister(trigger, disconnected=disconnected)), _nothing, _logged)
        except Exception as error:
            _logged(error)


def _answer(function: _Function, message: messages.InvokeFunction, answering: IncomingCalls, size: int) -> None:
    try:
        trace = messages.trace_members(message)
        answer = lineages.inside(trace, function.take, message) if trace else function.take(message)
    except BaseException as failure:
        answering.fail(message.invocation_id, function.text, contained(failure))
        return
    answering.settle(message.invocation_id, function.text, answer, size, message.data)


def _not_found(function_id: str) -> FunctionError:
    return NotCarriedOut(Code.FUNCTION_NOT_FOUND, f"Function {function_id} not found")


def _failure(done: asyncio.Future[None]) -> BaseException | None:
    return (
        FunctionError(Code.TRIGGER_REGISTRATION_FAILED, "the registration was given up") if done.cancelled() else done.exception()
    )


def _nothing(_: None) -> None:
    pass


def _logged(error: BaseException) -> BaseException:
    log.warning("a trigger could not be let go: %s", error)
    return error
