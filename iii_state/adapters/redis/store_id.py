"""The id of what is stored in a Redis, which is another one when the database has been emptied."""

from __future__ import annotations

import logging
import secrets

from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.keys import Keys

logger = logging.getLogger(__name__)


class StoreId:
    """The id as this engine knows it: None before the first `read`."""

    def __init__(self, keys: Keys, connection: RedisConnection) -> None:
        self.id: str | None = None
        self._began = b""
        """What the routes began with when this was the id. What the engine knows of the routes may be newer already."""
        self._names = (b"4", keys.store, keys.routes, keys.routes_version, keys.engines)
        self._is_parted = keys.is_parted
        self._run = connection.run

    async def read(self) -> None:
        """Learn the id, and write it down where it is missing."""
        known = (self.id or "").encode()
        found, began = await self._run("fleet/store_id", [*self._names, known, self._began, secrets.token_hex(8).encode()])
        before, self.id = self.id, found.decode("utf-8", "replace")
        self._began = began or (self._began if self.id == before else b"")
        if before not in (None, self.id):
            level = (
                logging.INFO if self._is_parted else logging.WARNING
            )  # of many partitions that are emptied at once, each says so
            logger.log(level, "the id of the store was %s, and is %s now", before, self.id)
