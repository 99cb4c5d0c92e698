"""Metrics in the text format of Prometheus: the figures of an engine or a worker, and those of its process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from iii_state.figures import BOUNDS, Family, Figure, Histogram, gauge

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

AT_ONCE = 100
"""So many figures are written before other work gets its turn; a histogram has some twenty lines."""

BUILD = gauge("build_info", "1; the version is a label.", "version")

_LIMITS = (*(str(bound) for bound in BOUNDS), "+Inf")

_process = CollectorRegistry(auto_describe=False)
for _each in (ProcessCollector, PlatformCollector, GCCollector):
    _each(registry=_process)


async def exposition(figures: Iterable[Figure]) -> bytes:
    """The text. Calls get their turn again and again meanwhile: there may be tens of thousands of lines."""
    by_family: dict[Family, list[Figure]] = {BUILD: [Figure(BUILD, 1, (version("iii-state"),))]}
    for figure in figures:
        by_family.setdefault(figure.family, []).append(figure)
    texts = []
    for family, own in by_family.items():
        for start in range(0, len(own), AT_ONCE):
            text = generate_latest(_Collected(_metric(family, own[start : start + AT_ONCE])))
            texts.append(text.split(b"\n", 2)[2] if start else text)  # what the family is stands before its first lines
            await asyncio.sleep(0)
    return b"".join((*texts, generate_latest(_process)))


class _Collected(CollectorRegistry):
    """A registry of what has been collected already."""

    def __init__(self, metric: Metric) -> None:
        super().__init__(auto_describe=False)
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def _metric(family: Family, figures: Iterable[Figure]) -> Metric:
    name, about, labels = family.name, family.about, family.labels
    if family.kind == "histogram":
        durations = HistogramMetricFamily(name, about, labels=labels)
        for figure in figures:
            if isinstance(figure.value, Histogram):
                counts = zip(_LIMITS, accumulate(figure.value.buckets), strict=True)
                durations.add_metric(figure.labels, [(limit, float(count)) for limit, count in counts], figure.value.sum)
        return durations
    plain = (
        CounterMetricFamily(name, about, labels=labels)
        if family.kind == "counter"
        else GaugeMetricFamily(name, about, labels=labels)
    )
    for figure in figures:
        if not isinstance(figure.value, Histogram):
            plain.add_metric(figure.labels, figure.value)
    return plain
