"""Trigger types and who provides them; triggers, which are bound to a provider or wait for one."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator

import msgspec

from iii_state.access import LISTENERS, Access
from iii_state.engine.functions.registry import FunctionRegistry
from iii_state.engine.ledger import Ledger
from iii_state.engine.triggers.binding import Binding, TriggerOwner, TriggerType
from iii_state.engine.triggers.bindings import Bindings
from iii_state.errors import Code, FunctionError, words
from iii_state.host import DEFAULT_NAMESPACE, LOCAL, Caller, Trigger, TriggerProvider
from iii_state.tasks.results import Result
from iii_state.tasks.steps import Steps

log = logging.getLogger(__name__)


class TriggerRegistry:
    """All trigger types and triggers of an engine.

    What concerns one trigger reaches its provider one step after another, each after the one before has been answered. Providers
    hear that a trigger is gone for good only when its owner unregisters it: whatever else takes it from them counts as a
    disconnection, so that what waits for the trigger goes on waiting.
    """

    def __init__(self, functions: FunctionRegistry, ledger: Ledger) -> None:
        self._functions = functions
        self._types: dict[tuple[str, str], list[TriggerType]] = {}
        self._bindings = Bindings(ledger)
        self._steps = Steps()

    def __iter__(self) -> Iterator[Binding]:
        return iter(self._bindings)

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
                    self._park(known, tell=True)
            else:
                offers.append(offered)
        self._bind_waiting()
        return offers[0]

    def remove_type(self, offered: TriggerType, *, tell: bool = False) -> None:
        """Provide a type no more: its triggers wait, or go to the next who offers it. The provider is told of it with `tell`."""
        name = (offered.namespace, offered.id)
        offers = self._types.get(name, [])
        if offered not in offers:
            return
        offers.remove(offered)
        self._park(offered, tell=tell)
        if not offers:
            self._types.pop(name, None)
        else:
            self._bind_waiting()

    def _park(self, served: TriggerType, *, tell: bool = False) -> None:
        for binding in self._bindings:
            if binding.type is served:
                binding.type = None
                if tell:
                    self._let_go(binding, served, disconnected=True)

    def _bind_waiting(self) -> None:
        for binding in self._bindings:
            if binding.type is None and self._find_type(binding) is not None:
                answer = self._bind(binding)
                if isinstance(answer, asyncio.Future):
                    answer.add_done_callback(_log_fault)

    def _find_type(self, binding: Binding) -> TriggerType | None:
        return self._find_type_of(binding.trigger.trigger_type, binding.home)

    def _find_type_of(self, trigger_type: str, home: str) -> TriggerType | None:
        for namespace in (home, DEFAULT_NAMESPACE):
            offers = self._types.get((namespace, trigger_type))
            if offers:
                return offers[0]
        return None

    # --- triggers

    def register(
        self,
        trigger: Trigger,
        owner: TriggerOwner,
        home: str = DEFAULT_NAMESPACE,
        *,
        follows_owner: tuple[bool, bool] = (False, False),
        by: Caller = LOCAL,
    ) -> Result[None]:
        """Bind a trigger to its type's provider, or let it wait for one. One of this owner's with the same id is replaced.

        Raises (or sets in the Future) the provider's `FunctionError`; the trigger is gone then. One that `by` may not have raises
        `FORBIDDEN`, and changes nothing.
        """
        if by.access is not None:
            self._check(trigger, by.access, self._find_type_of(trigger.trigger_type, home))
        self._bindings.check_room(trigger, owner, by)
        known = self._bindings.owned(owner, trigger.id)
        if known is not None:
            provided = msgspec.structs.replace(trigger, id=known.trigger.id)
        elif self._bindings.get(trigger.id) is not None:
            provided = msgspec.structs.replace(trigger, id=str(uuid.uuid4()))
        else:
            provided = trigger
        before = known or self._bindings.take_refused(owner, trigger.id)
        earlier = None if before is None else before.last_served
        if earlier is not None and earlier.type is not None and earlier.type.owner is not None:
            earlier.earlier = None  # a worker's binding counts as live at once
        binding = Binding(provided, owner, trigger.id, home, follows_owner, by, by, earlier=earlier)
        served = self._find_type(binding)
        replaces: Trigger | None = None
        if known is not None and known.type is served and not known.failed:
            replaces = known.trigger
        elif known is not None:
            self._unbind(known, disconnected=True)
        self._bindings.keep(binding)
        if served is None:
            return None
        return self._bind(binding, raising=True, replaces=replaces)

    def move(self, binding: Binding, namespace: str, home: str) -> Result[None]:
        """File a trigger under other namespaces: its function's, and the one in which its provider is looked for."""
        trigger = msgspec.structs.replace(binding.trigger, id=binding.known_as, namespace=namespace)
        if namespace == binding.trigger.namespace:
            before, binding.home = binding.home, home
            if self._find_type(binding) is binding.type:
                return None
            binding.home = before
        return self.register(trigger, binding.owner, home, follows_owner=binding.follows_owner, by=binding.by)

    def unregister(self, trigger_id: str, owner: TriggerOwner | None = None) -> Result[bool]:
        """Let a trigger go for good: of `owner`, by the id that it has given, or of anybody's. Whether there was one."""
        binding = self._bindings.get(trigger_id) if owner is None else self._bindings.owned(owner, trigger_id)
        if binding is None:
            binding = None if owner is None else self._bindings.take_refused(owner, trigger_id)
        if binding is None:
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

    def _check(self, trigger: Trigger, access: Access, served: TriggerType | None) -> None:
        access.check_trigger(
            trigger.trigger_type,
            trigger.function_id,
            trigger.config,
            is_own=self._is_own(trigger, access.name),
            is_built_in=served is not None and served.owner is None,
            reads_scope_prefix=served is not None and served.reads_scope_prefix,
        )

    def _is_own(self, trigger: Trigger, name: str) -> bool:
        """Whether nobody serves the function but a token's connections; a listener is registered only while it can take events."""
        if trigger.function_id.startswith(LISTENERS) and self._functions.get(trigger.namespace, trigger.function_id) is None:
            return True
        return self._functions.is_served_only_by(trigger.namespace, trigger.function_id, name)

    def drop_strangers(self, namespace: str, function_id: str, name: str | None) -> None:
        """A listener is served from now on by a token's connections: triggers of limited tokens with another name are let go."""
        for binding in self._bindings.listening(namespace, function_id):
            if binding.by.identity is not None and binding.by.access is not None and binding.by.identity.name != name:
                self._let_go_of(binding, binding.by.access.refusal(f"have {function_id} called, which another serves"))

    def may_see(self, binding: Binding, access: Access) -> bool:
        """Whether somebody may know of a trigger: it is of the same token's name, or could be."""
        if binding.by.identity is not None and binding.by.identity.name == access.name:
            return True
        try:
            self._check(binding.trigger, access, binding.type)
        except FunctionError:
            return False
        return True

    def get(self, trigger_id: str) -> Binding | None:
        """A trigger by its id."""
        return self._bindings.get(trigger_id)

    def apply_rights(self, binding: Binding, by: Caller | None) -> None:
        """Its registrant has other rights from now on, or none (None). A trigger that it may not have any more is let go.

        That counts as a disconnection: what waits for it goes on waiting, for somebody who may have it.
        """
        try:
            if by is None:
                raise FunctionError(Code.FORBIDDEN, "the token that registered it is good no more")
            if by.access is not None:
                self._check(binding.trigger, by.access, binding.type)
            binding.by = by
        except FunctionError as error:
            self._let_go_of(binding, error)

    def _let_go_of(self, binding: Binding, error: FunctionError) -> None:
        log.warning("trigger %s for %s is let go: %s", binding.known_as, binding.trigger.function_id, error.message)
        self._unbind(binding, disconnected=True)
        binding.tell_owner(error)

    def of(self, owner: TriggerOwner) -> list[Binding]:
        """The triggers of an owner."""
        return self._bindings.of(owner)

    def drop_owner(self, owner: TriggerOwner) -> None:
        """Let all triggers of a worker go that went away."""
        for binding in self.of(owner):
            self._unbind(binding, disconnected=True)
        self._bindings.drop_refused(owner)

    def others(self, trigger_id: str, owner: TriggerOwner) -> TriggerOwner | None:
        """Another owner that has a trigger of this id, if there is one."""
        binding = self._bindings.get(trigger_id)
        return None if binding is None or binding.owner is owner else binding.owner

    def refused(self, trigger_id: str, provider_owner: object, error: FunctionError) -> None:
        """A worker that provides a type has refused a trigger: it waits for the next provider, and its owner is told."""
        binding = self._bindings.get(trigger_id)
        if binding is not None and binding.type is not None and binding.type.owner is provider_owner:
            binding.type = None
            binding.failed = True
            binding.tell_owner(error)

    def is_waiting(self, trigger_id: str, owner: TriggerOwner) -> bool:
        """Whether a trigger of this owner is known and nobody provides its type."""
        binding = self._bindings.owned(owner, trigger_id)
        return binding is not None and binding.type is None

    def _bind(self, binding: Binding, *, raising: bool = False, replaces: Trigger | None = None) -> Result[None]:
        served = self._find_type(binding)
        assert served is not None
        binding.type = served
        binding.failed = False
        trigger = binding.trigger

        def failed(error: BaseException) -> None:
            binding.failed = True
            if self._bindings.forget(binding) and binding.earlier is not None:
                self._bindings.keep_refused(binding)
            if not raising:
                binding.tell_owner(registration_error(error))

        def taken() -> None:
            if served.owner is None:  # a worker may say later that it refuses
                binding.earlier = None

        try:
            if not raising and binding.by.access is not None:  # it has waited: for another provider than it was checked for
                self._check(trigger, binding.by.access, served)
            answer = self._steps.after(trigger.id, lambda: served.provider.register(trigger, replaces))
        except Exception as error:
            failed(error)
            if raising:
                raise registration_error(error) from error
            return None
        if isinstance(answer, asyncio.Future):

            def take_outcome(done: asyncio.Future[None]) -> None:
                fault = _fault(done)
                if fault is not None:
                    failed(fault)
                else:
                    taken()

            answer.add_done_callback(take_outcome)
        else:
            taken()
        return answer

    def _unbind(self, binding: Binding, *, disconnected: bool) -> Result[None]:
        self._bindings.forget(binding)
        answer = None if binding.type is None else self._let_go(binding, binding.type, disconnected=disconnected)
        return answer if disconnected or binding.earlier is None else self._end_earlier(binding)

    def _end_earlier(self, binding: Binding) -> Result[None]:
        """End for good what the id stood for before, should this one turn out to be refused.

        The provider has let go of it already, as of one whose worker is away: it gets it once more, to be told that it ends.
        """
        again = str(uuid.uuid4())  # its own id may be another owner's by now

        def step(act: Callable[[TriggerProvider, Trigger], Result[None]]) -> Result[None]:
            earlier = binding.last_served if binding.failed else None
            if earlier is None or earlier.type is None:
                return None
            return act(earlier.type.provider, msgspec.structs.replace(earlier.trigger, id=again))

        def register() -> Result[None]:
            return step(lambda provider, trigger: provider.register(trigger))

        def unregister() -> Result[None]:
            return step(lambda provider, trigger: provider.unregister(trigger, disconnected=False))

        answer: Result[None] = None
        for act in (register, unregister):
            try:
                answer = self._steps.after(binding.trigger.id, act)
            except Exception as error:
                log.error("what waits for trigger %s could not be ended: %s", binding.known_as, words(error))
                return None
            if isinstance(answer, asyncio.Future):
                answer.add_done_callback(_log_fault)
        return answer

    def _let_go(self, binding: Binding, served: TriggerType, *, disconnected: bool) -> Result[None]:
        trigger = binding.trigger

        def let_go() -> Result[None]:
            return None if binding.failed else served.provider.unregister(trigger, disconnected=disconnected)

        try:
            answer = self._steps.after(trigger.id, let_go)
        except Exception:
            log.exception("the provider of trigger type %s failed to let trigger %s go", served.id, trigger.id)
            return None
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(_log_fault)
        return answer

    async def settled(self) -> None:
        """Wait until every step that has begun is over."""
        await self._steps.settled()


def registration_error(error: BaseException) -> FunctionError:
    """What the one who registered a trigger hears."""
    return error if isinstance(error, FunctionError) else FunctionError(Code.TRIGGER_REGISTRATION_FAILED, words(error))


def _fault(done: asyncio.Future[None]) -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()


def _log_fault(done: asyncio.Future[None]) -> None:
    error = _fault(done)
    if error is not None and not isinstance(error, FunctionError):
        log.error("a provider of triggers failed: %s", error, exc_info=error)
