"""`iii-state doctor`: what an operator should know, each with what it means and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from iii_state import values
from iii_state.cli.calls import engine_at, run, url_option
from iii_state.cli.layout import columns, wrapped
from iii_state.cli.sources import is_typed
from iii_state.cli.tables import counted, print_table
from iii_state.cli.terminal import is_terminal, printable, show
from iii_state.config import RedisSettings
from iii_state.observe.doctor import engine, kv, redis
from iii_state.observe.doctor.findings import SEVERITIES, Finding, Progress

_COLOURS = {"fault": "red", "warning": "yellow", "note": "cyan"}


@click.command(short_help="Look for what is wrong, or will be, and say what to do.")
@url_option()
@click.option("--redis-url", help="A Redis to look at, with no engine in between.")
@click.option("--prefix", default=RedisSettings().prefix, show_default=True, help="Of the keys in that Redis.")
@click.option("--file-path", type=click.Path(file_okay=False, path_type=Path), help="The directory of a kv store that is stopped.")
@click.option("--repair", is_flag=True, help="Have damaged queues repaired (with --redis-url), and forget lost events.")
@click.option("--no-values", is_flag=True, help="Do not look at the values in Redis, which takes long where there are many.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def doctor(
    url: str, redis_url: str | None, prefix: str, file_path: Path | None, repair: bool, no_values: bool, as_json: bool
) -> None:
    """Look at a Redis, an engine, or the file of a stopped kv store: what an operator should know, what it means, what to do.

    \b
    iii-state doctor --redis-url redis://localhost:6379    # everything that is in Redis
    iii-state doctor --file-path DIR                       # a kv store that no engine has open
    iii-state doctor --url ws://localhost:49134            # what an engine says of itself

    It changes nothing, unless it is told to --repair. Of a healthy store it finds nothing. The exit code is 1 where it found a
    fault (an eviction policy, unreadable values, damaged queues or files, lost events), and 0 for warnings and notes.
    """
    given = [
        name for name, is_given in (("--url", is_typed("url")), ("--redis-url", redis_url), ("--file-path", file_path)) if is_given
    ]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} were given; give one of them.")
    if redis_url is None and (is_typed("prefix") or repair or no_values):
        raise click.UsageError("--prefix, --repair and --no-values are about a Redis: give --redis-url with them.")
    found: list[Finding] = []

    async def action() -> None:
        with _progress() as progress:
            if redis_url is not None:
                settings = RedisSettings(redis_url=redis_url, prefix=prefix)
                found.extend(await redis.examine(settings, progress, values=not no_values, repair=repair))
            elif file_path is not None:
                found.extend(await asyncio.to_thread(kv.examine, file_path, progress))
            else:
                found.extend(await engine.examine(engine_at(url), progress))
        found.sort(key=lambda finding: SEVERITIES.index(finding.severity))

    run(action)
    _print(found, as_json)
    if any(finding.severity == "fault" for finding in found):
        raise SystemExit(1)


def _print(found: list[Finding], as_json: bool) -> None:
    if as_json:
        show(values.encode({"findings": [finding._asdict() for finding in found]}), as_json)
    elif not is_terminal():
        print_table(("SEVERITY", "FINDING", "WHAT", "MEANS", "TO DO"), found, "")
    elif not found:
        click.secho("nothing is wrong, as far as can be seen", fg="green")
    else:
        for finding in found:
            what = wrapped(printable(f"{finding.severity}: {finding.what}"), columns())
            click.secho(what, fg=_COLOURS[finding.severity], bold=True)
            click.echo(wrapped(printable(finding.meaning), columns(), "  "))
            click.echo(wrapped(printable(f"To do: {finding.remedy}"), columns(), "  "))
            click.secho(f"  [{finding.id}]\n", dim=True)
        numbers = [(severity, sum(finding.severity == severity for finding in found)) for severity in SEVERITIES]
        click.echo(", ".join(counted(count, severity) for severity, count in numbers if count))


@contextmanager
def _progress() -> Iterator[Progress]:
    """Shows on a terminal what is looked at; long looks are long for the values."""
    if not is_terminal():
        yield lambda what: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("looking …") as status:
        yield lambda what: status.update(f"looking at {printable(what)}", spinner=None)
