"""From queues to handlers: taking events, calling handlers, and writing what became of each event."""

from iii_state.state.dispatch.dispatcher import Dispatcher

__all__ = ["Dispatcher"]
