"""The sessions of callers, which recognise mutations that are made again."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from iii_state.adapters.redis.connection.call import Reply
from iii_state.adapters.redis.connection.session import SESSION_MS
from iii_state.adapters.redis.keys import caller_session
from iii_state.adapters.redis.scripts.mutations import opened
from iii_state.adapters.redis.shared import Shared
from iii_state.sessions import SESSION_SECONDS
from iii_state.tasks.repeats import Repeats
from iii_state.tasks.results import Result

logger = logging.getLogger(__name__)
repeats = Repeats(logger)


class KeptSessions:
    """When sessions that are used were last kept from expiring by this engine."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def is_due(self, session: str) -> bool:
        """Whether a session, which is used, is to be kept now; if so, it counts as kept from now on."""
        now = asyncio.get_running_loop().time()
        interval = SESSION_SECONDS / 5
        if now - self._at.get(session, -interval) < interval:
            return False
        self._at = {name: at for name, at in self._at.items() if now - at < interval}
        self._at[session] = now
        return True


class RedisSessions:
    """Opens them, and keeps them while they are used. What was done under them is recorded by the scripts of the mutations."""

    def __init__(self, shared: Shared) -> None:
        self._keys = shared.keys
        self._connection = shared.connection
        self._store = shared.store
        self._background = shared.background
        self._kept = KeptSessions()

    def open(self, session: str, previous_epoch: int, epoch: int) -> Result[None]:
        """Open a session, or raise its epoch."""
        key = self._keys.session(caller_session(session))
        call = (b"1", key, b"%d" % previous_epoch, b"%d" % epoch, SESSION_MS)
        answer = self._connection.run("sessions/open", call, _opened)
        return self._background.call(self._in_store(answer))

    async def _in_store(self, answer: asyncio.Future[None]) -> None:
        """With a session its caller is told which store it is of: the one that is there now."""
        await answer
        await self._store.read()

    def forget(self, session: str) -> asyncio.Future[Any]:
        """Remove one that nobody has used."""
        return self._connection.send(b"UNLINK", self._keys.session(caller_session(session)))

    def keep(self, session: str) -> None:
        """Keep a session from expiring while it is used, without a command more in each call."""
        if not self._kept.is_due(session):
            return
        self._connection.send(b"PEXPIRE", self._keys.session(caller_session(session)), SESSION_MS).add_done_callback(_log_not_kept)


def _opened(reply: Reply) -> None:
    opened(reply)


def _log_not_kept(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled() and (error := answer.exception()) is not None:
        repeats.warning("the session of a caller could not be kept: %s", error)
