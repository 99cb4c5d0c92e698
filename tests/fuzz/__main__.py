"""Fuzzes a running engine with frames, and engines over kv and redis with op lists.

\b
    scripts/torture fuzz                                            100,000 of each
    scripts/torture fuzz --frames 1000000 --op-lists 1000000        a million of each
    scripts/torture fuzz --frames 1000000 --resume fuzz.jsonl       goes on behind the last part that is in this file

The seed and a part's number determine all that the part sends. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import uvloop

from tests.fuzz.run import Totals, fuzz_frames, fuzz_op_lists

PART = 10_000


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--frames", type=click.IntRange(0), default=100_000, show_default=True, help="How many frames.")
@click.option("--op-lists", type=click.IntRange(0), default=100_000, show_default=True, help="How many op lists.")
@click.option("--seed", type=int, default=1, show_default=True, help="Determines what is sent.")
@click.option("--resume", type=click.Path(dir_okay=False, path_type=Path), help="Keeps what has been done, a part a line.")
def main(frames: int, op_lists: int, seed: int, resume: Path | None) -> None:
    """Run once."""
    if op_lists and shutil.which("redis-server") is None:
        raise click.ClickException("there is no redis-server on the PATH (scripts/test installs one on Debian)")
    totals = {"frames": Totals(), "op lists": Totals()}
    for line in [] if resume is None or not resume.exists() else resume.read_text().splitlines():
        done = json.loads(line)
        if done["seed"] == seed:
            totals[done["what"]].add(done["figures"])

    def note(what: str, figures: dict[str, Any]) -> None:
        totals[what].add(figures)
        if resume is not None:
            with resume.open("a") as file:
                file.write(json.dumps({"what": what, "seed": seed, "figures": figures}) + "\n")
        click.echo(f"{what}: {totals[what].figures}", err=True)

    uvloop.run(fuzz_frames(seed, totals["frames"].parts, frames, PART, lambda figures: note("frames", figures)))
    uvloop.run(fuzz_op_lists(seed, totals["op lists"].parts, op_lists, PART, lambda figures: note("op lists", figures)))
    problems = [problem for total in totals.values() for problem in total.problems]
    for what, total in totals.items():
        for name, value in total.figures.items():
            click.echo(f"{what}\t{name}\t{value}")
    for problem in problems:
        click.echo(problem[:2000], err=True)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="scripts/torture fuzz")
