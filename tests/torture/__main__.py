"""Hurts engines, workers and Redis for a while, and proves that nothing was lost.

\b
    scripts/torture                           a minute
    scripts/torture --minutes 10 --seed 7     longer, with other faults and other writes
    scripts/torture --adapter kv              an engine on a file; or bridge, attach (redis unless told)
    scripts/torture --json                    the figures as JSON

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
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.table import Table

from tests.support.sdk.workers import PYTHON_NEW, PYTHON_OLD
from tests.torture.figures import figures_of, in_words
from tests.torture.plan import PLANS
from tests.torture.run import run

SECONDS_PER_LINE = 5.0
PROBLEMS_SHOWN = 20


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--adapter", type=click.Choice(list(PLANS)), default="redis", show_default=True, help="What is hurt.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="How long.")
@click.option("--seed", type=int, default=1, show_default=True, help="Determines the faults and the writes.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--keep", is_flag=True, help="Keep the histories even if all is right.")
def main(adapter: str, minutes: float, seed: int, as_json: bool, keep: bool) -> None:
    """Run once."""
    for sdk in (PYTHON_OLD, PYTHON_NEW):
        if reason := sdk.missing():
            raise click.ClickException(reason)
    if shutil.which("redis-server") is None:
        raise click.ClickException("there is no redis-server on the PATH (scripts/test installs one on Debian)")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what it has started ends, too
    logging.getLogger("iii_state").setLevel(logging.CRITICAL)  # what the engine in this process says of planned faults
    directory = Path(tempfile.mkdtemp(prefix="iii-torture-"))
    progress = Console(stderr=True)
    begun = last = time.monotonic()

    with progress.status("starting") as status:

        def tell(what: str) -> None:
            nonlocal last
            status.update(f"{what}  (seed {seed}, {minutes:g} min)")
            if not progress.is_terminal and time.monotonic() - last >= SECONDS_PER_LINE:
                last = time.monotonic()
                progress.print(f"{last - begun:.0f} s: {what}", highlight=False)

        try:
            outcome = uvloop.run(run(adapter, seed, minutes * 60, directory, tell))
        except Exception:
            traceback.print_exc()
            raise click.ClickException(f"the run broke off; what there is of its histories is in {directory}") from None
    figures = {"adapter": adapter, "seed": seed, "minutes": minutes, **figures_of(outcome.history, outcome.verdict)}
    if as_json:
        click.echo(json.dumps(figures, indent=1))
    elif sys.stdout.isatty():
        table = Table.grid(padding=(0, 2))
        for what, how_many in in_words(figures):
            table.add_row(what, how_many)
        Console().print(table, highlight=False)
    else:
        for line in in_words(figures):
            click.echo("\t".join(line))
    problems = outcome.verdict.problems
    if problems:
        for problem in problems[:PROBLEMS_SHOWN]:
            progress.print(f"[red]{problem[:500]}", highlight=False)
        raise click.ClickException(f"{len(problems)} problems; the histories are in {directory}")
    if keep:
        progress.print(f"the histories are in {directory}", highlight=False)
    else:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main(prog_name="scripts/torture")
