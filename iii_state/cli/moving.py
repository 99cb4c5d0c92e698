"""`iii-state move`: all that a stopped fleet has in one Redis, moved to another, or into a cluster."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from iii_state.adapters.redis.connection.address import Address
from iii_state.cli.calls import run
from iii_state.cli.progress import progress_bar
from iii_state.cli.terminal import printable
from iii_state.config import RedisSettings
from iii_state.config.settings import MAX_PARTITIONS
from iii_state.errors import ConfigError
from iii_state.transfer.moving.move import Move, Moved
from iii_state.transfer.moving.parted import opened

DEFAULT_PREFIX = RedisSettings().prefix


def _a_redis(context: click.Context, option: click.Parameter, url: str) -> str:
    """The URL of a Redis; the error of one that cannot be read says which option has it."""
    try:
        Address.parse(url)
    except ConfigError as error:
        raise click.BadParameter(str(error).removeprefix("redis_url cannot be read: ")) from None
    return url


_from = click.option(
    "--from",
    "source",
    required=True,
    metavar="URL",
    callback=_a_redis,
    help="The Redis, or any node of the cluster, to move from.",
)
_to = click.option(
    "--to",
    "target",
    required=True,
    metavar="URL",
    callback=_a_redis,
    help="The Redis, or any node of the cluster, to move to.",
)


@click.command(short_help="Move all of a stopped fleet's state to another Redis, or into a cluster.")
@_from
@_to
@click.option("--from-prefix", default=DEFAULT_PREFIX, show_default=True, help="Of our keys there.")
@click.option("--to-prefix", default=DEFAULT_PREFIX, show_default=True, help="Of our keys there.")
@click.option(
    "--partitions",
    type=click.IntRange(1, MAX_PARTITIONS),
    help="How many a cluster gets; 64 unless given. It can only be changed by another move.",
)
@click.option("--dry-run", is_flag=True, help="Move nothing; look whether it can be moved, and count what there is.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def move(
    source: str,
    target: str,
    from_prefix: str,
    to_prefix: str,
    partitions: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Move all that a fleet has in one Redis to another one, into a cluster, out of one, or to another number of partitions.

    Values, deadlines, change logs, subscriptions, the events that wait (in their order), planned attempts and dead letters. All
    engines have to be stopped. The source stays as it is. A move that was cut off goes on when it is run again, and no engine
    starts on what has not been moved as a whole. In the end what is there is counted, and compared.

    \b
    iii-state move --from redis://localhost:6379 --to redis://node-1:6379
    """
    begun = time.monotonic()

    async def action() -> None:
        with progress_bar("moving") as bar:
            async with (
                opened(RedisSettings(redis_url=source, prefix=from_prefix)) as opened_source,
                opened(RedisSettings(redis_url=target, prefix=to_prefix), wanted=partitions, is_target=True) as opened_target,
            ):
                job = Move(opened_source, opened_target, bar.moved)
                done = await (job.dry_run() if dry_run else job.run())
        _tell(done, time.monotonic() - begun, dry_run=dry_run, as_json=as_json)

    try:
        run(action)
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; the same command goes on from there") from None


def _tell(done: Moved, seconds: float, *, dry_run: bool, as_json: bool) -> None:
    held = done.holding.as_dict()
    if as_json:
        told: dict[str, Any] = {**held, "skipped": done.skipped, "aside": done.aside}
        if not dry_run:
            told |= {"resumed": done.resumed, "seconds": seconds}
        click.echo(json.dumps(told))
        return
    width = max(map(len, held))
    for name, count in held.items():
        click.echo(f"{name.replace('_', ' '):{width}}  {count:>12,}")
    if done.skipped:
        click.echo(f"left behind: {done.skipped:,} entries of queues that are no events", err=True)
    if done.aside:
        click.echo(f"left behind: {done.aside:,} keys that were set aside as damaged", err=True)
    if dry_run:
        click.echo("would be moved")
    else:
        again = ", of which some had been moved before it was cut off" if done.resumed else ""
        click.echo(printable(f"moved in {seconds:.1f} s{again}; the same is there now"))
