"""A worker on the official Python SDK that a test drives: one JSON command per line in, one JSON report per line out.

It runs in a virtual environment that holds nothing but one version of `iii-sdk`, and is the same for all versions.

    worker.py URL NAME

A command is `{"id": N, "do": NAME, ...}`; its answer `{"id": N, "result": ...}` or `{"id": N, "error": {code, message,
stacktrace}}`. In between come `{"called": FUNCTION, "payload": ..., "metadata": ...}`, one for each call of a function
that this worker has registered, written before the function acts. The end of the input ends the worker.
"""

import asyncio
import importlib
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

iii: Any = importlib.import_module("iii")
ReconnectionConfig: Any = importlib.import_module("iii.iii_constants").ReconnectionConfig

write_lock = threading.Lock()


def report(message: dict[str, Any]) -> None:
    """Writes one line. What is no JSON (the end of a channel, say) is written as text."""
    line = json.dumps(message, default=str)
    with write_lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class TestWorker:
    """The commands, over one SDK client."""

    def __init__(self, url: str, name: str) -> None:
        headers = json.loads(os.environ.get("WORKER_HEADERS", "null"))
        reconnection = ReconnectionConfig(initial_delay_ms=100, max_delay_ms=400)
        options = iii.InitOptions(worker_name=name, reconnection_config=reconnection, headers=headers)
        self.client: Any = iii.register_worker(url, options)
        self.functions: dict[str, Any] = {}
        self.triggers: dict[str, Any] = {}
        self.held: dict[str, list[asyncio.Future[None]]] = {}

    def handler(self, function_id: str, behaviour: dict[str, Any]) -> Callable[..., Awaitable[Any]]:
        """What the SDK calls for a function: it reports the call and then does what `behaviour` says."""
        calls = 0

        async def handle(data: Any, metadata: Any = None) -> Any:
            nonlocal calls
            calls += 1
            released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if behaviour["kind"] == "hold":
                # Before the report, since the test may answer that with `release` at once.
                self.held.setdefault(function_id, []).append(released)
            report({"called": function_id, "payload": data, "metadata": metadata})
            match behaviour["kind"]:
                case "echo":
                    return data
                case "return":
                    return behaviour["value"]
                case "pick":
                    for step in behaviour["path"]:
                        data = data[step]
                    return data
                case "raise":
                    if calls <= behaviour.get("times", calls):
                        raise RuntimeError(behaviour["message"])
                    return None
                case "hold":
                    await released
                    return "released"
                case "call":
                    return await self.client.trigger_async(behaviour["request"])
                case "read_channel":
                    return (await data["reader"].read_all()).decode()
                case kind:
                    raise ValueError(f"unknown behaviour {kind}")

        return handle

    def register_function(self, function_id: str, behaviour: dict[str, Any]) -> None:
        self.functions[function_id] = self.client.register_function(function_id, self.handler(function_id, behaviour))

    def unregister_function(self, function_id: str) -> None:
        self.functions.pop(function_id).unregister()

    def register_trigger(self, name: str, trigger: dict[str, Any]) -> None:
        self.triggers[name] = self.client.register_trigger(trigger)

    def unregister_trigger(self, name: str) -> None:
        self.triggers.pop(name).unregister()

    def release(self, function_id: str) -> int:
        """Lets every held call of a function go on; the answer is how many there were."""
        futures = self.held.pop(function_id, [])
        for future in futures:
            future.get_loop().call_soon_threadsafe(future.set_result, None)
        return len(futures)

    def trigger(self, request: dict[str, Any]) -> Any:
        return self.client.trigger(request)

    def stream(self, function_id: str, pieces: list[str]) -> Any:
        """Calls a function with the reading end of a new channel, writes the pieces to it, and waits for the result."""
        if hasattr(self.client, "create_channel"):
            channel = self.client.create_channel()
        else:
            channel = importlib.import_module("iii.helpers").create_channel(self.client)

        async def write() -> None:
            for piece in pieces:
                await channel.writer.write(piece.encode())
            await channel.writer.close_async()

        writer = threading.Thread(target=lambda: asyncio.run(write()))
        writer.start()
        try:
            return self.client.trigger({"function_id": function_id, "payload": {"reader": channel.reader_ref.model_dump()}})
        finally:
            writer.join()

    def info(self) -> dict[str, Any]:
        return {
            "connected": self.client.get_connection_state() == "connected",
            "worker_id": getattr(self.client, "worker_id", None),
        }

    def shutdown(self) -> None:
        self.client.shutdown()

    def answer(self, command: dict[str, Any]) -> None:
        """Carries out one command and reports how it went."""
        number, name = command.pop("id"), command.pop("do")
        try:
            report({"id": number, "result": getattr(self, name)(**command)})
        except Exception as error:
            code = getattr(error, "code", type(error).__name__)
            message = getattr(error, "message", str(error))
            stacktrace = getattr(error, "stacktrace", None)
            report({"id": number, "error": {"code": code, "message": message, "stacktrace": stacktrace}})


def main() -> None:
    worker = TestWorker(sys.argv[1], sys.argv[2])
    report({"ready": os.getpid()})
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] in ("trigger", "stream"):
            threading.Thread(target=worker.answer, args=(command,), daemon=True).start()
        else:
            worker.answer(command)
    os._exit(0)


main()
