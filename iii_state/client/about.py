"""What a worker of ours says of itself to an engine."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from iii_state import values
from iii_state.host import DEFAULT_NAMESPACE
from iii_state.wire import messages

SDK_VERSION = "0.25.0"
"""Of the protocol: what a worker of this SDK can do, this one can."""


@dataclass(frozen=True, slots=True)
class About:
    """`name` is what the worker is called in the engine's lists.

    With `exclusive` it serves its functions alone, or not at all, even where an engine lets workers take turns.
    """

    name: str = f"iii-state-cli:{os.getpid()}"
    description: str | None = None
    namespace: str | None = None
    exclusive: bool = False

    @property
    def home(self) -> str:
        """The namespace of what the worker serves."""
        return self.namespace or DEFAULT_NAMESPACE

    def text(self) -> bytes:
        """The argument of `engine::workers::register`."""
        about = {
            "runtime": "python",
            "version": SDK_VERSION,
            "name": self.name,
            "os": f"{platform.system()} {platform.release()} ({platform.machine()})",
            "pid": os.getpid(),
            "features": [messages.OURS, messages.EXCLUSIVE] if self.exclusive else [messages.OURS],
            **({} if self.namespace is None else {"namespace": self.namespace}),
            **({} if self.description is None else {"description": self.description}),
        }
        return values.encode(about)


def bridge_name(bridge: str) -> str:
    """What the worker of the bridge with this id is called at the engine that it leads to."""
    return f"iii-state-bridge-{bridge}"
