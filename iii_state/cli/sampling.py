"""What `iii-state stats` and `iii-state top` show: samples of what an engine or a Redis says, and rates between two of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from iii_state import values
from iii_state.cli.sources import Ask
from iii_state.cli.tables import Row, by_name
from iii_state.errors import Code, FunctionError

FAILED = ("retried", "crashed", "dead")
"""Outcomes of deliveries that no handler has finished."""


@dataclass(slots=True)
class Timing:
    """How long something took: how often, in buckets with these upper bounds, in seconds."""

    bounds: list[float]
    buckets: list[int]

    def since(self, before: Timing | None) -> Timing:
        """What has come since then."""
        if before is None or len(before.buckets) != len(self.buckets):
            return self
        return Timing(self.bounds, [now - then for now, then in zip(self.buckets, before.buckets, strict=True)])

    def quantile(self, part: float) -> float | None:
        """The time that this part of them did not exceed, as far as the buckets tell; None where there are none."""
        total = sum(self.buckets)
        if total <= 0:
            return None
        wanted, seen, low = part * total, 0, 0.0
        for bound, count in zip([*self.bounds, self.bounds[-1]], self.buckets, strict=True):
            if count and seen + count >= wanted:
                return low + (bound - low) * (wanted - seen) / count
            seen, low = seen + count, bound
        return self.bounds[-1]


@dataclass(slots=True)
class Counted:
    """What has been counted of a function since the engine was started."""

    done: float = 0
    failed: float = 0
    open: float = 0
    timing: Timing | None = None

    def since(self, before: Counted) -> Counted:
        """What has come since then; what is open is as it is now. An engine that was started anew counts from 0."""
        if before.done > self.done or before.failed > self.failed:
            return self
        timing = None if self.timing is None else self.timing.since(before.timing)
        return Counted(self.done - before.done, self.failed - before.failed, self.open, timing)


@dataclass(slots=True)
class Sample:
    """What there is at one moment. `calls` and `handlers` are by function, and empty where no engine was asked."""

    at: float
    rows: list[Row]
    engines: list[Mapping[str, Any]]
    about: Mapping[str, Any]
    calls: dict[str, Counted] = field(default_factory=dict)
    handlers: dict[str, Counted] = field(default_factory=dict)
    figures: list[Mapping[str, Any]] = field(default_factory=list)

    def since(self, before: Sample | None) -> Sample:
        """The same with what has been counted since then."""
        if before is None:
            return self
        calls = {name: counted.since(before.calls.get(name, Counted())) for name, counted in self.calls.items()}
        handlers = {name: counted.since(before.handlers.get(name, Counted())) for name, counted in self.handlers.items()}
        return Sample(self.at, self.rows, self.engines, self.about, calls, handlers, self.figures)


async def sample(ask: Ask) -> Sample:
    """Ask for everything. What an older engine, or a Redis without one, does not tell is empty."""
    triggers, engines, figures = await asyncio.gather(
        ask("iii-state::triggers", b"{}"), _if_known(ask, "iii-state::engines"), _if_known(ask, "iii-state::figures")
    )
    taken = Sample(time.monotonic(), by_name(triggers), engines.get("engines", []), engines, figures=figures.get("figures", []))
    bounds = list(figures.get("bounds", []))
    for figure in taken.figures:
        _count(taken, figure["name"], figure["labels"], figure["value"], bounds)
    return taken


async def _if_known(ask: Ask, function_id: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = values.decode(await ask(function_id, b"{}") or b"{}")
    except FunctionError as error:
        if error.code not in (Code.FUNCTION_NOT_FOUND, Code.NOT_FOUND):
            raise
        return {}
    return told


def _count(taken: Sample, name: str, labels: Mapping[str, str], value: Any, bounds: list[float]) -> None:
    match name:
        case "iii_state_calls_total":
            counted = taken.calls.setdefault(labels["function"], Counted())
            if labels["code"] == "ok":
                counted.done += value
            else:
                counted.failed += value
        case "iii_state_calls_in_flight":
            taken.calls.setdefault(labels["function"], Counted()).open += value
        case "iii_state_call_duration_seconds":
            taken.calls.setdefault(labels["function"], Counted()).timing = Timing(bounds, value["buckets"])
        case "iii_state_deliveries_total":
            counted = taken.handlers.setdefault(labels["function_id"], Counted())
            if labels["outcome"] in FAILED:
                counted.failed += value
            elif labels["outcome"] == "handled":
                counted.done += value
        case "iii_state_handlers_running":
            taken.handlers.setdefault(labels["function_id"], Counted()).open += value
        case "iii_state_handler_duration_seconds":
            taken.handlers.setdefault(labels["function_id"], Counted()).timing = Timing(bounds, value["buckets"])
        case _:
            pass


def used(counted: Mapping[str, Counted]) -> Iterator[tuple[str, Counted]]:
    """Those of which there is anything, the most first."""
    found = [(name, each) for name, each in counted.items() if each.done or each.failed or each.open]
    return iter(sorted(found, key=lambda pair: (-(pair[1].done + pair[1].failed), pair[0])))
