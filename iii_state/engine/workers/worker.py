"""A connected worker: what its frames ask for, the functions it serves, the triggers and trigger types it registers."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from msgspec import Raw

from iii_state import values
from iii_state.engine.functions.function import Call, Function
from iii_state.engine.workers.registrations import Registrations
from iii_state.engine.workers.workers import Description, Workers
from iii_state.errors import Code, FunctionError, NotCarriedOut, WorkerLost
from iii_state.host import DEFAULT_NAMESPACE, Caller, Trigger
from iii_state.tasks.failures import contained
from iii_state.tasks.results import Answer
from iii_state.wire import malformed, messages
from iii_state.wire.backlog import LARGE_RESULT_BYTES
from iii_state.wire.calls import Answering
from iii_state.wire.link import Link
from iii_state.wire.messages import ABSENT, InvokeFunction, given
from iii_state.wire.pending import NOT_SENT, PendingCalls
from iii_state.wire.quiet_log import QuietLog

log = logging.getLogger(__name__)
quiet = QuietLog(log)

DESCRIBES_ITSELF_WITHIN_SECONDS = 5
"""For so long a worker that has not said what it is gets no call that an old one could not receive."""

MAX_DEFERRED_BYTES = 16 * 1024 * 1024
"""A worker is not read any more when its calls that wait for other workers to read hold this much, until they hold half of it.

One that provides trigger types is read on, since others wait for it, too; four times as much and its calls are refused.
"""

MAX_UNSENT_BYTES = 64 * 1024 * 1024
"""A worker for which more than this waits is sent no call, whoever makes it."""

LARGE_BYTES = 256 * 1024
"""A call of this size takes a while to send, on a slow connection."""

SETTLES_WITHIN_SECONDS = 0.25
"""So long after its last registration a worker that has not said what it is belongs to the namespace `default`.

It does `DESCRIBES_ITSELF_WITHIN_SECONDS` after it has connected, too, however much it goes on registering.
"""

_INTRODUCES = "engine::workers::register"

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_decode = messages.decode
_ID_AT = len(messages.RESULT_START)
_NULL = ord("n")


class Worker:
    """One worker, for as long as its connection lasts. It is an executor of functions and an owner of triggers."""

    def __init__(self, workers: Workers, link: Link, remote: str | None = None) -> None:
        self.id = str(uuid.uuid4())
        self.reattach_token = str(uuid.uuid4())
        self.namespace = DEFAULT_NAMESPACE
        self.caller = Caller(self.id, DEFAULT_NAMESPACE)
        self.link = link
        self.remote = remote
        self.connected_at_ms = int(time.time() * 1000)
        self._loop = asyncio.get_running_loop()
        self._connected_at = self._loop.time()
        self.description = Description()
        self.is_settled = False
        """Whether it is known which namespace it belongs to, which SDKs say behind their registrations. Events wait for it."""
        self._settles: asyncio.TimerHandle | None = None
        self._is_ours = False
        """Whether this project's client speaks, for an engine with a bridge to this one, or an attached worker.

        A null result of its is one (SDKs send it for none at all, too), and what it says of a call's fate counts.
        """
        self.pending = PendingCalls(self._loop, workers.call_timeout)
        """Calls that it executes."""
        self.outlet = link
        self._answering = Answering(link, self._too_large, _unheard)
        self._backlog = link.backlog
        self._sending: dict[asyncio.Future[bytes | None], int] = {}
        """Large calls, with the position in all that is sent to the worker at which each ends; some may have left."""
        self._deferred_bytes = 0
        self._deferring = False
        self._workers = workers
        self._functions = workers.functions
        self._find = workers.functions.get_default
        self._send = link.send
        self._registrations = Registrations(self, workers, self._go_on)
        self._behind_registrations: tuple[InvokeFunction, int] | None = None
        self._large_calls: dict[str, tuple[Function, bytes]] | None = {}
        """Calls that wait until it is known whether the worker can receive them, by their id; None once that is known."""
        self._large_bytes = 0
        self._fresh = (str(uuid.uuid4())[:24], count(1))
        self._take: dict[type[Any], Callable[[Any], None]] = {
            messages.InvocationResult: self._take_result,
            messages.RegisterFunction: self._registrations.register_function,
            messages.UnregisterFunction: self._registrations.unregister_function,
            messages.RegisterTriggerType: self._registrations.register_trigger_type,
            messages.UnregisterTriggerType: self._registrations.unregister_trigger_type,
            messages.RegisterTrigger: self._registrations.register_trigger,
            messages.UnregisterTrigger: self._registrations.unregister_trigger,
            messages.TriggerRegistrationResult: self._registrations.take_registration_result,
            messages.Reattach: self._reattach,
            messages.Ping: lambda _: self._send(messages.encode(messages.Pong())),
        }

    @property
    def name(self) -> str:
        """What it calls itself."""
        return self.description.name or ""

    @property
    def is_exclusive(self) -> bool:
        """A provider of trigger types keeps its functions: what they do and its triggers belong together. It may say so before."""
        return self._registrations.has_types or messages.EXCLUSIVE in (self.description.features or ())

    @property
    def may_crash(self) -> bool:
        """Whether it may go away because of a call that it runs.

        An engine with a bridge to this one only passes on what it is called with: when it goes, nothing has crashed.
        """
        return not self._is_ours

    @property
    def function_ids(self) -> list[str]:
        """The functions that it serves, or would if another worker did not keep them."""
        return self._registrations.function_ids

    # --- frames

    def receive(self, message: bytes | bytearray, binary: bool = False) -> None:
        """Take a frame. Nothing that a frame holds raises.

        A call of what is built in, and answers at once, goes straight through: nothing here is done for it that it does not need.
        """
        if binary and message[:4] in messages.TELEMETRY:
            return
        try:
            decoded = _decode(message)
        except (ValueError, RecursionError) as error:
            self._refuse(message, error)
            return
        if type(decoded) is not InvokeFunction:
            self._take_message(message, decoded)
            return
        function = self._find(decoded.function_id)
        if (
            function is None
            or (handler := function.handler) is None
            or decoded.action is not ABSENT
            or (decoded.namespace is not None and decoded.namespace != DEFAULT_NAMESPACE)
            or self._registrations.open
            or self.link.is_behind
            or self._answering.is_full
            or self._backlog.is_full
        ):
            self._take_message(message, decoded)
            return
        invocation_id = decoded.invocation_id
        try:
            answer = handler(decoded.data, self.caller)
        except BaseException as error:
            self._answering.fail(invocation_id, function.id_text, contained(error))
            return
        if type(answer) is bytes and invocation_id is not ABSENT:
            frame = function.result_reply % (invocation_id, answer)
            if len(frame) <= self._answering.direct_bytes and frame[_ID_AT] != _NULL:
                self._send(frame)
                return
        self._answering.settle(invocation_id, function.id_text, answer, len(message), decoded.data)

    def _take_message(self, frame: bytes | bytearray, message: messages.Message) -> None:
        try:
            if type(message) is not InvokeFunction:
                take = self._take.get(type(message))
                if take is not None:
                    take(message)
            elif self._registrations.open and (self.is_settled or message.function_id != _INTRODUCES):
                self._behind_registrations = (message, len(frame))
                self.link.hold()
            else:
                self._invoke(message, len(frame))
        except Exception as error:
            log.exception("a frame of worker %s (%s) could not be handled", self.id, self.name)
            self._refuse(frame, error)

    def _refuse(self, message: bytes | bytearray, error: Exception) -> None:
        """Answer a frame that cannot be used, if it is one that is to be answered."""
        if not message.strip():
            return
        refused = malformed.read(message)
        why = malformed.reason(error, message)
        reason = FunctionError(Code.DESERIALIZATION_ERROR, f"Failed to read the frame: {why}")
        if refused.is_result:
            future = None if refused.invocation_id is None else self.pending.take(refused.invocation_id)
            if future is not None:
                about = f"the worker's answer could not be read: {why}"
                future.set_exception(FunctionError(Code.INVOCATION_ERROR, about))
        elif refused.invocation_text is not None and not refused.is_void:
            self._answering.refuse(refused.invocation_text, refused.function_text, reason)
        quiet.warning("worker %s (%s) sent a frame that cannot be used: %s", self.id, self.name, why)

    # --- calls that it makes

    def _invoke(self, message: InvokeFunction, size: int) -> None:
        invocation_id = message.invocation_id if messages.is_given(message.invocation_id) else ABSENT
        function_text = values.encode_string(message.function_id)
        if messages.is_given(message.action):
            kind = _action_type(message.action)
            if kind == "void":
                invocation_id = ABSENT
            elif kind == "enqueue":
                refused = FunctionError(Code.ENQUEUE_ERROR, "this engine has no queues: call the function without enqueue")
                self._answering.fail(invocation_id, function_text, refused)
                return
            else:
                self._answering.fail(
                    invocation_id,
                    function_text,
                    FunctionError(
                        Code.DESERIALIZATION_ERROR, f"Unknown action {bytes(message.action)[:100].decode(errors='replace')}"
                    ),
                )
                return
        namespace = message.namespace
        if namespace is not None and not namespace.strip():
            self._answering.fail(invocation_id, function_text, FunctionError(Code.INVALID_NAMESPACE, "The namespace is blank."))
            return
        function = self._functions.get(namespace or DEFAULT_NAMESPACE, message.function_id)
        if function is None:
            error = self._functions.not_found(namespace or DEFAULT_NAMESPACE, message.function_id)
            self._answering.fail(invocation_id, function_text, error)
            return
        call = Call(
            message.data,
            self.caller,
            given(message.metadata),
            messages.trace_members(message),
            _read_id(invocation_id),
        )
        if function.handler is not None:
            carry_out = partial(self._carry_out, invocation_id, function, call, size)
            self._answering.let_in(size, carry_out, (function.id_text, message.data))
        else:
            self._pass_on(invocation_id, function, call, size, 0)

    def _carry_out(self, invocation_id: Raw, function: Function, call: Call, size: int) -> None:
        try:
            answer = self._functions.call(function, call)
        except Exception as error:
            self._answering.fail(invocation_id, function.id_text, error)
            return
        self._answering.settle(invocation_id, function.id_text, answer, size, call.data)

    def _pass_on(self, invocation_id: Raw, function: Function, call: Call, size: int, deferred: int) -> None:
        """Pass a call on to a worker; one that has much to read is waited for. `deferred` is its size if it has waited already."""
        if deferred:
            self._deferred_bytes -= deferred
            if self._deferring and self._deferred_bytes <= MAX_DEFERRED_BYTES // 2:
                self._deferring = False
                self.link.release()
            found = self._functions.get(function.namespace, function.id)
            if found is None:
                error = self._functions.not_found(function.namespace, function.id)
                self._answering.fail(invocation_id, function.id_text, error)
                return
            function = found
        again = partial(self._pass_on, invocation_id, function, call, size, size)
        if self._deferred_bytes + size > 4 * MAX_DEFERRED_BYTES and self.is_exclusive and not deferred:
            busy = NotCarriedOut(
                Code.CHANNEL_SEND_FAILED, f"{self._deferred_bytes} bytes of calls wait for workers that read slowly"
            )
            self._answering.fail(invocation_id, function.id_text, busy)
            return
        if not self._functions.takes_calls(function, again):
            self._deferred_bytes += size
            if self._deferred_bytes > MAX_DEFERRED_BYTES and not self._deferring and not self.is_exclusive:
                self._deferring = True
                self.link.hold()
            return
        self._carry_out(invocation_id, function, call, 0)

    def _too_large(self, what: str, size: int) -> FunctionError:
        about = self.description
        return NotCarriedOut(
            Code.PAYLOAD_TOO_LARGE,
            f"{what} is a frame of {size} bytes; worker {self.name or self.id} ({about.runtime or 'unknown'} SDK "
            f"{about.version or 'of unknown version'}) can receive {self._answering.max_frame_bytes} bytes",
        )

    # --- calls that it executes

    def execute(self, function: Function, call: Call) -> Answer[bytes | None]:
        """Send a call to the worker. The Future fails with `WorkerLost` when it goes away, with the engine's `TIMEOUT`."""
        if not self.link.is_open:
            raise NotCarriedOut(Code.INVOCATION_STOPPED, "Invocation stopped")
        waiting = self._large_bytes + (self.link.unsent if self.link.is_behind else 0)
        if waiting > MAX_UNSENT_BYTES:
            about = f"worker {self.name or self.id} does not keep up: {waiting} bytes wait to be read by it"
            raise NotCarriedOut(Code.CHANNEL_SEND_FAILED, about)
        self._registrations.check_invokable(function.id)
        invocation_id = call.invocation_id
        if invocation_id is None or invocation_id in self.pending or _UUID.fullmatch(invocation_id) is None:
            prefix, numbers = self._fresh
            invocation_id = f"{prefix}{next(numbers):012x}"
        data = messages.with_caller(call.data, call.caller.worker_id) if call.caller.worker_id else call.data
        frame = messages.invoke_frame(invocation_id, function.id_text, data, metadata=call.metadata, trace=call.trace)
        if len(frame) > self._answering.max_frame_bytes:
            raise self._too_large(f"The call of {function.id}", len(frame))
        if len(frame) > messages.OLD_PYTHON_FRAME_BYTES and self._large_calls is not None:
            future = self.pending.add(invocation_id, NOT_SENT)
            self._large_calls[invocation_id] = (function, frame)
            self._large_bytes += len(frame)
        else:
            future = self.pending.add(invocation_id, self.link.position + len(frame))
            self._send(frame)
            if len(frame) > LARGE_BYTES and self.link.is_behind:
                self._sending[future] = self.link.position
                future.add_done_callback(self._sending.pop)
        return future

    def is_sending(self, answer: asyncio.Future[bytes | None]) -> bool:
        """Whether a call that this worker executes has not left in whole yet."""
        return self.link.is_open and self._sending.get(answer, 0) > self.link.left

    def _send_large_calls(self) -> None:
        waiting, self._large_calls = self._large_calls or {}, None
        self._large_bytes = 0
        for invocation_id, (function, frame) in waiting.items():
            if len(frame) <= self._answering.max_frame_bytes:
                self.pending.sent(invocation_id, self.link.position + len(frame))
                self._send(frame)
            elif (future := self.pending.take(invocation_id)) is not None:
                future.set_exception(self._too_large(f"The call of {function.id}", len(frame)))

    def _take_result(self, message: messages.InvocationResult) -> None:
        error = messages.read_error(message.error, tells_fate=self._is_ours)  # one that cannot be read leaves the call open
        future = self.pending.take(message.invocation_id)
        if future is None:
            return
        if error is not None:
            future.set_exception(error)
        else:
            result = given(message.result)
            if result is None and message.result is not ABSENT and self._is_ours:
                result = messages.NULL
            future.set_result(None if result is None else bytes(result))

    # --- triggers

    def trigger_failed(self, trigger: Trigger, error: FunctionError) -> None:
        """Tell the worker that a trigger of its is not served."""
        refused = messages.TriggerRegistrationResult(
            trigger.id, trigger.trigger_type, trigger.function_id, Raw(messages.error_text(error))
        )
        frame = messages.encode(refused)
        if len(frame) <= self._answering.max_frame_bytes:
            self._send(frame)

    def provide(self, trigger: Trigger) -> None:
        """Hand a trigger to the worker, which provides its type. Raises `FunctionError` where it cannot receive it."""
        frame = messages.encode(
            messages.RegisterTrigger(
                trigger.id,
                trigger.trigger_type,
                trigger.function_id,
                messages.NULL if trigger.config is None else Raw(trigger.config),
                ABSENT if trigger.metadata is None else Raw(trigger.metadata),
                None if trigger.namespace == DEFAULT_NAMESPACE else trigger.namespace,
            )
        )
        if len(frame) > self._answering.max_frame_bytes:
            raise self._too_large(f"The trigger {trigger.id}", len(frame))
        self._send(frame)

    # --- life

    def describe(self, description: Description) -> Answer[None]:
        """Take what the worker tells of itself; its registrations move to the namespace that it names.

        The answer comes when the triggers that it has registered before this are.
        """
        self.description = description
        self._is_ours = self._answering.tells_fates = messages.OURS in (description.features or ())
        self._answering.max_frame_bytes = messages.max_frame_bytes(description.runtime or "", description.version or "")
        self._answering.direct_bytes = min(LARGE_RESULT_BYTES, self._answering.max_frame_bytes)
        self._send_large_calls()
        namespace = description.namespace or DEFAULT_NAMESPACE
        if namespace != self.namespace:
            before, self.namespace = self.namespace, namespace
            self.caller = Caller(self.id, namespace)
            self._registrations.move(before, namespace)
        self._settle()
        self._workers.changed("worker_metadata_updated", self.id)
        return self._registrations.over()

    def registers(self) -> None:
        """It is registering something, and may be about to say what it is."""
        if self.is_settled:
            return
        left = self._connected_at + DESCRIBES_ITSELF_WITHIN_SECONDS - self._loop.time()
        if left <= 0:
            self._settle()
            return
        if self._settles is not None:
            self._settles.cancel()
        self._settles = self._loop.call_later(min(SETTLES_WITHIN_SECONDS, left), self._settle_unless_busy)

    def _settle_unless_busy(self) -> None:
        if self._registrations.is_busy:
            self.registers()
        else:
            self._settle()

    def _settle(self) -> None:
        if self._settles is not None:
            self._settles.cancel()
            self._settles = None
        if not self.is_settled:
            self.is_settled = True
            self._registrations.settled()

    def sweep(self) -> None:
        """Called about once a second: end what takes longer than the engine's timeout."""
        self.pending.sweep()
        if self._large_calls is not None and self._loop.time() - self._connected_at > DESCRIBES_ITSELF_WITHIN_SECONDS:
            self._send_large_calls()
        self._registrations.give_up_waiting(self._workers.call_timeout)

    def _go_on(self) -> None:
        if self._behind_registrations is None:
            return
        (message, size), self._behind_registrations = self._behind_registrations, None
        if self.link.is_open:
            self._invoke(message, size)
            self.link.release()

    def _reattach(self, message: messages.Reattach) -> None:
        previous = self._workers.get(message.previous_worker_id)
        if previous is not None and previous is not self and previous.reattach_token == message.reattach_token:
            previous.link.abort()

    def disconnected(self) -> None:
        """The connection is gone: so are its functions, types and triggers; calls that it was executing fail."""
        self._workers.remove(self)
        if self._settles is not None:
            self._settles.cancel()
        self._registrations.drop_served()
        # What has not left as a whole cannot have been begun: it is no crash.
        self.pending.fail_unsent(self.link.left, lambda: NotCarriedOut(Code.INVOCATION_STOPPED, "Invocation stopped"))
        lost = WorkerLost if self.may_crash else partial(NotCarriedOut, begun=True)
        self.pending.fail(lambda: lost(Code.INVOCATION_STOPPED, "Invocation stopped"))
        self._registrations.drop_triggers()
        self._behind_registrations = None
        self._answering.disconnected()
        self._large_calls = None


def connect(workers: Workers, link: Link, remote: str | None = None) -> Worker:
    """A worker has connected: it is told its id first."""
    worker = Worker(workers, link, remote)
    link.send(messages.encode(messages.WorkerRegistered(worker.id, worker.reattach_token)))
    workers.add(worker)
    return worker


def _unheard(function_text: str, fault: FunctionError) -> None:
    quiet.warning("a call of %s that nobody waits for failed: %s", function_text, fault)


def _action_type(action: Raw) -> object:
    value = values.decode(action)
    return value.get("type") if isinstance(value, dict) else None


def _read_id(invocation_id: Raw) -> str | None:
    if not invocation_id:
        return None
    value = values.decode(invocation_id)
    return value if isinstance(value, str) else None
