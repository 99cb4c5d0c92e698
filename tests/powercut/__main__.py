"""Cuts the power of a kv store on file, again and again, and proves that nothing is lost that had been forced to disk.

\b
    scripts/torture powercut                       1,000 cuts
    scripts/torture powercut --points 10000        10,000 of them, over as many records as that takes

Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

from tests.powercut.cuts import LIVES, Found, cut, recorded
from tests.powercut.record import missing

POINTS_PER_RECORD = 1000
ROUNDS = 60


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--points", type=click.IntRange(1), default=1000, show_default=True, help="How many cuts.")
@click.option("--seed", type=int, default=1, show_default=True, help="Determines what is done, and what arrives on the disk.")
def main(points: int, seed: int) -> None:
    """Run once."""
    if reason := missing():
        raise click.ClickException(reason)
    logging.getLogger("iii_state").setLevel(logging.CRITICAL)  # what is said at an opening after a cut
    begun = time.monotonic()
    all_found: list[Found] = []
    kinds: Counter[str] = Counter()
    manners: Counter[str] = Counter()
    done = 0
    while done < points:
        share = min(POINTS_PER_RECORD, points - done)
        with tempfile.TemporaryDirectory(prefix="iii-powercut-") as folder:
            found = cut(recorded(Path(folder), seed, ROUNDS), seed, share)
        all_found.append(found)
        kinds += found.kinds
        manners += found.manners
        done += share
        click.echo(f"{time.monotonic() - begun:.0f} s: {done} of {points} cuts (seed {seed})", err=True)
        for problem in found.problems:
            click.echo(problem[:500], err=True)
        seed += 1
    figures = {
        "cuts": sum(found.points for found in all_found),
        "records": f"{len(all_found)}, each of {len(LIVES)} lives of a store",
        "operations": kinds.total() - kinds["M"],
        "writes": kinds["W"],
        "syncs": kinds["S"],
        "transactions": sum(found.transactions for found in all_found),
        "cuts that cost what had not been forced to disk": sum(found.behind for found in all_found),
        **{f"arrived: {manner}": count for manner, count in sorted(manners.items())},
        "seconds": round(time.monotonic() - begun),
        "problems": sum(len(found.problems) for found in all_found),
    }
    for what, value in figures.items():
        click.echo(f"{what}\t{value}")
    if figures["problems"]:
        raise click.ClickException(f"{figures['problems']} problems")


if __name__ == "__main__":
    main(prog_name="scripts/torture powercut")
