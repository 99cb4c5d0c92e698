"""The session of a connection: what makes its mutations recognisable when they are sent again."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import Any

from iii_state.adapters.redis.connection.call import RedisCall, Reply, SessionCommand
from iii_state.adapters.redis.scripts.loader import PLAIN, Scripts
from iii_state.adapters.redis.scripts.mutations import opened
from iii_state.sessions import SESSION_SECONDS

SESSION_MS = b"%d" % (SESSION_SECONDS * 1000)


class EngineSession:
    """A name, an epoch that each connection raises, slots for the calls in flight, and one sequence of numbers.

    `key` names the session's hash in Redis.
    """

    def __init__(self, key: Callable[[bytes], bytes], scripts: Scripts = PLAIN) -> None:
        self.scripts = scripts
        self._key = key
        self._sequences = itertools.count(1)
        self.renew()

    def renew(self) -> None:
        """Begin another one, under another name."""
        self.name = secrets.token_hex(6).encode()
        self.epoch = 0
        self.held = 0
        """The last epoch that is known to have held; 0 before there was one."""
        self._slots = 0
        self._free_slots: list[int] = []

    # -- opening

    def opening(self) -> tuple[bytes, ...]:
        """The command that opens it for the next connection, under the next epoch.

        The epoch counts attempts, not successes: one that was given up and gets through late cannot fence a later one.
        """
        self.epoch += 1
        key, epoch = self._key(self.name), b"%d" % self.epoch
        return b"EVALSHA", self.scripts.of("sessions/open").sha1, b"1", key, b"%d" % self.held, epoch, SESSION_MS

    def opened(self, reply: Reply) -> None:
        """Take on the reply of `opening`. Raises `SessionLost` or `SessionTaken`."""
        self.held = opened(reply)

    def refreshing(self) -> SessionCommand:
        """The call that keeps it from expiring."""
        return SessionCommand(b"PEXPIRE", self._key, SESSION_MS)

    def dropping(self) -> SessionCommand:
        """The call that removes it."""
        return SessionCommand(b"UNLINK", self._key)

    # -- calls

    def number(self, call: RedisCall[Any]) -> None:
        """Give a call a slot, the one that was freed last, and a sequence number: it keeps both when it is sent again."""
        if self._free_slots:
            call.slot = self._free_slots.pop()
        else:
            call.slot = self._slots
            self._slots += 1
        call.sequence = next(self._sequences)

    def release(self, call: RedisCall[Any]) -> None:
        """The call is over: its slot, if it has one, may be used by another."""
        if call.slot >= 0:
            self._free_slots.append(call.slot)
            call.slot = -1
