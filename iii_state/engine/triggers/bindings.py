"""All triggers of an engine: by id, by who has registered them, and by the listeners that they call; and what they count for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from iii_state.access import LISTENERS
from iii_state.engine.ledger import Ledger
from iii_state.engine.triggers.binding import Binding, TriggerOwner
from iii_state.host import Caller, Trigger


class Bindings:
    """The triggers, each in all tables or in none."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._bindings: dict[str, Binding] = {}
        self._owned: dict[tuple[TriggerOwner, str], Binding] = {}
        """The same, by their owners and the ids that these have given."""
        self._refused: dict[tuple[TriggerOwner, str], Binding] = {}
        """Those that were refused, by the same, where an earlier one of the id was not: what waits for that can still be ended."""
        self._listening: dict[tuple[str, str], list[Binding]] = {}
        """Those of workers whose functions are listeners, by namespace and function id."""

    def __iter__(self) -> Iterator[Binding]:
        return iter(list(self._bindings.values()))

    def get(self, trigger_id: str) -> Binding | None:
        """A trigger by its id."""
        return self._bindings.get(trigger_id)

    def owned(self, owner: TriggerOwner, trigger_id: str) -> Binding | None:
        """A trigger by the id that its owner has given."""
        return self._owned.get((owner, trigger_id))

    def of(self, owner: TriggerOwner) -> list[Binding]:
        """The triggers of an owner."""
        return [binding for binding in self._bindings.values() if binding.owner is owner]

    def listening(self, namespace: str, function_id: str) -> Sequence[Binding]:
        """The triggers of workers that call a listener."""
        return tuple(self._listening.get((namespace, function_id), ()))

    def check_room(self, trigger: Trigger, owner: TriggerOwner, by: Caller) -> None:
        """Raises `FunctionError` (`LIMIT_EXCEEDED`) where `by` may not have this trigger, too, or in place of its earlier one."""
        if by.worker_id:
            known = self.owned(owner, trigger.id)
            size = _size(trigger) - (0 if known is None else _size(known.trigger))
            self._ledger.check(by, size, is_new=known is None, is_subscription=True, outlives=not owner.id)

    def keep(self, binding: Binding) -> None:
        """File a trigger, in place of an earlier one of its id."""
        if (before := self._bindings.get(binding.trigger.id)) is not None:
            self._count(before, self._ledger.remove)
            self._listen_no_more(before)
        if binding.by.worker_id and binding.trigger.function_id.startswith(LISTENERS):
            self._listening.setdefault((binding.trigger.namespace, binding.trigger.function_id), []).append(binding)
        self._bindings[binding.trigger.id] = binding
        self._owned[binding.owner, binding.known_as] = binding
        self._count(binding, self._ledger.add)

    def forget(self, binding: Binding) -> bool:
        """Take a trigger out; whether it was there."""
        if self._bindings.get(binding.trigger.id) is not binding:
            return False
        del self._bindings[binding.trigger.id]
        del self._owned[binding.owner, binding.known_as]
        self._count(binding, self._ledger.remove)
        self._listen_no_more(binding)
        return True

    def keep_refused(self, binding: Binding) -> None:
        """Remember one that was refused, for what waits for an earlier one of its id."""
        self._refused[binding.owner, binding.known_as] = binding
        self._count(binding, self._ledger.add)

    def take_refused(self, owner: TriggerOwner, trigger_id: str) -> Binding | None:
        """Take one out that was refused."""
        refused = self._refused.pop((owner, trigger_id), None)
        if refused is not None:
            self._count(refused, self._ledger.remove)
        return refused

    def drop_refused(self, owner: TriggerOwner) -> None:
        """Forget all of an owner's that were refused."""
        for _, trigger_id in [known for known in self._refused if known[0] is owner]:
            self.take_refused(owner, trigger_id)

    def _listen_no_more(self, binding: Binding) -> None:
        place = (binding.trigger.namespace, binding.trigger.function_id)
        listening = [known for known in self._listening.pop(place, ()) if known is not binding]
        if listening:
            self._listening[place] = listening

    @staticmethod
    def _count(binding: Binding, count: Callable[..., None]) -> None:
        if binding.counts_for.worker_id:
            count(binding.counts_for, _size(binding.trigger), is_subscription=True, outlives=not binding.owner.id)


def _size(trigger: Trigger) -> int:
    return sum(map(len, (trigger.id, trigger.trigger_type, trigger.function_id, trigger.config or b"", trigger.metadata or b"")))
