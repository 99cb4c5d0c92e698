"""State for iii engines: JSON values at a scope and a key, atomic updates, durable triggers."""

from iii_state.engine import Engine
from iii_state.errors import ConfigError, FunctionError, StoreError
from iii_state.state.module import StateModule

__all__ = ["ConfigError", "Engine", "FunctionError", "StateModule", "StoreError"]
