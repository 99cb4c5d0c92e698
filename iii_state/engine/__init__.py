"""An iii engine in Python: embedded in a process, and served over the iii worker protocol."""

from iii_state.engine.engine import Engine, FunctionRegistration, TriggerRegistration

__all__ = ["Engine", "FunctionRegistration", "TriggerRegistration"]
