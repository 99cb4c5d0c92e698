"""A worker on the official Python SDK that serves the handlers of a run, or writes; it notes everything in journals.

    -m tests.torture.sdk_worker URL NAME ROLE PLACE DIRECTORY ADAPTER SEED

ROLE is that of a trigger's workers, or `write` or `write-old`; PLACE is the number of its engine. The end of its input ends it.
"""

import asyncio
import contextlib
import importlib
import itertools
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.torture.journal import Journal
from tests.torture.subscriptions import CONDITION, HANDLE, SPECS, Spec, fails, is_wanted
from tests.torture.writes import Source, outcome_of, seen

iii: Any = importlib.import_module("iii")
ReconnectionConfig: Any = importlib.import_module("iii.iii_constants").ReconnectionConfig

CALL_MS = 7000
TOLD = ("event_type", "scope", "key", "old_value", "new_value", "cause")
CUT_OFF_SECONDS = 10.0


def handler(spec: Spec, journal: Journal, numbers: "itertools.count[int]") -> Any:
    """What the SDK calls for a trigger: it notes the delivery before it does anything, and the outcome before it answers."""

    async def handle(event: Any, metadata: Any = None) -> None:
        number, told = next(numbers), (metadata or {}).get("iii_state") or {}
        told_event = {name: seen(event[name]) for name in TOLD if name in event}
        journal.note(delivery=number, subscription=spec.name, **told_event, **told)
        if spec.kills(event["new_value"]):
            os.kill(os.getpid(), signal.SIGKILL)
        if spec.is_damaged:  # so slow that something always waits in the queue that is damaged
            await asyncio.sleep(random.uniform(0.3, 0.7))
        else:
            await asyncio.sleep(random.uniform(0, 0.01) if random.random() < 0.9 else random.uniform(0.02, 0.15))
        failing = spec.fails and fails(told["event_id"], told["attempt"])
        journal.note(done=number, ok=not failing)
        if failing:
            raise RuntimeError("this handler fails now and then")

    async def handle_batch(batch: Any) -> Any:
        failed = []
        for each in batch["events"]:
            try:
                await handle(each["event"], {"iii_state": {name: value for name, value in each.items() if name != "event"}})
            except RuntimeError:
                failed.append(each["event_id"])
        return {"failed": failed}

    async def handle_without_metadata(event: Any) -> None:
        await handle(event)

    if spec.batch:
        return handle_batch
    return handle_without_metadata if spec.is_old else handle


async def condition(event: Any) -> bool:
    """The condition function."""
    return is_wanted(event["old_value"], event["new_value"])


def serve(client: Any, role: str, adapter: str, journal: Journal) -> None:
    """Register the functions, then the triggers."""
    numbers = itertools.count(1)
    specs = [spec for spec in SPECS[adapter] if spec.role == role]
    if role == HANDLE:
        client.register_function(CONDITION, condition)
    for spec in specs:
        client.register_function(spec.function_id, handler(spec, journal, numbers))
    for spec in specs:
        client.register_trigger({"type": "state", "function_id": spec.function_id, "config": spec.config})


def end_when_cut_off(client: Any) -> None:
    """End the process when calls have not reached an engine for long: some SDKs stop trying."""
    reached = time.monotonic()
    while time.monotonic() - reached < CUT_OFF_SECONDS:
        time.sleep(1)
        with contextlib.suppress(Exception):
            client.trigger({"function_id": "engine::workers::list", "payload": {}, "timeout_ms": 3000})
            reached = time.monotonic()
    os._exit(3)


def write(client: Any, source: Source, journal: Journal, stopped: threading.Event) -> None:
    """Write, one call after the other."""
    while not stopped.wait(source.pause()):
        op = source.next()
        function_id, payload = op.call()
        for part in op.parts():
            journal.note(**part.note())
        try:
            result = client.trigger({"function_id": function_id, "payload": payload, "timeout_ms": CALL_MS})
        except Exception as error:
            message = str(getattr(error, "message", error))
            for part in op.parts():
                journal.note(answered=part.id, outcome=outcome_of(getattr(error, "code", "")), error=message)
            continue
        for part, values in zip(op.parts(), op.told(result), strict=True):
            journal.note(answered=part.id, outcome="ok", **values)


def main() -> None:
    url, name, role, place, directory, adapter, seed = sys.argv[1:]
    options = iii.InitOptions(worker_name=name, reconnection_config=ReconnectionConfig(initial_delay_ms=100, max_delay_ms=500))
    client = iii.register_worker(url, options)
    stopped = threading.Event()
    writer = None
    if role.startswith("write"):
        journal = Journal(Path(directory, f"writes-{name}.jsonl"))
        source = Source(int(seed), name, adapter, has_large=role == "write")
        writer = threading.Thread(target=write, args=(client, source, journal, stopped), daemon=True)
        writer.start()
    else:
        journal = Journal(Path(directory, f"handled-{name}.jsonl"))
        journal.note(worker=name, place=int(place))
        serve(client, role, adapter, journal)
        threading.Thread(target=end_when_cut_off, args=(client,), daemon=True).start()
    sys.stdin.read()
    stopped.set()
    if writer is not None:
        writer.join(CALL_MS / 1000 + 2)
    os._exit(0)


main()
