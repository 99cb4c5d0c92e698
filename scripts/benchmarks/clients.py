"""Our own client of an engine beside the official Python SDK: the calls that each can make."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict

from benchmarks import jobs, processes
from benchmarks.cpu import process_seconds
from benchmarks.plan import Plan, Runs, client_us, rate, server_us
from benchmarks.processes import ENVIRONMENT, ROOT, Host
from benchmarks.report import Report, Table, Target, bar

SDK = ROOT / ".cache" / "sdks" / "python-0.25.0" / "bin" / "python"
"""The SDK's environment, as scripts/test makes it."""

_IN_FLIGHT = 64
_OURS, _THEIRS = "our client", "iii-sdk 0.25.0"


def clients(plan: Plan) -> Report:
    """Both as processes of their own, on the same engine with its values in memory."""
    report = Report("clients", "Our client beside the official SDK")
    if not plan.ours:
        report.skipped = "only the sketch was asked for"
        return report
    pythons = {_OURS: (sys.executable, "ours")}
    if SDK.exists():
        pythons[_THEIRS] = (str(SDK), "sdk")
    else:
        report.notes.append(f"The SDK is not here: {SDK} (scripts/test installs it).")
    found: defaultdict[str, Runs] = defaultdict(Runs)
    with processes.engine_in_memory() as host:
        for run in range(plan.runs):
            for name, (python, kind) in pythons.items():
                plan.progress(f"clients: {name}, run {run + 1}")
                found[name].add(_measured(host, python, kind, plan.seconds * 4))
    table = Table(f"get, {_IN_FLIGHT} in flight, 100 bytes", ["client", "calls/s", "client µs", "engine µs", ""])
    report.tables.append(table)
    largest = max(runs.of(rate) or 0.0 for runs in found.values())
    for name, runs in found.items():
        table.add(name, runs.of(rate), runs.of(client_us), runs.of(server_us), bar(runs.of(rate) or 0.0, largest))
    if _THEIRS in found:
        got = found[_OURS].share(found[_THEIRS], rate)
        report.targets.append(Target("calls of our client", 1, got, f"times {_THEIRS}"))
    return report


def _measured(host: Host, python: str, kind: str, seconds: float) -> jobs.Measured:
    isolated = ["-P"] if kind == "ours" else ["-I"]  # what lies beside the script is not to be imported in place of something else
    arguments = [
        python,
        *isolated,
        str(ROOT / "scripts" / "benchmarks" / "client.py"),
        kind,
        host.url,
        str(_IN_FLIGHT),
        str(seconds),
    ]
    began = process_seconds(host.pid)
    done = subprocess.run(arguments, capture_output=True, env=ENVIRONMENT, cwd=tempfile.gettempdir(), check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(f"the client has failed: {done.stderr.decode()[-500:]}")
    calls, wall, cpu = json.loads(done.stdout)
    # The engine is busy for the quarter before the measurement, too.
    engine_cpu = (process_seconds(host.pid) - began) * 0.8
    return jobs.Measured(done=calls, seconds=wall, server_cpu=engine_cpu, client_cpu=cpu, p50=None, p99=None, errors=0, lost=0)
