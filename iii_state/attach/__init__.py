"""The external state worker of an iii engine: the state module over a WebSocket, in a process of its own."""

from iii_state.attach.attachment import Attachment

__all__ = ["Attachment"]
