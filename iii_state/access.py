"""What one connection may do by its token's rights: asked with every call, registration and scope, so it remembers answers.

The rules that are the same for every token stand here: what is everybody's, what has to be given expressly, whose a trigger is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from iii_state.errors import Code, FunctionError
from iii_state.events import BRIDGE_FUNCTIONS
from iii_state.rights import Identity

EVERYBODYS = frozenset(
    (
        "engine::workers::register",
        "engine::workers::list",
        "engine::functions::list",
        "engine::functions::info",
        "engine::triggers::list",
        "engine::registered-triggers::list",
        "engine::register_trigger",
        "engine::unregister_trigger",
        "engine::channels::create",
        "iii-state::session_open",
        "iii-state::route",
        "iii-state::about",
    )
)
"""Functions that every token may call: they show and do no more than it may anyway."""

OPERATING = "iii-state::"
"""Functions whose names begin so, but for those above, are for operators."""

WATCH_FUNCTIONS = "iii-state::watch::"
"""How the ids of functions begin that take the events of a watch."""

LISTENERS = (WATCH_FUNCTIONS, BRIDGE_FUNCTIONS)
"""Functions of these names only take events that their own connection has asked for. Whoever may read may register them."""

STATE = "state::"
STATE_TRIGGER = "state"

_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)

_REMEMBERED = 1024
_SHORT = 256


class _TriggerConfig(msgspec.Struct):
    """What a trigger's config says of other people's things. The last of two members of a name counts, as for its provider."""

    scope: str | None = None
    scope_prefix: str | None = None
    condition_function_id: str | None = None


class _OtherConfig(msgspec.Struct):
    """The same of a trigger of another type than `state`."""

    condition_function_id: Any = None


_config = msgspec.json.Decoder(_TriggerConfig)
_other_config = msgspec.json.Decoder(_OtherConfig)


class Access:
    """What a connection with a limited token may do. `identity` has rights; one without them may do everything, and needs none."""

    __slots__ = ("_called", "_read", "identity", "name", "rights")

    def __init__(self, identity: Identity) -> None:
        assert identity.rights is not None
        self.identity = identity
        self.rights = identity.rights
        self.name = identity.name
        self._called: dict[str, bool] = {}
        self._read: dict[str, bool] = {}

    # --- functions

    def may_call(self, function_id: str) -> bool:
        """Whether a function may be called, and seen."""
        known = self._called.get(function_id)
        return _remember(self._called, function_id, self._allows_call) if known is None else known

    def _allows_call(self, function_id: str) -> bool:
        if function_id in EVERYBODYS:
            return True
        if function_id.startswith(OPERATING):
            return self.rights.operate
        return self.rights.allows_function(function_id)

    def check_call(self, function_id: str) -> None:
        """Raises `FunctionError` (`FORBIDDEN`) for a function that may not be called, whether there is one or not."""
        if not self.may_call(function_id):
            raise self.refusal(f"call {function_id}")

    @property
    def limits_scopes(self) -> bool:
        """Whether it matters which scope a call of `state::*` is about, and what it does there."""
        return self.rights.scopes is not None or self.rights.read_only

    def limits_what_is_asked(self, function_id: str) -> bool:
        """Whether what a call asks for has to be judged, and not its function alone. A worker that serves it cannot do that."""
        if not self.limits_scopes or function_id in EVERYBODYS or function_id.startswith(LISTENERS):
            return False
        return function_id.startswith((STATE, OPERATING))

    def may_register(self, function_id: str) -> bool:
        """Whether a function may be registered."""
        if function_id.startswith(LISTENERS):
            return True
        if function_id.startswith("engine::") or (function_id.startswith(OPERATING) and not self.rights.trigger_types):
            return False
        return self.rights.allows_register(function_id)

    # --- scopes

    def may_read(self, scope: str) -> bool:
        """Whether the values of a scope may be seen."""
        known = self._read.get(scope)
        return _remember(self._read, scope, self.rights.allows_scope) if known is None else known

    def check_read(self, scope: str) -> None:
        """Raises `FunctionError` (`FORBIDDEN`) for a scope that may not be seen."""
        if not self.may_read(scope):
            raise self.refusal(f"use the scope {scope[:200]!r}")

    def check_write(self, scope: str) -> None:
        """Raises `FunctionError` (`FORBIDDEN`) for a scope whose values may not be changed."""
        if not self.may_read(scope):
            raise self.refusal(f"use the scope {scope[:200]!r}")
        if self.rights.read_only:
            raise self.refusal("change values: it is read-only")

    # --- triggers

    def may_provide(self, trigger_type: str) -> bool:
        """Whether a trigger type may be provided."""
        return self.rights.trigger_types and self.rights.allows_register(trigger_type)

    def check_trigger_type(self, trigger_type: str) -> None:
        """Raises `FunctionError` (`FORBIDDEN`) where trigger types may not be provided."""
        if not self.may_provide(trigger_type):
            raise self.refusal(f"provide the trigger type {trigger_type} (the rights `trigger_types` and `register`)")

    def check_trigger(
        self,
        trigger_type: str,
        function_id: str,
        config: bytes | None,
        *,
        is_own: bool,
        is_built_in: bool,
        reads_scope_prefix: bool,
    ) -> None:
        """Raises `FunctionError` (`FORBIDDEN`) for a trigger that would do or show what its owner may not.

        `is_own` says that nobody but this token's connections serves its function: such a listener may be named although it may
        not be called. A type that is not built in, but provided by a worker, is to be had where it could be called, were it a
        function. `reads_scope_prefix` says that the provider of the type does: to any other the trigger is one of all scopes.
        """
        if not (self._may_have_called(function_id) or (is_own and function_id.startswith(OPERATING))):
            raise self.refusal(f"have {function_id} called by a trigger")
        if trigger_type != STATE_TRIGGER:
            if not (is_built_in or self.rights.allows_function(trigger_type)):
                raise self.refusal(f"have triggers of type {trigger_type}")
            self._check_condition(_condition_of(config))
            return
        try:
            wanted = _TriggerConfig() if config is None else _config.decode(config)
        except _UNREADABLE as error:
            about = f"Failed to parse trigger config: {error}"
            raise FunctionError(Code.TRIGGER_REGISTRATION_FAILED, about) from None
        self._check_condition(wanted.condition_function_id)
        if self.rights.scopes is None:
            return
        if wanted.scope is not None:
            if not self.may_read(wanted.scope):
                raise self.refusal(f"watch the scope {wanted.scope[:200]!r}")
            return
        prefix = (wanted.scope_prefix or "") if reads_scope_prefix else ""
        if not self.rights.allows_scope_prefix(prefix):
            beyond = f"all scopes that begin with {prefix[:200]!r}" if prefix else "all scopes: give the trigger a `scope`"
            raise self.refusal(f"watch {beyond}")

    def _check_condition(self, condition: object) -> None:
        if isinstance(condition, str) and not self._may_have_called(condition):
            raise self.refusal(f"have {condition} called as a condition")

    def _may_have_called(self, function_id: str) -> bool:
        """Whether a trigger may name a function: whoever fires it does so without this token's limits."""
        if function_id in EVERYBODYS or (self.limits_scopes and function_id.startswith(STATE)):
            return False
        return self.may_call(function_id)

    def refusal(self, what: str) -> FunctionError:
        """The error that says what this token may not do."""
        return FunctionError(Code.FORBIDDEN, f"the token {self.name!r} may not {what}")


def access_of(identity: Identity | None) -> Access | None:
    """What somebody may do; None for everything."""
    return None if identity is None or identity.rights is None else Access(identity)


def _condition_of(config: bytes | None) -> object:
    """The condition function in the config of a trigger that is of another type than `state`, if there is one."""
    try:
        return None if config is None else _other_config.decode(config).condition_function_id
    except _UNREADABLE:  # it is no object, and its provider's own
        return None


def _remember(known: dict[str, bool], name: str, ask: Callable[[str], bool]) -> bool:
    """Ask, and remember the answer; names are the callers' to choose, so what is remembered of them is bounded."""
    allowed = ask(name)
    if len(name) <= _SHORT:
        if len(known) >= _REMEMBERED:
            known.clear()
        known[name] = allowed
    return allowed
