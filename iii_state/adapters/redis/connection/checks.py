"""What is looked at on a server before it is used: the user's permissions, and the format of the data."""

from __future__ import annotations

from typing import cast

from hiredis import ReplyError

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.keys import LOG_FORMAT, Keys
from iii_state.adapters.redis.scripts.loader import Scripts
from iii_state.errors import StoreError


async def check_permissions(socket: Carrier, keys: Keys, prefix: str, trial: bytes, scripts: Scripts) -> None:
    """Raises `StoreError` in words where the user may not use all that iii-state needs; `trial` is part of the names of keys that
    are made to find out, and removed."""
    permissions = scripts.of("fleet/check_permissions")
    names = (keys.values(b"iii-state trial " + trial), keys.session(b"trial:" + trial))
    replies = await socket.ask(
        (b"SCRIPT", b"LOAD", permissions.source), (b"EVALSHA", permissions.sha1, b"2", *names), (b"SCAN", b"0", b"COUNT", b"1")
    )
    for reply in replies:
        if isinstance(reply, ReplyError):
            hint = f" (it needs the keys {keys.values(b'*').decode()} and {prefix}:*)"
            raise StoreError(explain(socket.address, str(reply)) + (hint if "key" in str(reply) else ""))
    refused = cast("list[bytes]", replies[1])
    if refused:
        listed = ", ".join(sorted({word.decode("utf-8", "replace") for word in refused}))
        raise StoreError(f"the user of redis_url may not use all that iii-state needs on Redis at {socket.address}: {listed}")


MOVING = b"moving "
"""With which the key of the format begins while a store is being moved there (`iii-state move`)."""


def refuse_moving(held: bytes, where: str) -> None:
    """Raises `StoreError` where a store has not been moved as a whole yet; `held` is its format."""
    if held.startswith(MOVING):
        raise StoreError(
            f"a store is being moved to Redis at {where} (iii-state move, or import --queues), and is not there as a whole: run "
            "that command again, to its end"
        )


def refuse_newer(address: Address, held: bytes) -> None:
    """Raises `StoreError` where the data has the format `held`, which this version does not know."""
    refuse_moving(held, str(address))
    if not held.isdigit() or int(held) > LOG_FORMAT:
        raise StoreError(
            f"the data in Redis at {address} has format {held.decode('utf-8', 'replace')}, which a newer "
            f"version of iii-state has written; this one reads up to {LOG_FORMAT}"
        )
