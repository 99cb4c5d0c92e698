"""Wake-ups: which of the hosted queues may have something to take."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from iii_state.adapters.redis.connection.session import EngineSession
from iii_state.adapters.redis.keys import Keys
from iii_state.tasks.effects import Afterwards

STREAMS_PER_SWEEP = 500
"""So many hosted queues are looked at in one sweep, the others in the next ones."""

PLUS = ord("+")
"""What stands before the id of a write that says what it was made within."""

_waking = Afterwards("telling the dispatcher of an event")


class WakeUps:
    """The queues that are hosted here. `session` is the one that this engine's own writes bear the name of."""

    def __init__(self, keys: Keys, session: EngineSession) -> None:
        self._keys = keys
        self._session = session
        self._wake: Callable[[str], None] = _nothing
        self._ids: dict[bytes, str] = {}
        """Stream → subscription id."""
        self._swept = 0

    def start(self, wake: Callable[[str], None]) -> None:
        """Call this with the id of every subscription whose queue may have something to take, from now on."""
        self._wake = wake

    def add(self, queue: bytes, subscription_id: str) -> None:
        """A queue is hosted here now."""
        self._ids[self._keys.stream(queue)] = subscription_id

    def remove(self, queue: bytes) -> None:
        """A queue is not hosted here any more."""
        self._ids.pop(self._keys.stream(queue), None)

    def subscription_of(self, queue: bytes) -> str | None:
        """The id of the subscription whose queue this is, if it is hosted here."""
        return self._ids.get(self._keys.stream(queue))

    def wake(self, subscription_id: str) -> None:
        """Its queue may have something to take."""
        try:
            self._wake(subscription_id)
        except Exception as error:
            _waking.failed(error)

    def wake_all(self) -> None:
        """Every queue may."""
        for subscription_id in list(self._ids.values()):
            self.wake(subscription_id)

    def next_streams(self) -> list[bytes]:
        """The streams of the next queues in turn: looking at them makes up for wake-ups that were lost."""
        if self._swept >= len(self._ids):
            self._swept = 0
        streams = list(islice(self._ids, self._swept, self._swept + STREAMS_PER_SWEEP))
        self._swept += STREAMS_PER_SWEEP
        return streams

    def written(self, queue: bytes) -> None:
        """A write of this engine may add an event to a queue: what is taken now is taken behind it, on the same connection."""
        subscription_id = self._ids.get(self._keys.stream(queue))
        if subscription_id is not None:
            self.wake(subscription_id)

    def heard(self, channel: bytes, write: bytes | None) -> None:
        """The wake-up of a write, or None: something may have been missed. Own writes have been told of already (`written`)."""
        if write and write.startswith(self._session.name, write[0] == PLUS):
            return
        subscription_id = self._ids.get(channel)
        if subscription_id is not None:
            self.wake(subscription_id)


def _nothing(subscription_id: str) -> None:
    """Before the adapter has been started, no wake-up is of use."""
