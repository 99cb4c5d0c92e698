"""A process that begins as a fork behaves like one that begins from nothing."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.engines.processes import IN_PYTHON, Process
from tests.support.engines.warm import IS_POSSIBLE, start_warm

SECONDS = 30.0

Start = Callable[..., Process]


def from_nothing(*arguments: str, folder: Path, **environment: str) -> Process:
    return subprocess.Popen(
        [*IN_PYTHON, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def warm(*arguments: str, folder: Path, **environment: str) -> Process:
    return start_warm(arguments, str(folder), {**os.environ, **environment})


@pytest.fixture(params=[from_nothing, warm])
def start(request: pytest.FixtureRequest) -> Start:
    if request.param is warm and not IS_POSSIBLE:
        pytest.skip("processes are forked on Linux only")
    start: Start = request.param
    return start


def said(process: Process) -> str:
    assert process.stderr is not None
    with process.stderr as pipe:
        text: str = pipe.read()
    return text


def listening(start: Start, folder: Path) -> Process:
    process = start("serve", "--port", "0", folder=folder)
    assert process.stderr is not None
    assert "listening on" in process.stderr.readline()
    return process


def test_an_exit_code_and_words_come_through(start: Start, tmp_path: Path) -> None:
    process = start("serve", "--port", "none", folder=tmp_path)
    assert process.wait(SECONDS) == 2
    assert "Invalid value for '--port'" in said(process)
    assert process.poll() == process.returncode == 2


def test_it_has_its_own_folder_and_environment(start: Start, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("workers: [{name: iii-state, config: {adapter: {name: '${KIND}'}}}]")
    process = start("serve", "--port", "0", "--config", "config.yaml", folder=tmp_path, KIND="odd")
    assert process.wait(SECONDS) != 0
    assert "odd" in said(process)


def test_it_is_killed_alone(start: Start, tmp_path: Path) -> None:
    one, other = listening(start, tmp_path), listening(start, tmp_path)
    one.kill()
    assert one.wait(SECONDS) == -signal.SIGKILL
    assert other.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(0.05)
    other.terminate()
    assert other.wait(SECONDS) == 0
    other.kill()  # does nothing
    said(one)
    said(other)


def test_an_interrupt_ends_it(start: Start, tmp_path: Path) -> None:
    process = listening(start, tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 0
    said(process)
