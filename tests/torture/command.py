"""`scripts/torture` as a test calls it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT
from tests.support.sdk.workers import PYTHON_NEW, PYTHON_OLD

TORTURE = ROOT / "scripts" / "torture"
COMMAND_SECONDS = 500

NEEDS = [
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
