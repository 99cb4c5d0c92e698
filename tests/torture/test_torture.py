"""The short runs: every kind of fault with each adapter, and nothing lost, made twice, or out of order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.sdk.workers import PYTHON_NEW, PYTHON_OLD
from tests.torture.plan import PLANS

TORTURE = ROOT / "scripts" / "torture"
COMMAND_SECONDS = 500

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
    pytest.mark.skipif(
        bool(PYTHON_OLD.missing() or PYTHON_NEW.missing()), reason="the SDKs are not installed (scripts/test does that)"
    ),
]


def started(*arguments: str) -> subprocess.Popen[str]:
    """`scripts/torture` with these arguments."""
    command = [str(TORTURE), *arguments]
    environment = {**os.environ, "III_PYTHON": sys.executable}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(process: subprocess.Popen[str]) -> str:
    """What it has printed; it has to have found nothing wrong."""
    try:
        out, log = process.communicate(timeout=COMMAND_SECONDS)
    finally:
        process.terminate()
    assert process.returncode == 0, out[-2000:] + log[-4000:]
    return out


def test_nothing_is_lost_on_one_redis_whatever_is_hurt() -> None:
    figures = json.loads(done(started("--minutes", "1", "--seed", "1", "--json")))
    assert figures["problems"] == []
    assert figures["faults"].keys() >= PLANS["redis"].kinds.keys()
    assert figures["writes"]["ok"] > 500
    assert all(figures["deliveries_by_trigger"].values())


def test_nothing_is_lost_on_a_file_through_a_bridge_and_through_attach() -> None:
    """They run side by side."""
    running = {name: started("--adapter", name, "--minutes", "0.3", "--seed", "1", "--json") for name in ("kv", "bridge", "attach")}
    for name, process in running.items():
        figures = json.loads(done(process))
        assert (figures["adapter"], figures["problems"]) == (name, [])
        assert figures["faults"]
        assert figures["writes"]["ok"] > 100


def test_the_calls_of_raw_clients_are_made_once_each_and_can_be_gone_on_with(tmp_path: Path) -> None:
    arguments = ("--calls", str(tmp_path), "--parts", "4", "--count", "20000")
    first, second = started(*arguments), started(*arguments)  # side by side: each part is done by one of them
    first.communicate(timeout=COMMAND_SECONDS)
    second.communicate(timeout=COMMAND_SECONDS)
    done(started(*arguments))  # nothing is left to be done
    parts = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [part["adapter"] for part in parts] == list(PLANS)
    assert all(part["calls"] >= 5_000 and part["problems"] == [] for part in parts)
    table = done(started("--table", str(tmp_path)))
    assert all(f"| {name} | {part['calls']:,} |" in table for name, part in zip(PLANS, parts, strict=True))
