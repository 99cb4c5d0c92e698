"""Whether a Redis is a cluster: asked of the server that `redis_url` names."""

from __future__ import annotations

import asyncio
from typing import Literal

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.socket import open_server
from iii_state.errors import ConfigError, StoreError
from iii_state.tasks.background import stop_tasks

NAME = "iii-state:mode"


async def is_cluster(address: Address, expected: bool | Literal["auto"], *, timeout_ms: int = 5000) -> bool:
    """Whether the Redis at an address is a cluster; `expected` is what `adapter.config.cluster` says.

    Raises:
        ConfigError: when it is not what is expected, or the URL names what a cluster has not: a database, Sentinels, a socket.
        StoreError: in words, when no server answers.
    """
    if expected is False:
        if address.seeds:
            raise ConfigError("redis_url names several nodes, and adapter.config.cluster is false: a single Redis has one address")
        return False
    if address.sentinels or address.path is not None:
        if expected is True:
            kind = "names Sentinels" if address.sentinels else "is the path of a socket"
            raise ConfigError(f"adapter.config.cluster is true, but redis_url {kind}: it has to name a node of the cluster")
        return False
    if await _mode_of(address.of_cluster(None), timeout_ms / 1000) != "cluster":
        if expected is True:
            raise ConfigError(f"adapter.config.cluster is true, but Redis at {address} is no part of a Redis Cluster")
        if address.seeds:
            raise ConfigError(f"redis_url names several servers, and Redis at {address} is no Redis Cluster: give one address")
        return False
    if address.db:
        raise ConfigError(f"redis_url names database {address.db}, and a Redis Cluster has only database 0")
    return True


async def _mode_of(address: Address, timeout: float) -> str:
    """What the first of the servers that answers is."""
    asked = {asyncio.ensure_future(_ask(seed, timeout)) for seed in address.nodes}
    left, troubles = asked, list[str]()
    try:
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, StoreError):
                    raise error
                troubles.append(str(error))
    finally:
        await stop_tasks(left)
        for task in asked:
            task.cancelled() or task.exception()
    raise StoreError("; ".join(sorted(troubles)))


async def _ask(address: Address, timeout: float) -> str:
    try:
        async with asyncio.timeout(timeout):
            socket = await open_server(address, NAME)
    except TimeoutError:
        hint = "; does it speak TLS on this port?" if address.tls is not None else ""
        raise StoreError(f"Redis at {address} has not answered within {timeout * 1000:.0f} ms{hint}") from None
    socket.abort()
    await socket.closed
    return socket.mode
