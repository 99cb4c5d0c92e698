"""What a worker serves: functions, and trigger types; who else has them, and what its token allows."""

from __future__ import annotations

import logging

from msgspec import Raw

from iii_state.access import LISTENERS
from iii_state.engine.functions.function import Details, Function
from iii_state.engine.triggers.binding import TriggerType
from iii_state.engine.workers.workers import ConnectedWorker, Workers
from iii_state.errors import Code, FunctionError
from iii_state.host import Caller, Trigger
from iii_state.wire import messages
from iii_state.wire.quiet_log import QuietLog

log = logging.getLogger(__name__)
quiet = QuietLog(log)


class Served:
    """The functions and trigger types of one worker, which go when it goes."""

    def __init__(self, worker: ConnectedWorker, workers: Workers) -> None:
        self._worker = worker
        self._workers = workers
        self._functions = workers.functions
        self._triggers = workers.triggers
        self._served: dict[str, Function] = {}
        self._uninvokable: set[str] = set()
        self._sizes: dict[tuple[str, str], tuple[Caller, int]] = {}
        """What its functions and trigger types count for in the ledger, and for whom."""
        self._types: dict[tuple[str, str], tuple[TriggerType, bool]] = {}
        """By namespace and id; and whether the namespace is the worker's own, and moves with it."""

    @property
    def has_types(self) -> bool:
        """Whether the worker provides trigger types."""
        return bool(self._types)

    @property
    def function_ids(self) -> list[str]:
        """The functions that it serves, or would if another worker did not keep them."""
        return sorted(self._served)

    def check_invokable(self, function_id: str) -> None:
        """Raise `FunctionError` for a function that was registered to be called over HTTP."""
        if function_id in self._uninvokable:
            raise FunctionError(Code.FUNCTION_NOT_INVOKABLE, "this engine does not call functions over HTTP")

    # --- functions

    def register_function(self, message: messages.RegisterFunction) -> None:
        """It serves a function from now on."""
        self._worker.registers()
        if (refused := self._refusal(self._worker.namespace, message.id)) is not None:
            self._forbid(message.id, refused)
            return
        details = _details(message)
        if not self._has_room(message.id, _size(message.id, details)):
            return
        function, owner = self._functions.add_executor(self._worker.namespace, message.id, self._worker)
        if function.handler is None:
            self._served[message.id] = function
            self._count(("function", message.id), _size(message.id, details))
        function.describe(details, self._worker)
        self._drop_strangers(message.id)
        if owner is not None:
            self._reject(message.id, owner)
            return
        if messages.is_given(message.invocation):
            self._uninvokable.add(message.id)
            log.warning(
                "worker %s (%s) registers %s, to be called over HTTP: not served", self._worker.id, self._worker.name, message.id
            )
        else:
            self._uninvokable.discard(message.id)
        for executor in function.executors:
            if executor is not self._worker and (server := self._workers.get(executor.id)) is not None:
                server.link.probe()  # it may be the dead half of a worker that has come back

    def _reject(self, function_id: str, owner_id: str) -> None:
        owner = self._workers.get(owner_id)
        if owner is not None:
            owner.link.probe()
        rejected = messages.RegistrationRejected(
            Code.FUNCTION_NAMESPACE_CONFLICT,
            self._worker.namespace,
            function_id=function_id,
            owner_worker_id=owner_id or self._workers.engine_id,
        )
        self._worker.link.send(messages.encode(rejected))

    def _refusal(self, namespace: str, function_id: str) -> FunctionError | None:
        """Why the worker may not serve a function, None where it may. A listener is for one token's name alone."""
        access = self._worker.caller.access
        if access is None:
            return None
        if not access.may_register(function_id):
            return access.refusal(f"register {function_id}")
        known = self._functions.get(namespace, function_id)
        if (
            known is not None
            and function_id.startswith(LISTENERS)
            and not self._functions.is_served_only_by(namespace, function_id, access.name)
        ):
            return access.refusal(f"register {function_id}, which another has")
        return None

    def _drop_strangers(self, function_id: str) -> None:
        if function_id.startswith(LISTENERS):
            identity = self._worker.identity
            self._triggers.drop_strangers(self._worker.namespace, function_id, None if identity is None else identity.name)

    def _has_room(self, name: str, size: int) -> bool:
        """Whether the worker may register one more function or trigger type; it is told if not."""
        is_new = name not in self._served and all(known != name for _, known in self._types)
        try:
            self._workers.ledger.check(self._worker.caller, size, is_new=is_new)
        except FunctionError as error:
            self._forbid(name, error)
            return False
        return True

    def _count(self, name: tuple[str, str], size: int | None) -> None:
        """Count a function or trigger type as registered, with texts of so many bytes; None: no more."""
        ledger, before = self._workers.ledger, self._sizes.pop(name, None)
        if before is not None:
            ledger.remove(*before)
        if size is not None:
            self._sizes[name] = (self._worker.caller, size)
            ledger.add(*self._sizes[name])

    def _forbid(self, function_id: str, error: FunctionError) -> None:
        """Tell the worker that it may not serve a function, or provide a type; with a code that does not end an SDK's worker."""
        ids = {"worker_id": self._worker.id, "worker": self._worker.name, "code": error.code}
        quiet.warning("worker %s (%s): %s", self._worker.id, self._worker.name, error.message, ids=ids)
        rejected = messages.RegistrationRejected(
            Code.FUNCTION_NAMESPACE_CONFLICT, self._worker.namespace, function_id=function_id, error=Raw(messages.error_text(error))
        )
        self._worker.link.send(messages.encode(rejected))

    def unregister_function(self, message: messages.UnregisterFunction) -> None:
        """It does not serve a function any more."""
        if self._served.pop(message.id, None) is not None:
            self._count(("function", message.id), None)
            self._uninvokable.discard(message.id)
            self._functions.remove_executor(self._worker.namespace, message.id, self._worker)

    # --- trigger types

    def register_trigger_type(self, message: messages.RegisterTriggerType) -> None:
        """It provides a trigger type from now on."""
        namespace = message.namespace or self._worker.namespace
        offered = TriggerType(namespace, message.id, _WorkerProvider(self._worker), message.description or "", owner=self._worker)
        self._offer(offered, follows_owner=message.namespace is None)

    def _offer(self, offered: TriggerType, *, follows_owner: bool) -> None:
        if (access := self._worker.caller.access) is not None:
            try:
                access.check_trigger_type(offered.id)
            except FunctionError as error:
                self._forbid(offered.id, error)
                return
        size = len(offered.id) + len(offered.namespace) + len(offered.description)
        if not self._has_room(offered.id, size):
            return
        self._count((offered.namespace, offered.id), size)
        self._types[offered.namespace, offered.id] = (offered, follows_owner)
        serving = self._triggers.add_type(offered)
        if serving is not offered:
            self._reject(offered.id, "" if serving.owner is None else serving.owner.id)

    def unregister_trigger_type(self, message: messages.UnregisterTriggerType) -> None:
        """It does not provide a trigger type any more."""
        name = (message.namespace or self._worker.namespace, message.id)
        known = self._types.pop(name, None)
        if known is not None:
            self._count(name, None)
            self._triggers.remove_type(known[0])

    # --- all of them

    def settled(self) -> None:
        """The worker belongs where it is: its functions are called with what has been waiting for them."""
        for function in self._served.values():
            self._functions.settled(function)

    def apply_rights(self) -> None:
        """The worker's token has other rights: what it may not have any more is let go, and it is told."""
        for function_id in list(self._served):
            if (refused := self._refusal(self._worker.namespace, function_id)) is not None:
                del self._served[function_id]
                self._count(("function", function_id), None)
                self._functions.remove_executor(self._worker.namespace, function_id, self._worker)
                self._forbid(function_id, refused)
        access = self._worker.caller.access
        for name, (offered, _) in list(self._types.items()):
            if access is not None and not access.may_provide(offered.id):
                del self._types[name]
                self._count(name, None)
                self._triggers.remove_type(offered)
                self._forbid(offered.id, access.refusal(f"provide the trigger type {offered.id}"))

    def move(self, before: str, namespace: str) -> None:
        """File under `namespace` what was registered before the worker had said where it belongs."""
        for function_id, served in list(self._served.items()):
            details = served.details_of(self._worker)
            self._functions.remove_executor(before, function_id, self._worker)
            if (refused := self._refusal(namespace, function_id)) is not None:
                del self._served[function_id]
                self._count(("function", function_id), None)
                self._forbid(function_id, refused)
                continue
            function, owner = self._functions.add_executor(namespace, function_id, self._worker)
            self._served[function_id] = function
            function.describe(details, self._worker)
            self._drop_strangers(function_id)
            if owner is not None:
                self._reject(function_id, owner)
        for name, (offered, follows_owner) in list(self._types.items()):
            if follows_owner:
                del self._types[name]
                self._count(name, None)
                self._triggers.remove_type(offered, tell=True)
                moved = TriggerType(namespace, offered.id, offered.provider, offered.description, self._worker)
                self._offer(moved, follows_owner=True)

    def drop(self) -> None:
        """The worker is gone, and with it its functions and trigger types."""
        for function_id in self._served:
            self._functions.remove_executor(self._worker.namespace, function_id, self._worker)
        self._served.clear()
        for name in list(self._sizes):
            self._count(name, None)
        for offered, _ in self._types.values():
            self._triggers.remove_type(offered)
        self._types.clear()


class _WorkerProvider:
    """A worker's side of a trigger type. A binding counts as live when it has been sent; an error comes later, if it does."""

    def __init__(self, worker: ConnectedWorker) -> None:
        self._worker = worker

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> None:
        if replaces is not None and not self._is_ours:  # one of this project's replaces by the id, and keeps what waits
            self.unregister(replaces, disconnected=True)
        self._worker.provide(trigger)

    @property
    def _is_ours(self) -> bool:
        return messages.OURS in (self._worker.description.features or ())

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> None:
        told = disconnected if self._is_ours else None
        self._worker.link.send(messages.encode(messages.UnregisterTrigger(trigger.id, trigger.trigger_type, told)))


def _details(message: messages.RegisterFunction) -> Details:
    formats = messages.kept(message.request_format), messages.kept(message.response_format)
    return Details(message.description, messages.kept(message.metadata), *formats)


def _size(function_id: str, details: Details) -> int:
    texts = (function_id, details.description, details.metadata, details.request_format, details.response_format)
    return sum(len(text) for text in texts if text is not None)
