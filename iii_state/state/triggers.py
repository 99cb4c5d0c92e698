"""The trigger type `state`: turns triggers into subscriptions, and has those hosted that have one."""

from __future__ import annotations

import asyncio

import msgspec

from iii_state.adapters.base import Adapter
from iii_state.config import Settings
from iii_state.errors import Code, ConfigError, FunctionError, StoreError
from iii_state.events import Subscription
from iii_state.host import Trigger
from iii_state.state.dispatch import Dispatcher
from iii_state.state.trigger_config import TriggerConfig, subscription_of
from iii_state.tasks.results import Result, then
from iii_state.values.requests import describe


class StateTriggers:
    """The provider of the trigger type `state`. `settings` are what a trigger's config may leave out."""

    def __init__(self, adapter: Adapter, settings: Settings) -> None:
        self._adapter = adapter
        self._settings = settings
        self._dispatcher: Dispatcher | None = None
        self._triggers: dict[str, dict[str, None]] = {}
        """Subscription id → ids of the triggers that are registered here for it."""
        self.registering = 0
        """How many registrations the store has not confirmed yet."""

    def begin(self, dispatcher: Dispatcher) -> None:
        """Let triggers be registered; their handlers run by this dispatcher."""
        self._dispatcher = dispatcher

    def end(self) -> None:
        """Take no more triggers, and leave the subscriptions as they are."""
        self._dispatcher = None

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> Result[None]:
        """Subscribe a trigger's function to the events that match its config. One that stays the same keeps its queue.

        That of one that is replaced waits for its retention, as if its worker had gone: nobody has unregistered it.
        """
        dispatcher = self._dispatcher
        if dispatcher is None:
            raise _registration_failure("the state module is not running")
        try:
            subscription = self._subscription(trigger, warns=True)
        except FunctionError:
            if replaces is not None:
                self.unregister(replaces, disconnected=True)
            raise
        if replaces is not None and self._subscription(replaces).id != subscription.id:
            self.unregister(replaces, disconnected=True)

        # It counts from now on: an equal trigger that goes before the adapter has answered leaves the queue to it.
        self._triggers.setdefault(subscription.id, {})[trigger.id] = None
        try:
            answer = self._adapter.queues.subscribe(subscription)
        except StoreError as error:
            self._drop(subscription.id, trigger, disconnected=True)
            raise _registration_failure(str(error)) from None
        registered = then(answer, lambda _: dispatcher.add(subscription), lambda error: _registration_failure(str(error)))
        if isinstance(registered, asyncio.Future):
            self.registering += 1

            def drop_if_refused(done: asyncio.Future[None]) -> None:
                self.registering -= 1
                if done.cancelled() or done.exception() is not None:
                    self._drop(subscription.id, trigger, disconnected=True)

            registered.add_done_callback(drop_if_refused)
        return registered

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> Result[None]:
        """Let a trigger go. The last one of a subscription ends it, or, if its worker is only away, leaves its queue waiting."""
        return self._drop(self._subscription(trigger).id, trigger, disconnected=disconnected)

    def _drop(self, subscription_id: str, trigger: Trigger, *, disconnected: bool) -> Result[None]:
        registered = self._triggers.get(subscription_id)
        if self._dispatcher is None or registered is None or registered.pop(trigger.id, False) is False or registered:
            return None
        del self._triggers[subscription_id]
        self._dispatcher.remove(subscription_id)
        queues = self._adapter.queues
        return queues.abandon(subscription_id) if disconnected else queues.unsubscribe(subscription_id)

    def _subscription(self, trigger: Trigger, *, warns: bool = False) -> Subscription:
        try:
            return subscription_of(trigger, self._settings, warns=warns)
        except (msgspec.MsgspecError, ConfigError, RecursionError, UnicodeError) as error:
            cause = describe(trigger.config or b"null", TriggerConfig, error)
            raise _registration_failure(f"Failed to parse trigger config: {cause}") from None


def _registration_failure(message: str) -> FunctionError:
    return FunctionError(Code.TRIGGER_REGISTRATION_FAILED, message)
