"""Asks Sentinels where the primary of a Redis is.

All are asked at once. Each failover has a number, its configuration epoch, and the answer with the highest one counts: a Sentinel
that was cut off together with an old primary still names that one. (redis-py's `Sentinel` asks one after the other, waits each
one's time out, and believes the first.)
"""

from __future__ import annotations

import asyncio
from typing import cast

from hiredis import ReplyError
from msgspec import Struct

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.asking import ASK_SECONDS, answers_of
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.socket import open_server
from iii_state.errors import StoreError

_UNKNOWN = "No such master"
_PROMOTING = ("send_slaveof_noone", "wait_promotion")
"""States of a failover in which a replica becomes the primary: what the one before is sent then is lost."""


class _Answer(Struct, frozen=True):
    """What a Sentinel knows: the place of the primary and its epoch, or None where it knows nothing of that name."""

    place: tuple[str, int] | None
    epoch: int = -1
    is_down: bool = False
    is_replaced: bool = False
    """Whether this Sentinel has a replica promoted at the moment."""


async def find_primary(address: Address) -> Address:
    """The server that the Sentinels of `address` name as its primary.

    Raises `StoreError` in words: no Sentinel answers, none knows the name, or the primary is down or being replaced.
    """
    answers, errors = await answers_of(_ask(sentinel, address.name) for sentinel in address.sentinels)
    if not answers:
        raise StoreError(f"no Sentinel of {address.name} answers: {'; '.join(sorted(map(str, errors)))}")
    newest = max(answers, key=lambda answer: (answer.epoch, not answer.is_down))
    if newest.place is None:
        raise StoreError(f"the Sentinels of redis_url know no Redis by the name {address.name} ({_listed(address)})")
    found = address.at(*newest.place)
    if any(answer.is_replaced for answer in answers if answer.epoch == newest.epoch):
        raise StoreError(f"the Sentinels of {address.name} have a replica promoted at this moment")
    if newest.is_down:
        raise StoreError(f"the primary of {address.name}, Redis at {found}, is down, and its Sentinels have promoted no other yet")
    return found


def _listed(address: Address) -> str:
    return ", ".join(map(str, address.sentinels))


async def _ask(sentinel: Address, name: str) -> _Answer:
    """Raises `StoreError` where it does not answer."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            socket = await open_server(sentinel, "iii-state:sentinel")
            try:
                # The first knows a promoted replica as soon as it says that it is one, the second only when all follow it.
                at, told = await socket.ask(
                    (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name.encode()), (b"SENTINEL", b"MASTER", name.encode())
                )
            finally:
                socket.abort()
    except TimeoutError:
        raise StoreError(f"Sentinel at {sentinel} has not answered within {ASK_SECONDS:g} s") from None
    except StoreError as error:
        raise StoreError(_of_sentinel(str(error))) from None
    for reply in (at, told):
        if isinstance(reply, ReplyError) and _UNKNOWN not in str(reply):
            raise StoreError(_of_sentinel(explain(sentinel, str(reply))))
    if not at or isinstance(told, ReplyError):
        return _Answer(None)
    host, port = (bytes(word).decode() for word in cast("list[bytes]", at))
    words = [bytes(word).decode("utf-8", "replace") for word in cast("list[bytes]", told)]
    state = dict(zip(words[::2], words[1::2], strict=True))
    is_down = not {"s_down", "o_down"}.isdisjoint(state["flags"].split(","))
    is_the_same = (state["ip"], state["port"]) == (host, port)
    is_replaced = state.get("failover-state") in _PROMOTING
    return _Answer((host, int(port)), int(state["config-epoch"]), is_down and is_the_same, is_replaced)


def _of_sentinel(error: str) -> str:
    """Words about a Redis, said of a Sentinel, which has a user and a password of its own."""
    told = error.replace("Redis at ", "Sentinel at ", 1)
    told = told.replace("the user name and password of redis_url", "sentinel_username and sentinel_password of redis_url")
    told = told.replace("a password; give it in redis_url", "a password; give it in redis_url as sentinel_password")
    return told.replace("the user of redis_url", "sentinel_username of redis_url")
