"""The bridge adapter: an engine uses the state of another engine, over the iii protocol."""

from iii_state.adapters.bridge.adapter import BridgeAdapter

__all__ = ["BridgeAdapter"]
