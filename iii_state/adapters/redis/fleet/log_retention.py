"""How long changes are kept: what is too old goes, also of scopes that nobody writes to any more, and logs that are none go whole.

How many are kept the scripts see to with each change. Going through the logs costs at most one page of SCAN and `LOGS_PER_SWEEP`
logs a sweep, of one engine of the fleet.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from iii_state.adapters.redis.fleet.takeover import Takeover
from iii_state.adapters.redis.keyspace.scan import KEYS_PER_STEP, escaped, is_text
from iii_state.adapters.redis.mutations.logs import LogSetting
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import StoreError
from iii_state.history import ended_in_words

logger = logging.getLogger(__name__)

LOGS_PER_SWEEP = 200
TRIMMED_AT_ONCE = 500
"""Changes that Redis lets go at once."""


class LogRetention:
    """One engine's part in it."""

    def __init__(self, shared: Shared, takeover: Takeover) -> None:
        self._keys = shared.keys
        self._send = shared.connection.send
        self._routes = shared.fanout.routes
        self._engine = shared.engine
        self._takeover = takeover
        self._is_alone = shared.pace.is_alone
        self._cursor = b"0"
        self._found: list[bytes] = []
        """Scopes whose logs are still to be looked at."""
        self._rounds_without_logs = 0

    async def sweep(self) -> int:
        """Look at some of the logs. Where no scope has one any more, those that were are gone through once."""
        setting = self._routes.logs
        if setting is None and self._rounds_without_logs:
            return -1
        if not self._takeover.is_first():
            return -1
        if not self._found:
            await self._scan(setting)
        ended = []
        for _ in range(min(LOGS_PER_SWEEP, len(self._found))):
            scope = self._found.pop()
            try:
                if await self._is_ended(scope, setting):
                    ended.append(scope.decode(errors="replace"))
            except StoreError as error:
                logger.info("the change log of scope %r could not be trimmed: %s", scope.decode(errors="replace"), error)
        if ended:
            logger.warning("%s", ended_in_words(ended))
        return -1

    async def _scan(self, setting: LogSetting | None) -> None:
        """The scopes that are named, and of the others some."""
        page: list[bytes] = []
        if self._is_alone:
            pattern, count = escaped(self._keys.history(b"")) + b"*", b"%d" % KEYS_PER_STEP
            self._cursor, page = await self._send(b"SCAN", self._cursor, b"MATCH", pattern, b"COUNT", count, b"TYPE", b"stream")
            if self._cursor == b"0":
                self.went_through()
        named = [] if setting is None else [rule.scope.encode() for rule in setting.rules.rules if rule.scope is not None]
        self.add(page)
        self._found = list(dict.fromkeys((*self._found, *named)))

    @property
    def wants_names(self) -> bool:
        """Whether the logs are to be gone through."""
        return self._routes.logs is not None or not self._rounds_without_logs

    def add(self, names: Sequence[bytes]) -> None:
        """These logs are to be looked at."""
        self._found += [name[len(self._keys.history(b"")) :] for name in names]

    def went_through(self) -> None:
        """All keys have been gone through."""
        self._rounds_without_logs = 0 if self._routes.logs is not None else 1

    async def _is_ended(self, scope: bytes, setting: LogSetting | None) -> bool:
        """Let go what is too old; all of it, which is told, where the scope has no log any more."""
        found = setting.of(scope.decode()) if setting is not None and is_text(scope) else None
        if found is None:
            return bool(await self._send(b"UNLINK", self._keys.history(scope)))
        if found.rule.max_age_ms is not None and (own_now_ms := self._engine.own_now_ms()) is not None:
            await self._trim(scope, own_now_ms - found.rule.max_age_ms)
        return False

    async def _trim(self, scope: bytes, oldest_ms: int) -> None:
        """Let all go that was made up to a moment."""
        name = self._keys.history(scope)
        first = await self._entry(name, 0)
        if first is None or first[1] > oldest_ms:
            return
        newest = await self._send(b"XREVRANGE", name, b"+", b"-", b"COUNT", b"1")
        if not newest:
            return
        low, high = first[0], int(newest[0][0].partition(b"-")[0]) + 1
        while low + 1 < high:  # `low` is too old, `high` is not
            middle = (low + high) // 2
            entry = await self._entry(name, middle)
            if entry is not None and entry[1] <= oldest_ms:
                low = middle
            else:
                high = middle
        for upto in (*range(first[0] + TRIMMED_AT_ONCE, high, TRIMMED_AT_ONCE), high):
            await self._send(b"XTRIM", name, b"MINID", b"%d" % upto)

    async def _entry(self, name: bytes, revision: int) -> tuple[int, int] | None:
        """Revision and time of the first entry from a revision on."""
        found = await self._send(b"XRANGE", name, b"%d-0" % revision, b"+", b"COUNT", b"1")
        if not found:
            return None
        revision_text, _, at_ms = found[0][0].partition(b"-")
        return int(revision_text), int(at_ms)
