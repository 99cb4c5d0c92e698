"""How much is measured, and what several runs of one measurement come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks import frames, jobs
from benchmarks.processes import Host


def _silently(what: str) -> None:
    """Shows no progress."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Args:
        runs: how often each measurement is made; the tables show medians.
        seconds: how long one is, after a quarter of it that does not count.
        sizes: bytes of a value.
        callers: calls in flight.
        connections: over how many connections these are spread, at most.
        ops: the functions of the state.
        ours: whether ours is measured, and not only the sketch.
        many: how many idle connections and triggers.
        progress: called with what is measured now.
    """

    runs: int
    seconds: float
    sizes: list[int]
    callers: list[int]
    connections: int = 4
    ops: tuple[str, ...] = frames.OPS
    ours: bool = True
    many: int = 10_000
    progress: Callable[[str], None] = field(default=_silently)

    @property
    def busy(self) -> int:
        """The number of callers that targets speak of: 64, or the largest there is."""
        return 64 if 64 in self.callers else max(self.callers)

    def calls(self, hosts: Host | Sequence[Host], op: str, size: int, callers: int, store_pid: int | None = None) -> jobs.Calls:
        """The job that measures one op on one host, or on several at once, and the Redis behind them if there is one."""
        hosts = [hosts] if isinstance(hosts, Host) else hosts
        return jobs.Calls(
            urls=[host.url for host in hosts],
            pids=[host.pid for host in hosts],
            store_pid=store_pid,
            op=op,
            size=size,
            callers=callers,
            connections=self.connections,
            seconds=self.seconds,
            warmup=self.seconds / 4,
        )

    def events(self, host: Host | None, in_flight: int, store_pid: int | None = None, idle: int = 0) -> jobs.Events:
        """The job that measures events on one host; on none, for an embedded engine."""
        return jobs.Events(
            url=host.url if host else "",
            pid=host.pid if host else 0,
            store_pid=store_pid,
            idle=idle,
            size=1000,
            in_flight=in_flight,
            seconds=self.seconds * 2,
            warmup=self.seconds / 2,
        )


class Runs:
    """Several runs of one measurement."""

    def __init__(self) -> None:
        self.runs: list[jobs.Measured] = []

    def add(self, measured: jobs.Measured) -> None:
        """One more run."""
        self.runs.append(measured)

    def of(self, figure: Callable[[jobs.Measured], float | None]) -> float | None:
        """The median of a figure; None where it was not measured."""
        figures = [f for run in self.runs if (f := figure(run)) is not None]
        return median(figures) if figures else None

    def share(self, other: Runs, figure: Callable[[jobs.Measured], float]) -> float | None:
        """A figure as a share of another's: the median over the runs, so that a slow moment hits both."""
        shares = [figure(a) / figure(b) for a, b in zip(self.runs, other.runs, strict=True) if figure(b)]
        return median(shares) if shares else None

    @property
    def errors(self) -> int:
        """Errors and losses of all runs."""
        return sum(run.errors + run.lost for run in self.runs)


def rate(run: jobs.Measured) -> float:
    """Calls or events per second."""
    return run.rate


def server_us(run: jobs.Measured) -> float:
    """Microseconds of the host's CPU per call or event."""
    return run.server_us


def client_us(run: jobs.Measured) -> float:
    """Microseconds of the load client's CPU per call or event."""
    return run.client_us


def store_us(run: jobs.Measured) -> float:
    """Microseconds of Redis's CPU per call."""
    return run.store_us


def store_share(run: jobs.Measured) -> float:
    """How much of a core Redis used."""
    return run.store_share


def p50_ms(run: jobs.Measured) -> float | None:
    """The median time in milliseconds."""
    return None if run.p50 is None else run.p50 * 1e3


def p99_ms(run: jobs.Measured) -> float | None:
    """The time in milliseconds that one in a hundred exceeds."""
    return None if run.p99 is None else run.p99 * 1e3
