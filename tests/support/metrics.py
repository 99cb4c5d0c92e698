"""Metrics as whoever scrapes them reads them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from iii_state.figures import Figure
from iii_state.observe.metrics import exposition

PREFIX = "iii_state_"


class Metered(Protocol):
    """What has figures: an engine, an attached worker."""

    async def figures(self) -> list[Figure]: ...


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    @property
    def names(self) -> set[str]:
        """Of all series."""
        return {sample.name for sample in self._samples}

    def labels(self, name: str, label: str) -> set[str]:
        """What stands in a label, over all series of a name without its beginning."""
        return {sample.labels[label] for sample in self._samples if sample.name == PREFIX + name and label in sample.labels}

    def all(self, name: str, **labels: str) -> list[float]:
        """The values of the series that have these labels; the name without its beginning."""
        return [
            sample.value
            for sample in self._samples
            if sample.name == PREFIX + name and all(sample.labels.get(label) == value for label, value in labels.items())
        ]

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value of the one series that has these labels, None where there is none."""
        found = self.all(name, **labels)
        assert len(found) <= 1, (name, labels, found)
        return found[0] if found else None


async def metrics_of(metered: Metered) -> Metrics:
    """What an engine of this process would show."""
    return Metrics((await exposition(await metered.figures())).decode())


async def scraped(url: str, headers: Mapping[str, str] | None = None) -> Metrics:
    """What a port shows: `url` is http://HOST:PORT, or that of a WebSocket."""
    async with aiohttp.ClientSession() as session, session.get(f"{_http(url)}/metrics", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return Metrics(await answer.text())


async def status(url: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """How a port answers."""
    async with aiohttp.ClientSession() as session, session.get(f"{_http(url)}/metrics", headers=headers) as answer:
        return answer.status, (await answer.text()).strip()


def _http(url: str) -> str:
    return url.replace("ws://", "http://").rstrip("/")


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; without it the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here: apt-get install prometheus")
    return found


async def lint(text: str) -> str:
    """What promtool has to say against metrics; empty where it has nothing."""
    command = [program("promtool"), "check", "metrics"]
    done = await asyncio.to_thread(subprocess.run, command, input=text, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


DATA = Path(__file__).parents[2] / "iii_state" / "observe" / "prometheus"
"""What the package brings for Prometheus and Grafana."""
