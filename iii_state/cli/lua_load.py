"""`iii-state lua-load`: puts the scripts on Redis servers ahead of the first call, or tells which are missing."""

from __future__ import annotations

import asyncio
import json
from typing import NamedTuple

import click

from iii_state.adapters.redis.cluster.reading import is_sharded
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.cluster.cluster import Cluster
from iii_state.adapters.redis.connection.cluster.recognition import is_cluster
from iii_state.adapters.redis.connection.explain import explain
from iii_state.adapters.redis.connection.primary import Primary
from iii_state.adapters.redis.scripts.loader import PARTED, PLAIN, SHARDED, Script, Scripts, names
from iii_state.cli.layout import columns
from iii_state.cli.terminal import check_output, is_terminal
from iii_state.config import RedisSettings
from iii_state.errors import ConfigError, ScriptError, StoreError

TIMEOUT_SECONDS = 10

SHA1, SHORT_SHA1 = 40, 10
"""So many of its digits are shown: all, or, where a terminal has no room for them, the first. `--json` has all."""


@click.command("lua-load", short_help="Load the Lua scripts into Redis ahead of a rollout.")
@click.option(
    "--redis-url",
    "urls",
    multiple=True,
    envvar="III_STATE_REDIS_URL",
    default=[RedisSettings().redis_url],
    show_default=True,
    show_envvar=True,
    help="A Redis; may be given several times.",
)
@click.option(
    "--prefix",
    default=RedisSettings().prefix,
    show_default=True,
    help="Of the keys of the fleet, which say what scripts it has in a cluster.",
)
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if a script is missing somewhere.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of tables.")
def lua_load(urls: tuple[str, ...], prefix: str, check: bool, as_json: bool) -> None:
    """Load the Lua scripts into Redis, so that the first calls find them there.

    Engines load by themselves what they miss; this does it before a rollout. Of a Redis Cluster every master gets them.

    \b
    iii-state lua-load --redis-url redis://node-1:6379 --redis-url redis://node-2:6379
    """
    check_output()
    try:
        commands = names()
        PLAIN.load_commands()
    except ScriptError as error:
        raise click.ClickException(str(error)) from None
    missing, broken = False, []
    report = []
    for url in urls:
        try:
            servers = asyncio.run(_servers(Address.parse(url), prefix))
        except (ConfigError, StoreError) as error:
            broken.append(str(error))
            continue
        for server in servers:
            scripts = [server.scripts.of(name) for name in commands]
            try:
                there = asyncio.run(_load(server.address, scripts, check))
            except StoreError as error:
                broken.append(str(error))
                continue
            missing = missing or not all(there)
            if as_json:
                rows = [_row(each, before, check) for each, before in zip(scripts, there, strict=True)]
                report.append({"redis": str(server.address), "scripts": rows})
            else:
                _show(str(server.address), scripts, there, check)
    if as_json:
        click.echo(json.dumps(report))
    for message in broken:
        click.secho(f"Error: {message}", fg="red", err=True)
    if broken or (check and missing):
        raise SystemExit(1)


class _Server(NamedTuple):
    """A server, and the scripts that it is to have."""

    address: Address
    scripts: Scripts


async def _servers(address: Address, prefix: str) -> list[_Server]:
    """All masters of a cluster, or the one server. Raises `ConfigError` and `StoreError` in words."""
    if not await is_cluster(address, "auto", timeout_ms=TIMEOUT_SECONDS * 1000):
        return [_Server(address, PLAIN)]
    cluster = Cluster(address, call_timeout_ms=TIMEOUT_SECONDS * 1000)
    try:
        await cluster.start()
        scripts = SHARDED if await is_sharded(cluster, prefix) else PARTED
        return [_Server(server, scripts) for server in cluster.servers]
    finally:
        await cluster.stop()


async def _load(address: Address, scripts: list[Script], check: bool) -> list[bool]:
    """Whether each script was there before. Raises `StoreError` in words."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            socket = await Primary(address).open("iii-state:lua-load")
            try:
                return await _load_over(socket, scripts, check)
            finally:
                socket.abort()
                await socket.closed
    except TimeoutError:
        raise StoreError(f"Redis at {address} has not answered within {TIMEOUT_SECONDS} s") from None


async def _load_over(socket: Carrier, scripts: list[Script], check: bool) -> list[bool]:
    (there,) = await socket.ask([b"SCRIPT", b"EXISTS", *(each.sha1 for each in scripts)])
    if not isinstance(there, list):
        raise StoreError(explain(socket.address, str(there)))
    missing = [each for each, exists in zip(scripts, there, strict=True) if not exists]
    if missing and not check:
        replies = await socket.ask(*((b"SCRIPT", b"LOAD", each.source) for each in missing))
        for each, reply in zip(missing, replies, strict=True):
            if reply != each.sha1:
                raise StoreError(f"{each.name}.lua: {explain(socket.address, str(reply))}")
    return [bool(exists) for exists in there]


def _row(each: Script, before: bool, check: bool) -> dict[str, object]:
    return {"name": each.name, "sha1": each.sha1.decode(), "bytes": len(each.source), "was": _was(before, check)}


def _was(before: bool, check: bool) -> str:
    return "there" if before else "missing" if check else "loaded"


def _show(where: str, scripts: list[Script], there: list[bool], check: bool) -> None:
    click.secho(where, bold=True)
    width = max(len(each.name) for each in scripts)
    sha1 = SHA1 if not is_terminal() or columns() >= width + SHA1 + len("      bytes  missing") else SHORT_SHA1
    click.secho(f"  {'script':<{width}}  {'SHA-1':<{sha1}}  {'bytes':>6}", dim=True)
    for each, before in zip(scripts, there, strict=True):
        was = _was(before, check)
        colour = {"there": None, "loaded": "green", "missing": "red"}[was]
        click.echo(f"  {each.name:<{width}}  {each.sha1.decode()[:sha1]}  {len(each.source):>6}  {click.style(was, fg=colour)}")
