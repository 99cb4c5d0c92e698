"""The clock that can be shifted: what a process under it takes for the time."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.support.clock import HOUR, Clock

ASK = """
import sqlite3, sys, time
for _ in sys.stdin:
    by_sqlite = sqlite3.connect(":memory:").execute("SELECT CAST(strftime('%s') AS REAL)").fetchone()[0]
    print(time.time(), time.monotonic(), by_sqlite, flush=True)
"""


def test_the_wall_clock_of_a_running_process_can_be_shifted_and_no_other(clock: Clock) -> None:
    environment = {**os.environ, **clock.environment}
    with subprocess.Popen(
        [sys.executable, "-c", ASK], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for shift in (0.0, HOUR, -HOUR, 0.25):
            clock.set(shift)
            print(file=process.stdin, flush=True)
            wall, monotonic, by_sqlite = map(float, process.stdout.readline().split())
            assert abs(wall - time.time() - shift) < 60
            assert abs(wall - clock.now()) < 60
            assert abs(by_sqlite - wall) < 60
            assert abs(monotonic - time.monotonic()) < 60
        process.stdin.close()
