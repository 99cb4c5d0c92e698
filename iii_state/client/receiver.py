"""The frames that an engine sends to a worker of ours, each handed to the part that it is for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from iii_state.client.calls import ClientCalls
from iii_state.client.connection import ClientConnection
from iii_state.client.serving import Serving
from iii_state.client.triggers import Triggers
from iii_state.errors import Code, FunctionError, WorkerRejected
from iii_state.wire import malformed, messages
from iii_state.wire.quiet_log import QuietLog

log = logging.getLogger(__name__)
quiet = QuietLog(log)


class Receiver:
    """Takes frames. `rejected` is called with each `RegistrationRejected` for a function, `gone` when the connection is gone."""

    def __init__(
        self,
        connection: ClientConnection,
        calls: ClientCalls,
        serving: Serving,
        triggers: Triggers,
        rejected: Callable[[messages.RegistrationRejected], None] | None,
        gone: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._calls = calls
        self._serving = serving
        self._triggers = triggers
        self._rejected = rejected
        self._gone = gone
        self.refusal: Exception | None = None
        """Why the engine will not have this worker."""
        self.token: str | None = None
        """What tells the engine on the next connection that this one is dead."""
        self._take: dict[type[Any], Callable[[Any], None]] = {
            messages.InvocationResult: self._take_result,
            messages.InvokeFunction: self._take_call,
            messages.RegisterTrigger: serving.take_trigger,
            messages.UnregisterTrigger: serving.drop_trigger,
            messages.TriggerRegistrationResult: self._take_registration_result,
            messages.RegistrationRejected: self._take_rejection,
            messages.WorkerRegistered: self._take_welcome,
            messages.ConnectionRefused: self._take_failure,
            messages.Ping: lambda _: connection.tell(messages.encode(messages.Pong())),
        }

    def disconnected(self) -> None:
        """The connection is gone."""
        self._gone()

    def receive(self, message: bytes | bytearray, binary: bool = False) -> None:
        """Take a frame of the engine's. Nothing that it holds raises."""
        if not message:
            return
        try:
            decoded = messages.decode(message)
        except (ValueError, RecursionError) as error:
            self._refuse(message, error)
            return
        try:
            take = self._take.get(type(decoded))
            if take is not None:
                take(decoded)
        except Exception as error:
            log.exception("a frame of %s could not be handled", self._connection.url)
            self._refuse(message, error)

    def _refuse(self, frame: bytes | bytearray, error: Exception) -> None:
        refused = malformed.read(frame)
        why = malformed.reason(error, frame)
        reason = f"the frame could not be read: {why}"
        answering = self._connection.answering
        if refused.is_result and refused.invocation_id is not None:
            self._calls.answered(refused.invocation_id, None, FunctionError(Code.INVOCATION_ERROR, reason))
        elif refused.invocation_text is not None and answering is not None:
            answering.refuse(refused.invocation_text, refused.function_text, FunctionError(Code.DESERIALIZATION_ERROR, reason))
        quiet.warning("%s sent a frame that cannot be used: %s", self._connection.url, why)

    def _take_result(self, message: messages.InvocationResult) -> None:
        error = None
        if message.error:
            error = messages.read_error(message.error, tells_fate=self._connection.hears_fates)
        self._calls.answered(message.invocation_id, bytes(message.result) if message.result else None, error)

    def _take_call(self, message: messages.InvokeFunction) -> None:
        assert self._connection.answering is not None
        self._serving.take_call(message, self._connection.answering)

    def _take_registration_result(self, message: messages.TriggerRegistrationResult) -> None:
        error = messages.read_error(message.error)
        if error is not None:
            self._triggers.refused(message.id, error)

    def _take_rejection(self, message: messages.RegistrationRejected) -> None:
        url = self._connection.url
        if message.code == Code.FUNCTION_NAMESPACE_CONFLICT:
            log.info("%s: %s belongs to worker %s", url, message.function_id, message.owner_worker_id)
            if self._rejected is not None:
                self._rejected(message)
            return
        name = message.worker_name or message.function_id or ""
        self.refusal = WorkerRejected(f"the engine at {url} rejects this worker: {message.code} {name}".rstrip(), message.code)
        self._connection.close()

    def _take_welcome(self, message: messages.WorkerRegistered) -> None:
        self._connection.worker_id = message.worker_id
        self.token = message.reattach_token

    def _take_failure(self, message: messages.ConnectionRefused) -> None:
        error = messages.read_error(message.error)
        self.refusal = WorkerRejected(f"the engine at {self._connection.url} refuses the connection: {error}")
