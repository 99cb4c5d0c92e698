"""Hurts engines, their stores and workers for a while, and proves that nothing was lost.

\b
    scripts/torture                           a minute, with three engines on one Redis
    scripts/torture --adapter kv              an engine on a file; or cluster, bridge, attach, all (but cluster)
    scripts/torture --minutes 10 --seed 7     longer, with other faults and other writes
    scripts/torture --json                    the figures as JSON
    scripts/torture --long DIR                two hours over all adapters in turn, in 24 parts; goes on where it was stopped
    scripts/torture --calls DIR               ten million calls of raw clients, in 20 parts; likewise
    scripts/torture --table DIR               what both have come to, as a table in Markdown

Exits with 1 if anything is wrong, and then says where the histories lie.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.table import Table

from tests.support.sdk.workers import PYTHON_NEW, PYTHON_OLD
from tests.torture.figures import figures_of, in_words
from tests.torture.long import PARTS, call_parts, table, torture_parts
from tests.torture.parts import Part, go_on
from tests.torture.plan import IN_TURN, PLANS
from tests.torture.run import run

SECONDS_PER_LINE = 5.0
PROBLEMS_SHOWN = 20
DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--adapter", type=click.Choice([*PLANS, "all"]), help="What is hurt (redis unless told; for the long runs all).")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="How long (1 unless told), of --long each part (5).")
@click.option("--seed", type=int, default=1, show_default=True, help="Determines the faults and the writes.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--keep", is_flag=True, help="Keep the histories even if all is right.")
@click.option("--long", "long_directory", type=DIRECTORY, help="The long run; results go into this directory.")
@click.option("--calls", "calls_directory", type=DIRECTORY, help="The calls of raw clients; results go into this directory.")
@click.option("--parts", type=click.IntRange(1), help="In how many parts (24 of --long, 20 of --calls).")
@click.option("--count", type=click.IntRange(1), default=10_000_000, show_default=True, help="How many calls --calls makes.")
@click.option("--table", "table_directory", type=DIRECTORY, help="Print the figures of the long runs in this directory.")
def main(
    adapter: str | None,
    minutes: float | None,
    seed: int,
    as_json: bool,
    keep: bool,
    long_directory: Path | None,
    calls_directory: Path | None,
    parts: int | None,
    count: int,
    table_directory: Path | None,
) -> None:
    """Run once, or go on with a long run."""
    if table_directory is not None:
        click.echo(table(table_directory))
        return
    for sdk in (PYTHON_OLD, PYTHON_NEW):
        if reason := sdk.missing():
            raise click.ClickException(reason)
    if shutil.which("redis-server") is None:
        raise click.ClickException("there is no redis-server on the PATH (scripts/test installs one on Debian)")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what it has started ends, too
    logging.getLogger("iii_state").setLevel(logging.CRITICAL)  # what the engine in this process says of planned faults
    adapters = (
        IN_TURN if (adapter or ("all" if long_directory or calls_directory else "redis")) == "all" else [str(adapter or "redis")]
    )
    if long_directory is not None:
        _in_parts(torture_parts(parts or PARTS["torture"], minutes or 5.0, seed, adapters), long_directory)
    elif calls_directory is not None:
        _in_parts(call_parts(parts or PARTS["calls"], count, seed, adapters), calls_directory)
    else:
        wrong = [each for each in adapters if not _once(each, seed, minutes or 1.0, as_json=as_json, keep=keep)]
        if wrong:
            raise click.ClickException(f"something is wrong with {', '.join(wrong)}")


def _progress(progress: Console, status: Any, behind: str) -> Callable[[str], None]:
    begun = last = time.monotonic()

    def tell(what: str) -> None:
        nonlocal last
        status.update(f"{what}{behind}")
        if not progress.is_terminal and time.monotonic() - last >= SECONDS_PER_LINE:
            last = time.monotonic()
            progress.print(f"{last - begun:.0f} s: {what}", highlight=False)

    return tell


def _in_parts(parts: list[Part], directory: Path) -> None:
    progress = Console(stderr=True)
    with progress.status("starting") as status:
        for part, result in go_on(parts, directory, _progress(progress, status, "")):
            progress.print(f"{part.name}: {len(result['problems'])} problems, {result['took_seconds']} s", highlight=False)
    results = {part.name: part.result(directory) for part in parts}
    if undone := [name for name, result in results.items() if result is None]:
        progress.print(f"{len(undone)} parts are not done here: {', '.join(undone)}", highlight=False)
    wrong = {name: result for name, result in results.items() if result and result["problems"]}
    for name, result in wrong.items():
        for problem in result["problems"][:PROBLEMS_SHOWN]:
            progress.print(f"[red]{name}: {problem[:500]}", highlight=False)
    if wrong:
        raise click.ClickException(f"problems in {', '.join(wrong)}; the histories are in {directory}")


def _once(adapter: str, seed: int, minutes: float, *, as_json: bool, keep: bool) -> bool:
    """Whether nothing was wrong."""
    directory = Path(tempfile.mkdtemp(prefix="iii-torture-"))
    progress = Console(stderr=True)
    with progress.status("starting") as status:
        tell = _progress(progress, status, f"  ({adapter}, seed {seed}, {minutes:g} min)")
        try:
            outcome = uvloop.run(run(adapter, seed, minutes * 60, directory, tell))
        except Exception:
            traceback.print_exc()
            raise click.ClickException(f"the run broke off; what there is of its histories is in {directory}") from None
    figures = {"adapter": adapter, "seed": seed, "minutes": minutes, **figures_of(outcome.history, outcome.verdict)}
    if as_json:
        click.echo(json.dumps(figures, indent=1))
    elif sys.stdout.isatty():
        rows = Table.grid(padding=(0, 2))
        for what, how_many in in_words(figures):
            rows.add_row(what, how_many)
        Console().print(rows, highlight=False)
    else:
        for line in in_words(figures):
            click.echo("\t".join(line))
    problems = outcome.verdict.problems
    for problem in problems[:PROBLEMS_SHOWN]:
        progress.print(f"[red]{problem[:500]}", highlight=False)
    if problems:
        progress.print(f"{len(problems)} problems; the histories are in {directory}", highlight=False)
    elif keep:
        progress.print(f"the histories are in {directory}", highlight=False)
    else:
        shutil.rmtree(directory)
    return not problems


if __name__ == "__main__":
    main(prog_name="scripts/torture")
