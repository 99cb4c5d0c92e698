"""Looks at a Redis, and at everything of iii-state in it; and has damaged queues repaired."""

from __future__ import annotations

import contextlib
import secrets
from functools import partial

from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.admin import RedisAdmin
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.checks import check_permissions, refuse_newer
from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.mutations.routes import FOREIGN_WRITES
from iii_state.adapters.redis.opening import is_parted
from iii_state.adapters.redis.scripts.loader import PLAIN
from iii_state.config import RedisSettings
from iii_state.errors import StoreError
from iii_state.events import QueueLimits
from iii_state.observe.doctor.findings import Finding, Progress
from iii_state.observe.doctor.redis.cluster import examine_cluster
from iii_state.observe.doctor.redis.fleet import of_engines, of_sessions
from iii_state.observe.doctor.redis.joining import joining, nothing_there, run_repair
from iii_state.observe.doctor.redis.queues import forget_lost, have_counted, of_queues
from iii_state.observe.doctor.redis.server import SendingBefore, of_scripts, of_server, of_share, used_memory
from iii_state.observe.doctor.redis.values import ValueLook
from iii_state.observe.doctor.subscriptions import of_queues as of_subscriptions


async def examine(settings: RedisSettings, progress: Progress, *, values: bool = True, repair: bool = False) -> list[Finding]:
    """What is to be known; without `values` these are not looked at. Raises `StoreError` where nothing can be looked at."""
    if await is_parted(settings):
        return await examine_cluster(settings, progress, values=values, repair=repair)
    keys = Keys(settings.prefix.encode())
    address = Address.parse(settings.redis_url, settings.tls)
    connection = RedisConnection(address, keys.session, call_timeout_ms=settings.call_timeout_ms)
    refused: list[Finding] = []
    of_the_server: list[Finding] = []

    async def check(socket: Carrier) -> None:
        sending = SendingBefore(socket)
        is_watching = bool(await sending.send(b"HEXISTS", keys.routes, FOREIGN_WRITES))
        progress("the server")
        of_the_server.extend(await of_server(sending, foreign_writes=is_watching))
        refused.extend(await of_scripts(socket))  # before this connection loads them
        try:
            await check_permissions(socket, keys, settings.prefix, b"doctor-" + secrets.token_hex(8).encode(), PLAIN)
        except StoreError as error:
            refused.append(_not_permitted(error))

    try:
        await connection.start(check)
    except StoreError as error:
        if not any(finding.id in TAKES_NO_WRITES for finding in of_the_server):
            raise
        return [*of_the_server, _not_joined(error)]
    try:
        held = await connection.send(b"GET", keys.format)
        if held is not None:
            refuse_newer(address, held)
        routed = bool(await connection.send(b"HEXISTS", keys.routes, FOREIGN_WRITES))
        found = [*refused, *of_the_server]
        if held is None:
            return [*found, nothing_there(f"Redis at {address}", settings.prefix)]
        progress("engines and queues")
        found += [*await of_engines(connection, keys), *await of_sessions(connection, keys)]
        queues = await of_queues(connection, keys)
        if repair and queues.damaged:
            progress("repairing queues")
            await have_counted(connection, keys, queues)
            engine = RedisAdapter(joining(settings, is_watching=routed), history=None)
            await run_repair(engine, partial(_is_damaged, connection, keys))
            queues = await of_queues(connection, keys)
        found += queues.findings()
        if repair:
            await forget_lost(connection, keys, queues)
        with contextlib.suppress(StoreError):  # INFO may be refused
            found += of_share(queues.queued_bytes, used_memory(await connection.send(b"INFO", b"memory")))
        if not queues.has_other_types:
            found += of_subscriptions(await RedisAdmin(keys, connection, QueueLimits()).stats())
        if values:
            found += await ValueLook(connection, keys, progress).look()
        return found
    finally:
        await connection.stop()


TAKES_NO_WRITES = ("is-replica", "saving-fails")
"""What a server may suffer from that refuses the session with which all else is looked at."""


async def _is_damaged(connection: RedisConnection, keys: Keys) -> bool:
    return bool((await of_queues(connection, keys)).damaged)


def _not_permitted(error: StoreError) -> Finding:
    return Finding(
        "warning",
        "permissions",
        str(error),
        "Engines that use this user do not start.",
        "Grant it what is named (iii-state docs adapter-redis has an ACL line)",
    )


def _not_joined(error: StoreError) -> Finding:
    return Finding(
        "warning",
        "writes-refused",
        str(error),
        "Engines do not start here. The queues and values could not be looked at.",
        "Mend what is found beside this, and run the doctor again",
    )
