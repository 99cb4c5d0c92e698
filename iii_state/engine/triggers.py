"""Trigger types and who provides them; triggers, which are bound to a provider or wait for one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from iii_state.engine.steps import REGISTRATION_FAILED, Steps
from iii_state.errors import FunctionError, words
from iii_state.host import DEFAULT_NAMESPACE, Answer, Trigger, TriggerProvider

log = logging.getLogger(__name__)


class TriggerOwner(Protocol):
    """Who registered a trigger: a worker, whose triggers go when it goes, or the engine's own process."""

    @property
    def id(self) -> str:
        """A worker's id, empty for the engine's own process."""
        ...

    @property
    def name(self) -> str:
        """What it calls itself."""
        ...

    def trigger_failed(self, trigger: Trigger, error: FunctionError) -> None:
        """Hear that a trigger is not served, after its registration had gone through."""
        ...


@dataclass(slots=True, eq=False)
class TriggerType:
    """A trigger type and its provider. `owner` is the worker that provides it, None for a module."""

    namespace: str
    id: str
    provider: TriggerProvider
    description: str
    owner: TriggerOwner | None = None
    module_name: str = ""

    @property
    def name(self) -> str:
        """Who provides it, for people."""
        return self.module_name if self.owner is None else self.owner.name


@dataclass(slots=True, eq=False)
class Binding:
    """A trigger, who registered it, and the type that serves it; `type` is None while it waits for a provider."""

    trigger: Trigger
    owner: TriggerOwner
    home: str = DEFAULT_NAMESPACE
    """The namespace in which its provider is looked for first."""
    type: TriggerType | None = None
    failed: bool = field(default=False, repr=False)


class Triggers:
    """All trigger types and triggers of an engine.

    What concerns one trigger reaches its provider one step after another, each after the one before has been answered.
    """

    def __init__(self) -> None:
        self._types: dict[tuple[str, str], list[TriggerType]] = {}
        self._bindings: dict[str, Binding] = {}
        self._steps = Steps()

    def __iter__(self) -> Iterator[Binding]:
        return iter(self._bindings.values())

    @property
    def types(self) -> list[TriggerType]:
        """The types that are served now."""
        return [offers[0] for offers in self._types.values()]

    # --- types

    def add_type(self, offered: TriggerType) -> TriggerType:
        """Provide a type; triggers that waited for it are handed over at once.

        While a provider of it lives, another one waits behind it (a worker must not take a type away from another whose functions
        it cannot take); the same worker again replaces its own. Returns the one that serves the type now.
        """
        offers = self._types.setdefault((offered.namespace, offered.id), [])
        for index, known in enumerate(offers):
            if known.owner is not None and known.owner is offered.owner:
                offers[index] = offered
                self._park(known)
                break
        else:
            if offered.owner is None:
                offers.insert(0, offered)
                for known in offers[1:]:
                    self._park(known)
            else:
                offers.append(offered)
        self._bind_waiting()
        return offers[0]

    def remove_type(self, namespace: str, type_id: str, owner: object | None) -> None:
        """Provide a type no more: its triggers wait, or go to the next who offers it."""
        offers = self._types.get((namespace, type_id), [])
        for offered in [offer for offer in offers if offer.owner is owner]:
            offers.remove(offered)
            self._park(offered)
        if not offers:
            self._types.pop((namespace, type_id), None)
        else:
            self._bind_waiting()

    def types_of(self, owner: object) -> list[TriggerType]:
        """The types that a worker provides or waits to provide."""
        return [offer for offers in self._types.values() for offer in offers if offer.owner is owner]

    def _park(self, served: TriggerType) -> None:
        for binding in self._bindings.values():
            if binding.type is served:
                binding.type = None

    def _bind_waiting(self) -> None:
        for binding in list(self._bindings.values()):
            if binding.type is None and self._find_type(binding) is not None:
                answer = self._bind(binding)
                if isinstance(answer, asyncio.Future):
                    answer.add_done_callback(_see_to)

    def _find_type(self, binding: Binding) -> TriggerType | None:
        for namespace in (binding.home, DEFAULT_NAMESPACE):
            offers = self._types.get((namespace, binding.trigger.trigger_type))
            if offers:
                return offers[0]
        return None

    # --- triggers

    def register(self, trigger: Trigger, owner: TriggerOwner, home: str = DEFAULT_NAMESPACE) -> Answer[None]:
        """Bind a trigger to its type's provider, or let it wait for one. One with the same id is replaced.

        Raises (or sets in the Future) the provider's `FunctionError`; the trigger is gone then.
        """
        known = self._bindings.get(trigger.id)
        binding = Binding(trigger, owner, home)
        served = self._find_type(binding)
        replaces: Trigger | None = None
        if known is not None and known.owner is owner and known.type is served and not known.failed:
            replaces = known.trigger
        elif known is not None:
            self._unbind(known, disconnected=known.owner is not owner)
        self._bindings[trigger.id] = binding
        if served is None:
            return None
        return self._bind(binding, raising=True, replaces=replaces)

    def unregister(self, trigger_id: str, owner: TriggerOwner | None = None) -> Answer[bool]:
        """Let a trigger go, only one of `owner` if given. Whether there was one."""
        binding = self._bindings.get(trigger_id)
        if binding is None or (owner is not None and binding.owner is not owner):
            return False
        answer = self._unbind(binding, disconnected=False)
        if not isinstance(answer, asyncio.Future):
            return True
        gone: asyncio.Future[bool] = answer.get_loop().create_future()

        def tell(_: asyncio.Future[None]) -> None:
            if not gone.done():
                gone.set_result(True)

        answer.add_done_callback(tell)
        return gone

    def drop_owner(self, owner: TriggerOwner) -> None:
        """Let all triggers of a worker go that went away."""
        for binding in [binding for binding in self._bindings.values() if binding.owner is owner]:
            self._unbind(binding, disconnected=True)

    def refused(self, trigger_id: str, provider_owner: object, error: FunctionError) -> None:
        """A worker that provides a type has refused a trigger: it waits for the next provider, and its owner is told."""
        binding = self._bindings.get(trigger_id)
        if binding is not None and binding.type is not None and binding.type.owner is provider_owner:
            binding.type = None
            binding.owner.trigger_failed(binding.trigger, error)

    def is_waiting(self, trigger_id: str) -> bool:
        """Whether a trigger is known and nobody provides its type."""
        binding = self._bindings.get(trigger_id)
        return binding is not None and binding.type is None

    def _bind(self, binding: Binding, *, raising: bool = False, replaces: Trigger | None = None) -> Answer[None]:
        served = self._find_type(binding)
        assert served is not None
        binding.type = served
        trigger = binding.trigger

        def failed(error: BaseException) -> None:
            binding.failed = True
            if self._bindings.get(trigger.id) is binding:
                del self._bindings[trigger.id]
            if not raising:
                binding.owner.trigger_failed(trigger, registration_error(error))

        try:
            answer = self._steps.after(trigger.id, lambda: served.provider.register(trigger, replaces))
        except Exception as error:
            failed(error)
            if raising:
                raise registration_error(error) from error
            return None
        if isinstance(answer, asyncio.Future):

            def look(done: asyncio.Future[None]) -> None:
                fault = _fault(done)
                if fault is not None:
                    failed(fault)

            answer.add_done_callback(look)
        return answer

    def _unbind(self, binding: Binding, *, disconnected: bool) -> Answer[None]:
        trigger = binding.trigger
        if self._bindings.get(trigger.id) is binding:
            del self._bindings[trigger.id]
        served = binding.type
        if served is None:
            return None

        def let_go() -> Answer[None]:
            return None if binding.failed else served.provider.unregister(trigger, disconnected=disconnected)

        try:
            answer = self._steps.after(trigger.id, let_go)
        except Exception:
            log.exception("the provider of trigger type %s failed to let trigger %s go", served.id, trigger.id)
            return None
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(_see_to)
        return answer

    async def settled(self) -> None:
        """Wait until every step that has begun is over."""
        await self._steps.settled()


def registration_error(error: BaseException) -> FunctionError:
    """What the one who registered a trigger hears."""
    return error if isinstance(error, FunctionError) else FunctionError(REGISTRATION_FAILED, words(error))


def _fault(done: asyncio.Future[None]) -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()


def _see_to(done: asyncio.Future[None]) -> None:
    error = _fault(done)
    if error is not None and not isinstance(error, FunctionError):
        log.error("a provider of triggers failed: %s", error, exc_info=error)
