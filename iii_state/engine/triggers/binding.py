"""A trigger type with its provider, and a trigger with what serves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from iii_state.errors import FunctionError
from iii_state.host import DEFAULT_NAMESPACE, LOCAL, Caller, Trigger, TriggerProvider


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
    reads_scope_prefix: bool = False
    """Whether the provider goes by the member `scope_prefix` of a config; to one that does not it is no limit."""

    @property
    def name(self) -> str:
        """Who provides it, for people."""
        return self.module_name if self.owner is None else self.owner.name


@dataclass(slots=True, eq=False)
class Binding:
    """A trigger, who registered it, and the type that serves it; `type` is None while it waits for a provider."""

    trigger: Trigger
    owner: TriggerOwner
    known_as: str
    """The trigger's id as its owner has it. Providers get another one where two owners have chosen the same."""
    home: str = DEFAULT_NAMESPACE
    """The namespace in which its provider is looked for first."""
    follows_owner: tuple[bool, bool] = (False, False)
    """Whether its function's namespace, and `home`, are those of its owner, and move with it."""
    by: Caller = LOCAL
    """Whose call or connection has registered it, with the rights of that token."""
    counts_for: Caller = LOCAL
    """The same as it was when the trigger came, for whom it is counted."""
    type: TriggerType | None = None
    failed: bool = field(default=False, repr=False)
    earlier: Binding | None = field(default=None, repr=False)
    """The one that its owner had given this id before, for as long as this one may be refused."""

    @property
    def last_served(self) -> Binding | None:
        """Itself, or where it was refused the last earlier one that was not: what its owner ends by unregistering the id."""
        binding: Binding | None = self
        while binding is not None and binding.failed:
            binding = binding.earlier
        return binding

    def tell_owner(self, error: FunctionError) -> None:
        """Its owner hears that it is not served."""
        self.owner.trigger_failed(msgspec.structs.replace(self.trigger, id=self.known_as), error)
