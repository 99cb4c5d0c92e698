"""`serve` and `attach` let a handler finish at the first SIGTERM or Ctrl-C, and end at once at the second."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from iii_state.client.client import Client
from tests.support.engines.attached import attached
from tests.support.engines.processes import EngineProcess, Process, running_engine

SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def end_twice(url: str, process: Process, first: signal.Signals, second: signal.Signals) -> None:
    """Signal a process whose handler runs, see that it waits for the handler, and signal it again."""
    running = asyncio.Event()

    def hold(data: object, metadata: object) -> asyncio.Future[bytes | None]:
        running.set()
        return asyncio.get_running_loop().create_future()

    async with Client(url, call_seconds=10) as client:
        client.serving.register_listener("hold", hold, "never answers")
        await client.triggers.register("state", "hold", {})
        await client.call("state::set", b'{"scope":"s","key":"k","value":1}')
        await asyncio.wait_for(running.wait(), 10)
        process.send_signal(first)
        with pytest.raises(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, 1)
        process.send_signal(second)
        code = await asyncio.to_thread(process.wait, 5)
    assert code == -second


@pytest.mark.parametrize(("first", "second"), [SIGNALS, SIGNALS[:1] * 2, SIGNALS[1:] * 2], ids=["both", "SIGTERM", "SIGINT"])
def test_serve(tmp_path: Path, first: signal.Signals, second: signal.Signals) -> None:
    with running_engine(["--file-path", str(tmp_path / "store")]) as engine:
        asyncio.run(end_twice(engine.url, engine.process, first, second))
        assert "Traceback" not in engine.stderr.text()
    with running_engine(["--file-path", str(tmp_path / "store")]) as engine:
        assert stored(engine) == b"1"


def test_attach(tmp_path: Path) -> None:
    with running_engine(["--no-state"]) as engine, attached(engine.url, "--file-path", str(tmp_path / "store")) as state:
        state.until_attached()
        asyncio.run(end_twice(engine.url, state.process, *SIGNALS))
        assert "Traceback" not in state.stderr.text()
    with running_engine(["--file-path", str(tmp_path / "store")]) as engine:
        assert stored(engine) == b"1"


def stored(engine: EngineProcess) -> bytes | None:
    async def ask(get: Callable[[Client], asyncio.Future[bytes | None]]) -> bytes | None:
        async with Client(engine.url) as client:
            return await get(client)

    return asyncio.run(ask(lambda client: client.call("state::get", b'{"scope":"s","key":"k"}')))


async def _end_with_both_at_once(engine: EngineProcess) -> int:
    running = asyncio.Event()

    def hold(data: object, metadata: object) -> asyncio.Future[bytes | None]:
        running.set()
        return asyncio.get_running_loop().create_future()

    async with Client(engine.url, call_seconds=10) as client:
        client.serving.register_listener("hold", hold, "never answers")
        await client.triggers.register("state", "hold", {})
        await client.call("state::set", b'{"scope":"s","key":"k","value":1}')
        await asyncio.wait_for(running.wait(), 10)
        engine.process.send_signal(signal.SIGSTOP)  # so that it finds both
        for number in SIGNALS:
            engine.process.send_signal(number)
        engine.process.send_signal(signal.SIGCONT)
        return await asyncio.to_thread(engine.process.wait, 5)


def test_two_signals_in_the_same_instant_end_it_at_once(tmp_path: Path) -> None:
    with running_engine(["--file-path", str(tmp_path / "store")]) as engine:
        assert -asyncio.run(_end_with_both_at_once(engine)) in SIGNALS
        assert "Traceback" not in engine.stderr.text()
