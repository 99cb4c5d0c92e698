"""The wake-up of the dispatcher: look at this queue. A fault there does not reach the write that it came from."""

from __future__ import annotations

from collections.abc import Callable

from iii_state.tasks.effects import Afterwards

_waking = Afterwards("telling the dispatcher of an event")


class WakeUp:
    """Call it with the id of a hosted subscription whose queue may have something to take. Before `begin` it does nothing."""

    __slots__ = ("_wake",)

    def __init__(self) -> None:
        self._wake: Callable[[str], None] | None = None

    def begin(self, wake: Callable[[str], None]) -> None:
        """Call `wake` from now on."""
        self._wake = wake

    def __call__(self, subscription_id: str) -> None:
        if self._wake is not None:
            try:
                self._wake(subscription_id)
            except Exception as error:
                _waking.failed(error)
