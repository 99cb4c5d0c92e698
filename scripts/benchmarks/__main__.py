"""Measures the engine and prints what it found, beside the least that a Python host can do.

\b
    scripts/bench                     everything, some minutes
    scripts/bench --quick             everything, once and small, within a minute
    scripts/bench socket events       some sections
    scripts/bench --json -            the figures as JSON
"""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from benchmarks.frames import OPS
from benchmarks.jobs import log_less
from benchmarks.plan import Plan
from benchmarks.report import Report, Target, show
from benchmarks.sections import SECTIONS


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.2
    """Whole numbers with commas between them."""

    name = "numbers"

    def convert(self, value: str | list[int], param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            return [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"expected whole numbers with commas between them, got {value!r}", param, ctx)


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sections", nargs=-1, type=click.Choice(list(SECTIONS)))
@click.option("--quick", is_flag=True, help="Once, small values, and a tenth of the idle connections.")
@click.option("--runs", type=click.IntRange(1), help="How often each measurement is made; medians are shown.")
@click.option("--seconds", type=click.FloatRange(0.01), help="How long one measurement is.")
@click.option("--sizes", type=_Numbers(), help="Bytes of a value.  [default: 100,1000,10000,100000]")
@click.option("--callers", type=_Numbers(), help="Calls in flight.  [default: 1,64,256]")
@click.option("--ops", help=f"Functions, with commas between them.  [default: {','.join(OPS)}]")
@click.option("--connections", type=click.IntRange(1), default=4, show_default=True, help="That callers are spread over.")
@click.option("--many", type=click.IntRange(1), help="Idle connections and triggers.  [default: 10000]")
@click.option("--sketch-only", is_flag=True, help="Leave ours out.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write all figures as JSON; - is stdout, instead of tables.")
def main(
    sections: tuple[str, ...],
    quick: bool,
    runs: int | None,
    seconds: float | None,
    sizes: list[int] | None,
    callers: list[int] | None,
    ops: str | None,
    connections: int,
    many: int | None,
    sketch_only: bool,
    json_path: str | None,
) -> None:
    """Run the sections and show them."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the hosts end, too
    console = Console(stderr=json_path == "-", width=None if sys.stdout.isatty() else 200)
    progress = Console(stderr=True)
    begun = time.monotonic()
    wanted = many or (1000 if quick else 10_000)
    room, note = _open_files(wanted)
    reports: list[Report] = []
    seconds_of: dict[str, float] = {}
    with progress.status("starting", spinner="dots") as status:
        plan = Plan(
            runs=runs or (1 if quick else 3),
            seconds=seconds or (0.08 if quick else 0.2),
            sizes=sizes or ([100] if quick else [100, 1000, 10_000, 100_000]),
            callers=callers or ([1, 64] if quick else [1, 64, 256]),
            connections=connections,
            ops=tuple(ops.split(",")) if ops else OPS,
            ours=not sketch_only,
            many=room,
            progress=lambda what: status.update(f"{what}  ({time.monotonic() - begun:.0f} s)"),
        )
        for name in sections or SECTIONS:
            section_begun = time.monotonic()
            try:
                report = SECTIONS[name](plan)
            except RuntimeError as reason:
                report = Report(name, f"Section {name} did not finish", notes=[str(reason)], errors=1)
            if note and name == "idle":
                report.notes.append(note)
            reports.append(report)
            if json_path != "-":
                show(console, report)
            seconds_of[report.name] = round(time.monotonic() - section_begun, 1)
    targets: list[Target] = [target for report in reports for target in report.targets]
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    if json_path:
        text = json.dumps(
            {"machine": machine, "sections": [report.as_json() for report in reports], "seconds": seconds_of}, indent=1
        )
        if json_path == "-":
            sys.stdout.write(text + "\n")
        else:
            Path(json_path).write_text(text + "\n", encoding="utf-8")
    if json_path != "-":
        met = sum(target.is_met for target in targets)
        console.print(f"\n{met} of {len(targets)} targets met. {machine}; {time.monotonic() - begun:.0f} s.", highlight=False)
    if any(report.errors for report in reports):
        raise click.ClickException("some answers were errors or never came")


def _open_files(wanted: int) -> tuple[int, str | None]:
    """Allow as many open files as the system lets us, and say how many idle connections that is room for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    room = most - 200 if most != resource.RLIM_INFINITY else wanted
    if room >= wanted:
        return wanted, None
    return room, f"Only {room:,} instead of {wanted:,}: a process may have {most:,} open files here (ulimit -n)."


if __name__ == "__main__":
    log_less()
    main(prog_name="scripts/bench")
