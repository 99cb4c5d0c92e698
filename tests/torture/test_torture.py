"""The short run: every kind of fault at least once, and nothing lost, made twice, or out of order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.sdk.workers import PYTHON_NEW, PYTHON_OLD
from tests.torture.plan import PLANS

TORTURE = ROOT / "scripts" / "torture"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
@pytest.mark.skipif(
    bool(PYTHON_OLD.missing() or PYTHON_NEW.missing()), reason="the SDKs are not installed (scripts/test does that)"
)
def test_nothing_is_lost_whatever_is_hurt() -> None:
    command = [str(TORTURE), "--minutes", "0.8", "--seed", "1", "--json"]
    done = subprocess.run(
        command, env={**os.environ, "III_PYTHON": sys.executable}, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    figures = json.loads(done.stdout)
    assert figures["problems"] == []
    assert figures["faults"].keys() >= PLANS["redis"].kinds.keys()
    assert figures["writes"]["ok"] > 500
    assert all(figures["deliveries_by_trigger"].values())
