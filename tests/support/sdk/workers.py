"""SDK workers as subprocesses: which SDKs there are, and how a test drives a worker of one."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.engines.processes import STARTUP_SECONDS, Lines
from tests.support.waiting import wait_until

HERE = Path(__file__).parent
SDKS_DIRECTORY = ROOT / ".cache" / "sdks"

# How long anything may take that should happen at once. Only a failing test waits this long.
SOON = 10.0


class Absent:
    """What Node makes of a result that is not there (`undefined`); Python SDKs give None."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = Absent()


@dataclass(frozen=True)
class Sdk:
    """One version of the SDK in one language.

    Args:
        language: `python` or `node`.
        version: of the package `iii-sdk`.
        metadata: whether handlers are given the metadata of a call (since 0.21.3).
        reattaches: whether it names its old connection when it comes back (since 0.21.8).
        receives_bytes: the largest frame that it can receive.
    """

    language: str
    version: str
    metadata: bool
    reattaches: bool
    receives_bytes: int

    @property
    def name(self) -> str:
        return f"{self.language}-{self.version}"

    @property
    def directory(self) -> Path:
        return SDKS_DIRECTORY / self.name

    @property
    def nothing(self) -> Any:
        """How the absence of a result appears."""
        return ABSENT if self.language == "node" else None

    @property
    def reads_numbers_exactly(self) -> bool:
        """JavaScript has no integers beyond 2^53 and no difference between 1 and 1.0."""
        return self.language == "python"

    def missing(self) -> str | None:
        """Why no worker of this SDK can be started here, or None if one can."""
        if self.language == "node" and shutil.which("node") is None:
            return "Node.js is not installed"
        if not (self.directory / ".installed").exists():
            return f"iii-sdk {self.version} for {self.language} is not installed (scripts/test does that)"
        return None

    def command(self) -> list[str]:
        if self.language == "node":
            return ["node", str(HERE / "worker.mjs")]
        return [str(self.directory / "bin" / "python"), str(HERE / "worker.py")]


PYTHON_OLD = Sdk("python", "0.12.0", metadata=False, reattaches=False, receives_bytes=2**20)
PYTHON_NEW = Sdk("python", "0.25.0", metadata=True, reattaches=True, receives_bytes=2**26)
NODE_OLD = Sdk("node", "0.11.6", metadata=False, reattaches=False, receives_bytes=100 * 2**20)
NODE_NEW = Sdk("node", "0.22.1", metadata=True, reattaches=True, receives_bytes=100 * 2**20)
SDKS = (PYTHON_OLD, PYTHON_NEW, NODE_OLD, NODE_NEW)


class CallFailedError(Exception):
    """The SDK raised: the call (or another command) failed with this code and message."""

    def __init__(self, code: str, message: str, stacktrace: str | None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.stacktrace = stacktrace


@dataclass(frozen=True)
class Call:
    """One call that a function of a worker has received."""

    payload: Any
    metadata: Any


@dataclass
class Answer:
    """The answer to a command that is under way."""

    worker: Worker
    number: int

    def result(self, within: float = SOON) -> Any:
        """Waits for the answer.

        Returns:
            the result, with `ABSENT` for Node's `undefined`.

        Raises:
            CallFailedError: the SDK raised.
            TimeoutError: no answer within so many seconds, or the worker has ended.
        """
        reply = self.worker.lines.wait(lambda: self.worker.answers.pop(self.number, None), within, f"{self.worker} gave no answer")
        if "error" in reply:
            raise CallFailedError(**reply["error"])
        return reply.get("result", ABSENT)


@dataclass
class Worker:
    """A worker process of one SDK, connected to an engine. It shows up under `name`."""

    sdk: Sdk
    url: str
    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    behind_stock: bool = False
    """Whether it is a stock engine's: that one sorts members, and takes a null of another worker for no result."""

    def __post_init__(self) -> None:
        self.answers: dict[int, dict[str, Any]] = {}
        self._calls: dict[str, list[Call]] = {}
        self._numbers = itertools.count(1)
        self._home = tempfile.TemporaryDirectory(prefix="iii-state-worker-", ignore_cleanup_errors=True)
        self._stderr = Path(self._home.name, "stderr")
        # Telemetry is off but where a test turns it on, and nothing of the surroundings configures the SDK.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("III_", "OTEL_"))}
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [*self.sdk.command(), self.url, self.name],
                cwd=self._home.name,
                env={
                    **inherited,
                    "HOME": self._home.name,
                    "OTEL_ENABLED": "false",
                    "SDK_DIRECTORY": str(self.sdk.directory),
                    **self.environment,
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin = self.process.stdin
        self._ready = False
        self.lines = Lines(self.process.stdout, self._sort)

    def __repr__(self) -> str:
        return f"{self.sdk.name} worker {self.name}"

    def _sort(self, line: str) -> None:
        message = json.loads(line)
        if "called" in message:
            call = Call(message.get("payload", ABSENT), message["metadata"])
            self._calls.setdefault(message["called"], []).append(call)
        elif "ready" in message:
            self._ready = True
        else:
            self.answers[message["id"]] = message

    def wait_until_connected(self, within: float = STARTUP_SECONDS) -> None:
        """Waits until the program runs and the SDK says that it has a connection that the engine has greeted."""
        try:
            self.lines.wait(lambda: self._ready or None, within, f"{self} did not start")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.stderr()}") from None
        wait_until(lambda: (info := self.info())["connected"] and info["worker_id"], f"{self} is not connected", within)

    def stderr(self) -> str:
        """What the worker has written to its standard error: the SDK's log."""
        return self._stderr.read_text(errors="replace")

    def send(self, command: str, **arguments: Any) -> Answer:
        """Sends a command and does not wait."""
        number = next(self._numbers)
        self._stdin.write(json.dumps({"id": number, "do": command, **arguments}) + "\n")
        self._stdin.flush()
        return Answer(self, number)

    def info(self) -> dict[str, Any]:
        """`connected`, and the `worker_id` that the engine gave to the latest connection."""
        info: dict[str, Any] = self.send("info").result()
        return info

    # Calls ------------------------------------------------------------------------------------------------------------

    def start_call(self, function_id: str, payload: Any = None, **request: Any) -> Answer:
        """Calls a function through the engine without waiting for the result."""
        return self.send("trigger", request={"function_id": function_id, "payload": payload, **request})

    def call(self, function_id: str, payload: Any = None, **request: Any) -> Any:
        """Calls a function through the engine and returns its result (raises as `Answer.result`)."""
        return self.start_call(function_id, payload, **request).result()

    def call_void(self, function_id: str, payload: Any = None) -> None:
        """Calls a function and asks for no answer."""
        self.start_call(function_id, payload, action={"type": "void"}).result()

    def settle(self) -> None:
        """Waits until the engine has seen what this worker has sent: it takes the frames of a connection in order."""
        elsewhere = {"namespace": "default"} if "III_NAMESPACE" in self.environment else {}
        self.call("state::get", {"scope": "settle", "key": self.name}, **elsewhere)

    def same_json(self, result: Any, expected: Any) -> bool:
        """Whether two values have the same JSON text, as far as the engine preserves it: 1 is not 1.0, and order counts."""
        if self.behind_stock and result is ABSENT:
            return expected is None
        return json.dumps(result, sort_keys=self.behind_stock) == json.dumps(expected, sort_keys=self.behind_stock)

    # Functions and triggers -------------------------------------------------------------------------------------------

    def register_function(self, function_id: str, kind: str = "return", **behaviour: Any) -> None:
        """Registers a function that reports its calls and then acts as `worker.py` says; returns null by default."""
        if kind == "return":
            behaviour.setdefault("value", None)
        self.send("register_function", function_id=function_id, behaviour={"kind": kind, **behaviour}).result()
        self.settle()

    def unregister_function(self, function_id: str) -> None:
        self.send("unregister_function", function_id=function_id).result()
        self.settle()

    def register_trigger(self, function_id: str, config: Any, *, name: str = "", **rest: Any) -> None:
        """Registers a state trigger. Under `name` (the function's id by default) it can be unregistered."""
        trigger = {"type": "state", "function_id": function_id, "config": config, **rest}
        self.send("register_trigger", name=name or function_id, trigger=trigger).result()
        self.settle()

    def unregister_trigger(self, name: str) -> None:
        self.send("unregister_trigger", name=name).result()
        self.settle()

    def release(self, function_id: str) -> None:
        """Lets the calls go on that a function of the kind `hold` is holding."""
        assert self.send("release", function_id=function_id).result() > 0

    def calls(self, function_id: str) -> list[Call]:
        """The calls that a function has received so far, in the order in which they came."""
        return list(self._calls.get(function_id, ()))

    def payloads(self, function_id: str) -> list[Any]:
        """What a function has been called with; of events without the id of a worker that brought them, if one did."""
        return [_event(call.payload) for call in self.calls(function_id)]

    def wait_for_calls(self, function_id: str, count: int = 1, within: float = SOON) -> list[Call]:
        """Waits until a function has received `count` calls, and returns all that it has received."""
        return self.lines.wait(
            lambda: calls if len(calls := self.calls(function_id)) >= count else None,
            within,
            f"{self}: not {count} calls of {function_id}",
        )

    # The end ----------------------------------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """Ends it the way the SDK wants it: the connection is closed with code 1000."""
        self.send("shutdown").result()
        self._stdin.close()
        self.process.wait(SOON)

    def kill(self) -> None:
        """Ends it with SIGKILL, and returns when it is gone. Does nothing to one that has ended."""
        self.process.kill()
        self.process.wait()
        self.lines.join()
        self._stdin.close()
        self._home.cleanup()


def _event(payload: Any) -> Any:
    if isinstance(payload, dict) and payload.get("type") == "state":
        return {name: value for name, value in payload.items() if name != "_caller_worker_id"}
    return payload


@contextmanager
def running_worker(
    sdk: Sdk, url: str, name: str, environment: Mapping[str, str] | None = None, *, wait: bool = True, behind_stock: bool = False
) -> Iterator[Worker]:
    """A worker for the length of a `with` block."""
    worker = Worker(sdk, url, name, environment or {}, behind_stock)
    try:
        if wait:
            worker.wait_until_connected()
        yield worker
    finally:
        worker.kill()


def installed(sdk: Sdk) -> Sdk:
    """The SDK, if it can be used here; skips the test otherwise."""
    if reason := sdk.missing():
        pytest.skip(reason)
    return sdk
