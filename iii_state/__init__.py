"""State for iii engines: JSON values at a scope and a key, atomic updates, durable triggers.

An engine that lives in this process is `Engine`, its state `StateModule`; `State` is what a program reads, writes and watches it
with. `Host`, `Module` and the types of triggers are for modules of one's own.
"""

from iii_state.engine import Engine, FunctionRegistration, TriggerRegistration
from iii_state.errors import (
    Code,
    ConditionUnmet,
    ConfigError,
    FunctionError,
    Gap,
    NotCarriedOut,
    StateError,
    StoreError,
    WorkerLost,
)
from iii_state.events import EventType
from iii_state.guard import Guard
from iii_state.host import Caller, Handler, Host, Module, Runner, Trigger, TriggerProvider
from iii_state.state import conditions, ops, steps
from iii_state.state.facade import Retry, State
from iii_state.state.handlers import Event
from iii_state.state.module import StateModule
from iii_state.state.outcomes import SetResult, StateChange, StepResult, Stored, UpdateResult
from iii_state.state.watch import Watch
from iii_state.tasks.results import Result
from iii_state.values.ops import OpError

__all__ = [
    "Caller",
    "Code",
    "ConditionUnmet",
    "ConfigError",
    "Engine",
    "Event",
    "EventType",
    "FunctionError",
    "FunctionRegistration",
    "Gap",
    "Guard",
    "Handler",
    "Host",
    "Module",
    "NotCarriedOut",
    "OpError",
    "Result",
    "Retry",
    "Runner",
    "SetResult",
    "State",
    "StateChange",
    "StateError",
    "StateModule",
    "StepResult",
    "StoreError",
    "Stored",
    "Trigger",
    "TriggerProvider",
    "TriggerRegistration",
    "UpdateResult",
    "Watch",
    "WorkerLost",
    "conditions",
    "ops",
    "steps",
]
