"""The triggers that a worker has registered: held until it is known where it belongs, and counted while they are under way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

import msgspec

from iii_state.engine.ledger import FOR_EACH, MAX_BYTES
from iii_state.engine.triggers.registry import registration_error
from iii_state.engine.workers.workers import ConnectedWorker, Workers
from iii_state.errors import Code, FunctionError
from iii_state.host import Trigger
from iii_state.tasks.results import Result
from iii_state.wire import messages

log = logging.getLogger(__name__)


NOT_SERVED = frozenset(
    ("http", "cron", "subscribe", "durable:subscriber", "queue", "stream", "stream:join", "stream:leave", "log", "trace")
)
"""Trigger types of the stock engine that this one does not bring along; another worker may provide them."""


class Registrations:
    """The triggers of one worker, which go when it goes.

    Registering a trigger may take a while. `open` counts those that are not over; `settled` is called when the last of them is.

    A trigger whose namespaces are those of the worker is held until the worker is settled: bound before, it would leave behind a
    subscription in a namespace that the worker turns out not to belong to, which nobody reads or unregisters.
    """

    def __init__(self, worker: ConnectedWorker, workers: Workers, settled: Callable[[], None]) -> None:
        self.open = 0
        self._worker = worker
        self._workers = workers
        self._triggers = workers.triggers
        self._settled = settled
        self._since = 0.0
        self._over: list[asyncio.Future[None]] = []
        self._held: list[messages.RegisterTrigger | messages.UnregisterTrigger] = []
        """What is to be done once the worker is settled, in order; all of it together counts as one of `open`."""
        self._held_ids: set[str] = set()
        self._held_bytes = 0

    def register_trigger(self, message: messages.RegisterTrigger) -> None:
        """It wants a trigger; it hears of failures only."""
        self._worker.registers()
        other = self._triggers.others(message.id, self._worker)
        if other is not None and (worker := self._workers.get(other.id)) is not None:
            worker.link.probe()  # it may be the dead half of this worker
        follows_owner = message.namespace is None or message.trigger_namespace is None
        if not self._worker.is_settled and (follows_owner or message.id in self._held_ids):
            copies = {"config": message.config.copy(), "metadata": message.metadata.copy()}
            self._hold(msgspec.structs.replace(message, **copies))
        else:
            self._register_trigger(message)

    def _hold(self, message: messages.RegisterTrigger | messages.UnregisterTrigger) -> None:
        if not self._held:
            self._begins()
        self._held.append(message)
        self._held_ids.add(message.id)
        texts = (message.config, message.metadata) if isinstance(message, messages.RegisterTrigger) else ()
        self._held_bytes += FOR_EACH + sum(len(bytes(text)) for text in texts)
        if len(self._held) > self._workers.limits().registrations or self._held_bytes > MAX_BYTES:
            self._worker.settle()  # it has had its time to say where it belongs

    def _register_trigger(self, message: messages.RegisterTrigger) -> None:
        trigger = Trigger(
            message.id,
            message.trigger_type,
            message.function_id,
            messages.kept(message.config),
            messages.kept(message.metadata),
            message.namespace or self._worker.namespace,
        )
        home = message.trigger_namespace or self._worker.namespace
        follows_owner = (message.namespace is None, message.trigger_namespace is None)
        by = self._worker.caller

        def register() -> Result[None]:
            return self._triggers.register(trigger, self._worker, home, follows_owner=follows_owner, by=by)

        self._start_registration(trigger, register)
        if trigger.trigger_type in NOT_SERVED and self._triggers.is_waiting(trigger.id, self._worker):
            self._worker.trigger_failed(
                trigger,
                FunctionError(
                    Code.TRIGGER_REGISTRATION_FAILED,
                    f"This engine serves no triggers of type {trigger.trigger_type}; it waits for a worker that provides them.",
                ),
            )

    def _start_registration(self, trigger: Trigger, register: Callable[[], Result[None]]) -> None:
        try:
            answer = register()
        except FunctionError as error:
            self._worker.trigger_failed(trigger, error)
            return
        if isinstance(answer, asyncio.Future):
            self._begins()
            answer.add_done_callback(partial(self._registered, trigger))

    def _registered(self, trigger: Trigger, answer: asyncio.Future[None]) -> None:
        if answer.cancelled():
            self._worker.trigger_failed(trigger, FunctionError(Code.TRIGGER_REGISTRATION_FAILED, "the registration was given up"))
        elif (error := answer.exception()) is not None:
            self._worker.trigger_failed(trigger, registration_error(error))
        self._is_over()

    def _begins(self) -> None:
        if not self.open:
            self._since = time.monotonic()
        self.open += 1

    def _is_over(self) -> None:
        self.open = max(0, self.open - 1)
        if not self.open:
            self._all_over()

    def _all_over(self) -> None:
        waiting, self._over = self._over, []
        for over in waiting:
            if not over.done():
                over.set_result(None)
        self._settled()

    @property
    def is_busy(self) -> bool:
        """Whether registrations are under way, apart from those that wait for the worker to be settled."""
        return self.open > (1 if self._held else 0)

    def over(self) -> Result[None]:
        """Answered when no registration is open."""
        if not self.open:
            return None
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over.append(over)
        return over

    def unregister_trigger(self, message: messages.UnregisterTrigger) -> None:
        """It does not want a trigger any more. What waits for one from an earlier connection goes, though this one be held."""
        if message.id in self._held_ids:
            self._hold(message)
        else:
            self._unregister_trigger(message)

    def _unregister_trigger(self, message: messages.UnregisterTrigger) -> None:
        answer = self._triggers.unregister(message.id, self._worker)
        if isinstance(answer, asyncio.Future):
            self._begins()
            answer.add_done_callback(lambda _: self._is_over())

    def take_registration_result(self, message: messages.TriggerRegistrationResult) -> None:
        """What it, as a provider, says to a trigger that it was handed."""
        error = messages.read_error(message.error)
        if error is not None:
            self._triggers.refused(message.id, self._worker, error)

    # --- all of them

    def settled(self) -> None:
        """The worker belongs where it is: its triggers are bound."""
        held, self._held = self._held, []
        self._held_bytes = 0
        self._held_ids.clear()
        for message in held:
            if isinstance(message, messages.RegisterTrigger):
                self._register_trigger(message)
            else:
                self._unregister_trigger(message)
        if held:
            self._is_over()

    def apply_rights(self) -> None:
        """The worker's token has other rights: triggers that it may not have any more are let go, and it is told."""
        for binding in self._triggers.of(self._worker):
            self._triggers.apply_rights(binding, self._worker.caller)

    def move(self, namespace: str) -> None:
        """Bind under `namespace` what was registered before the worker had said where it belongs."""
        for binding in self._triggers.of(self._worker):
            follows, provider_follows = binding.follows_owner
            target = namespace if follows else binding.trigger.namespace
            home = namespace if provider_follows else binding.home
            self._start_registration(binding.trigger, partial(self._triggers.move, binding, target, home))

    def give_up_waiting(self, seconds: float) -> None:
        """Count what has been open for so long as over: its worker's calls do not wait for it any more."""
        if self.open and time.monotonic() - self._since > seconds:
            log.error("triggers of worker %s (%s) take too long to register", self._worker.id, self._worker.name)
            self.open = 0
            self._all_over()

    def drop(self) -> None:
        """The worker is gone, and with it its triggers."""
        self._held.clear()
        self._held_ids.clear()
        self._triggers.drop_owner(self._worker)
