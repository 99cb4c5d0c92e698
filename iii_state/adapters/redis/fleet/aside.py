"""Moving aside what is in the way of a key of iii-state: it gets another name, and can be looked at later."""

from __future__ import annotations

import logging

from iii_state.adapters.redis.shared import Shared
from iii_state.adapters.wall_clock import now_ms
from iii_state.tasks.signal import Signal

logger = logging.getLogger(__name__)


class Aside:
    """Moves keys. `moved` is emitted afterwards: there is more to be looked at then."""

    def __init__(self, shared: Shared) -> None:
        self._keys = shared.keys
        self._run = shared.connection.run
        self._send = shared.connection.send
        self.moved = Signal()

    async def move(self, key: bytes, kind: bytes, *, counts: bool = False) -> None:
        """Move away what has this name, where it is of another kind. With `counts` it is what is counted of a queue."""
        aside = self._keys.aside(key, now_ms())
        was = await self._run("repair/move_aside", [b"2", key, aside, kind, b"1" if counts else b""])
        if was:
            logger.error(
                "the key %s in Redis was a %s, and iii-state keeps a %s there: somebody has replaced it; it is called %s now, and "
                "what iii-state kept there is lost",
                *(key.decode("utf-8", "replace"), was.decode(), kind.decode(), aside.decode("utf-8", "replace")),
            )
            if key == self._keys.scopes:  # made again by the next scan, which listing waits for
                await self._send(b"DEL", self._keys.scopes + b":scanned", self._keys.scopes + b":scanning")
        self.moved.emit()
