"""A connected worker: what its frames ask for, the functions it serves, the triggers and trigger types it registers."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from msgspec import Raw

from iii_state import lineages
from iii_state.engine.functions.function import Function, Invocation
from iii_state.engine.workers.execution import Execution
from iii_state.engine.workers.invocations import Invocations
from iii_state.engine.workers.registrations import Registrations
from iii_state.engine.workers.served import Served
from iii_state.engine.workers.workers import Description, Workers
from iii_state.errors import Code, FunctionError, NotCarriedOut
from iii_state.host import DEFAULT_NAMESPACE, Caller, Trigger
from iii_state.rights import Identity
from iii_state.tasks.failures import contained
from iii_state.tasks.results import Result
from iii_state.wire import malformed, messages
from iii_state.wire.backlog import LARGE_RESULT_BYTES
from iii_state.wire.calls import IncomingCalls
from iii_state.wire.messages import ABSENT, InvokeFunction
from iii_state.wire.peer import PeerConnection
from iii_state.wire.quiet_log import QuietLog

log = logging.getLogger(__name__)
quiet = QuietLog(log)

DESCRIBES_ITSELF_WITHIN_SECONDS = 5
"""For so long a worker that has not said what it is gets no call that an old one could not receive."""

SETTLES_WITHIN_SECONDS = 0.25
"""So long after its last registration a worker that has not said what it is belongs to the namespace `default`.

It does `DESCRIBES_ITSELF_WITHIN_SECONDS` after it has connected, too, however much it goes on registering.
"""

_INTRODUCES = "engine::workers::register"

_decode = messages.decode
_ID_AT = len(messages.RESULT_START)
_NULL = ord("n")


class Worker:
    """One worker, for as long as its connection lasts. It is an executor of functions and an owner of triggers.

    `identity` is that of the token it came with, None where no tokens are used.
    """

    def __init__(self, workers: Workers, link: PeerConnection, remote: str | None = None, identity: Identity | None = None) -> None:
        self.id = str(uuid.uuid4())
        self.reattach_token = str(uuid.uuid4())
        self.namespace = DEFAULT_NAMESPACE
        self.caller = Caller(self.id, DEFAULT_NAMESPACE, identity)
        """Who calls, for all calls that this worker makes."""
        self._workers = workers
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
        """Whether this project's client speaks, for an engine with a bridge to this one, or an attached worker."""
        self.outlet = link
        self._answering = IncomingCalls(link, self._too_large, _unheard, workers.limits(), workers.share(identity))
        self._backlog = link.backlog
        self._registrations = Registrations(self, workers, self._go_on)
        self._served = Served(self, workers)
        self._execution = Execution(
            link, workers.call_timeout, self._too_large, self._served.check_invokable, lambda: self.name or self.id
        )
        self.pending = self._execution.pending
        """Calls that it executes."""
        self._invoke = Invocations(self, workers.functions, self._answering).invoke
        self._find = self._finding()
        self._send = link.send
        self._behind_registrations: tuple[InvokeFunction, int] | None = None
        self._take: dict[type[Any], Callable[[Any], None]] = {
            messages.InvocationResult: self._execution.take_result,
            messages.RegisterFunction: self._served.register_function,
            messages.UnregisterFunction: self._served.unregister_function,
            messages.RegisterTriggerType: self._served.register_trigger_type,
            messages.UnregisterTriggerType: self._served.unregister_trigger_type,
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
    def identity(self) -> Identity | None:
        """Whose token its connection came with, None where no tokens are used."""
        return self.caller.identity

    def identify(self, identity: Identity | None) -> None:
        """Its token has other rights from now on: those of calls that come, and of what it registers and has registered."""
        self.caller = Caller(self.id, self.namespace, identity)
        self._find = self._finding()
        self._served.apply_rights()
        self._registrations.apply_rights()

    def limit(self) -> None:
        """The engine, or its token, has other limits from now on."""
        self._answering.limits, self._answering.share = self._workers.limits(), self._workers.share(self.identity)

    def _finding(self) -> Callable[[str], Function | None]:
        """How a function is found that it may call; what it may not goes the long way, and is refused there."""
        get, access = self._workers.functions.get_default, self.caller.access
        if access is None:
            return get
        may_call = access.may_call
        return lambda function_id: get(function_id) if may_call(function_id) else None

    @property
    def is_exclusive(self) -> bool:
        """A provider of trigger types keeps its functions: what they do and its triggers belong together. It may say so before."""
        return self._served.has_types or messages.EXCLUSIVE in (self.description.features or ())

    @property
    def may_crash(self) -> bool:
        """Whether it may go away because of a call that it runs.

        An engine with a bridge to this one only passes on what it is called with: when it goes, nothing has crashed.
        """
        return not self._is_ours

    @property
    def function_ids(self) -> list[str]:
        """The functions that it serves, or would if another worker did not keep them."""
        return self._served.function_ids

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
            if decoded.traceparent is ABSENT and decoded.baggage is ABSENT:
                answer = handler(decoded.data, self.caller)
            else:
                answer = lineages.inside(messages.trace_members(decoded), handler, decoded.data, self.caller)
        except BaseException as error:
            self._answering.fail(invocation_id, function.id_text, contained(error))
            return
        direct_bytes = self._answering.direct_bytes
        if type(answer) is bytes and invocation_id is not ABSENT and len(answer) <= direct_bytes:  # a large one is copied once
            frame = function.result_reply % (invocation_id, answer)
            if len(frame) <= direct_bytes and frame[_ID_AT] != _NULL:
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
            ids = {"worker_id": self.id, "worker": self.name}
            log.exception("a frame of worker %s (%s) could not be handled", self.id, self.name, extra=ids)
            self._refuse(frame, error)

    def _refuse(self, message: bytes | bytearray, error: Exception) -> None:
        """Answer a frame that cannot be used, if it is one that is to be answered."""
        if not message.strip():
            return
        refused = malformed.read(message)
        why = malformed.reason(error, message)
        reason = FunctionError(Code.DESERIALIZATION_ERROR, f"Failed to read the frame: {why}")
        if refused.is_result:
            if refused.invocation_id is not None:
                self._execution.take_malformed_result(refused.invocation_id, why)
        elif refused.invocation_text is not None and not refused.is_void:
            self._answering.refuse(refused.invocation_text, refused.function_text, reason)
        ids = {"worker_id": self.id, "worker": self.name}
        quiet.warning("worker %s (%s) sent a frame that cannot be used: %s", self.id, self.name, why, ids=ids)

    def _too_large(self, what: str, size: int) -> FunctionError:
        about = self.description
        return NotCarriedOut(
            Code.PAYLOAD_TOO_LARGE,
            f"{what} is a frame of {size} bytes; worker {self.name or self.id} ({about.runtime or 'unknown'} SDK "
            f"{about.version or 'of unknown version'}) can receive {self._answering.max_frame_bytes} bytes",
        )

    # --- calls that it executes

    def execute(self, function: Function, call: Invocation) -> Result[bytes | None]:
        """Send a call to the worker. The Future fails with `WorkerLost` when it goes away, with the engine's `TIMEOUT`."""
        return self._execution.execute(function, call)

    def is_sending(self, answer: asyncio.Future[bytes | None]) -> bool:
        """Whether a call that this worker executes has not left in whole yet."""
        return self._execution.is_sending(answer)

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

    def describe(self, description: Description) -> Result[None]:
        """Take what the worker tells of itself; its registrations move to the namespace that it names.

        The answer comes when the triggers that it has registered before this are.
        """
        self.description = description
        self._is_ours = self._execution.is_ours = self._answering.tells_fates = messages.OURS in (description.features or ())
        self._answering.max_frame_bytes = self._execution.max_frame_bytes = messages.max_frame_bytes(
            description.runtime or "", description.version or ""
        )
        self._answering.direct_bytes = min(LARGE_RESULT_BYTES, self._answering.max_frame_bytes)
        self._execution.send_large_calls()
        namespace = description.namespace or DEFAULT_NAMESPACE
        if namespace != self.namespace:
            before, self.namespace = self.namespace, namespace
            self.caller = Caller(self.id, namespace, self.identity)
            self._find = self._finding()
            self._served.move(before, namespace)
            self._registrations.move(namespace)
        self.settle()
        self._workers.changed("worker_metadata_updated", self)
        return self._registrations.over()

    def registers(self) -> None:
        """It is registering something, and may be about to say what it is."""
        if self.is_settled:
            return
        left = self._connected_at + DESCRIBES_ITSELF_WITHIN_SECONDS - self._loop.time()
        if left <= 0:
            self.settle()
            return
        if self._settles is not None:
            self._settles.cancel()
        self._settles = self._loop.call_later(min(SETTLES_WITHIN_SECONDS, left), self._settle_unless_busy)

    def _settle_unless_busy(self) -> None:
        if self._registrations.is_busy:
            self.registers()
        else:
            self.settle()

    def settle(self) -> None:
        """It belongs where it is: its triggers are bound."""
        if self._settles is not None:
            self._settles.cancel()
            self._settles = None
        if not self.is_settled:
            self.is_settled = True
            self._registrations.settled()
            self._served.settled()

    def sweep(self) -> None:
        """Called about once a second: end what takes longer than the engine's timeout."""
        self.pending.sweep()
        if self._execution.holds_large_calls and self._loop.time() - self._connected_at > DESCRIBES_ITSELF_WITHIN_SECONDS:
            self._execution.send_large_calls()
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
        if previous is None or previous is self or previous.reattach_token != message.reattach_token:
            return
        mine, theirs = self.caller.identity, previous.caller.identity
        if (mine and mine.name) == (theirs and theirs.name):
            previous.link.abort()

    def disconnected(self) -> None:
        """The connection is gone: so are its functions, types and triggers; calls that it was executing fail."""
        self._workers.remove(self)
        if self._settles is not None:
            self._settles.cancel()
        self._served.drop()
        self._execution.disconnected(may_crash=self.may_crash)
        self._registrations.drop()
        self._behind_registrations = None
        self._answering.disconnected()


def connect(workers: Workers, link: PeerConnection, remote: str | None = None, identity: Identity | None = None) -> Worker:
    """A worker has connected: it is told its id first."""
    worker = Worker(workers, link, remote, identity)
    link.send(messages.encode(messages.WorkerRegistered(worker.id, worker.reattach_token)))
    workers.add(worker)
    return worker


def _unheard(function_text: str, fault: FunctionError) -> None:
    ids = {"function_id": function_text[1:-1], "code": fault.code}
    quiet.warning("a call of %s that nobody waits for failed: %s", function_text, fault, ids=ids)
