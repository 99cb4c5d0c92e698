"""The succession of the workers that serve this store to engines that are not ours."""

from __future__ import annotations

from iii_state.adapters.redis.connection.call import Reply
from iii_state.adapters.redis.scripts.engines import join_succession
from iii_state.adapters.redis.shared import Shared
from iii_state.tasks.results import Result


class RedisSuccession:
    """A place in it, by Redis's clock."""

    def __init__(self, shared: Shared) -> None:
        self._keys = shared.keys
        self._run = shared.connection.run

    def enter(self, worker: str, ttl_ms: int) -> Result[list[str]]:
        """Take a place, or keep it, for `ttl_ms`; answers the workers that are before."""
        return self._run("fleet/join_succession", join_succession(self._keys, worker.encode(), ttl_ms), _workers)

    def leave(self, worker: str) -> Result[None]:
        """Give up the place."""
        return self._run("fleet/join_succession", join_succession(self._keys, worker.encode(), 0), _nothing)


def _workers(before: Reply) -> list[str]:
    return [worker.decode() for worker in before]


def _nothing(before: Reply) -> None:
    pass
