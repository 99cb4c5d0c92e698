"""Reads and writes keys while engines, workers, Redis and connections are hurt, and proves that each key is linearizable.

\b
    scripts/torture linearizability                              a minute of each adapter
    scripts/torture linearizability --minutes 10 --adapter redis
    scripts/torture linearizability --json                       the figures as JSON

Exits with 1 if anything is wrong, and then says where the history lies.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import uvloop

from tests.linearizability.arena import ADAPTERS, arena_of
from tests.linearizability.operations import UNTOLD
from tests.linearizability.run import Outcome, run

SECONDS_PER_LINE = 10.0


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="How long, each adapter.")
@click.option("--adapter", "adapters", type=click.Choice(list(ADAPTERS)), multiple=True, help="Which; all unless given.")
@click.option("--seed", type=int, default=1, show_default=True, help="Determines the faults and the calls.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def main(minutes: float, adapters: tuple[str, ...], seed: int, as_json: bool) -> None:
    """Run each once."""
    if shutil.which("redis-server") is None:
        raise click.ClickException("there is no redis-server on the PATH (scripts/test installs one on Debian)")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that what it has started ends, too
    figures = []
    for adapter in adapters or tuple(ADAPTERS):
        outcome = uvloop.run(_run(adapter, seed, minutes * 60))
        faults = dict(sorted(outcome.faults.items()))
        figures.append({"adapter": adapter, "seed": seed, "minutes": minutes, **outcome.figures, "faults": faults})
        if outcome.problems:
            directory = Path(tempfile.mkdtemp(prefix="iii-linearizability-"))
            directory.joinpath("history.json").write_text(json.dumps(asdict(outcome.wrong), default=_plain, indent=1))  # type: ignore[arg-type]
            for problem in outcome.problems:
                click.echo(problem[:4000], err=True)
            raise click.ClickException(f"{adapter}: {len(outcome.problems)} problems; the history is in {directory}")
        if not as_json:
            counted = ", ".join(f"{count} {what}" for what, count in outcome.figures.items())
            click.echo(f"{adapter}: {counted}; {outcome.faults.total()} faults; all linearizable")
    if as_json:
        click.echo(json.dumps(figures, indent=1))


async def _run(adapter: str, seed: int, seconds: float) -> Outcome:
    begun = last = time.monotonic()

    def tell(outcome: Outcome) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_PER_LINE:
            last = time.monotonic()
            click.echo(
                f"{adapter}: {last - begun:.0f} s: {outcome.figures['answered']} answers, {outcome.faults.total()} faults", err=True
            )

    with tempfile.TemporaryDirectory(prefix="iii-linearizability-") as directory:
        async with arena_of(adapter, Path(directory)) as arena:
            return await run(arena, seed, seconds, tell)


def _plain(value: object) -> Any:
    return "untold" if value is UNTOLD else str(value)


if __name__ == "__main__":
    main(prog_name="scripts/torture linearizability")
