"""The benchmark runs, measures every section, and counts what it should. No test here looks at a time."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import benchmarks
import pytest
from benchmarks import frames
from benchmarks.callers import Caller
from benchmarks.report import Target, bar, number
from benchmarks.sections import SECTIONS

import iii_state
from tests.support import ROOT

BENCH = ROOT / "scripts" / "bench"
SMALLEST = ("--quick", "--runs", "1", "--seconds", "0.05", "--callers", "1,8", "--many", "20")
ON_REDIS = [name for name in SECTIONS if name.startswith("redis-")]
EVENTS_ON_REDIS = ON_REDIS[ON_REDIS.index("redis-latency") :]
THE_ENGINE_IS_THERE = hasattr(iii_state, "Engine") and importlib.util.find_spec("iii_state.__main__") is not None


def run(*arguments: str) -> str:
    environment = {**os.environ, "III_PYTHON": sys.executable}
    done = subprocess.run([BENCH, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_map_of_the_benchmark_names_every_section_and_module() -> None:
    told = benchmarks.__doc__ or ""
    modules = [path.stem for path in (ROOT / "scripts" / "benchmarks").glob("*.py") if path.stem != "__init__"]
    assert [name for name in modules if f"`{name}`" not in told] == []
    rows = [line.split("|")[1] for line in told.splitlines() if line.startswith("| ")][1:]
    assert sorted(name.strip() for row in rows for name in row.split(",")) == sorted(SECTIONS)


def test_the_sketch_alone_is_measured_without_errors() -> None:
    told = json.loads(run(*SMALLEST, "--sketch-only", "--json", "-"))
    sections: dict[str, Any] = {section["name"]: section for section in told["sections"]}
    assert list(sections) == list(SECTIONS)
    assert not any(section["errors"] for section in sections.values())
    rows = [row for table in sections["socket"]["tables"] for row in table["rows"]]
    assert {(row[1], row[2]) for row in rows} == {(1, "sketch"), (8, "sketch")}
    assert all(section["skipped"] for section in sections.values())


@pytest.mark.slow
@pytest.mark.skipif(not THE_ENGINE_IS_THERE, reason="no engine to measure yet")
def test_ours_is_measured_in_every_section_without_errors() -> None:
    sections = [name for name in SECTIONS if name not in ON_REDIS]
    told = json.loads(run(*SMALLEST, *sections, "--json", "-"))
    assert [section["name"] for section in told["sections"]] == sections
    for section in told["sections"]:
        assert section["skipped"] is None
        assert section["errors"] == 0
        assert section["tables"][0]["rows"]
        assert all(target["got"] is not None for target in section["targets"])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("redis-server"), reason="no redis-server")
@pytest.mark.parametrize("sections", [ON_REDIS[: -len(EVENTS_ON_REDIS)], EVENTS_ON_REDIS], ids=["calls", "events"])
def test_ours_on_redis_is_measured_in_every_table_without_errors(sections: list[str]) -> None:
    told = json.loads(run(*SMALLEST, *sections, "--json", "-"))
    titles = {section["name"]: [table["title"] for table in section["tables"]] for section in told["sections"]}
    assert list(titles) == sections
    if "redis-calls" in titles:
        assert [title.split()[0] for title in titles["redis-calls"]] == ["update", "set", "get"]
    assert all(len(found) == 1 for name, found in titles.items() if name != "redis-calls")
    for section in told["sections"]:
        assert section["skipped"] is None
        assert section["errors"] == 0
        assert all(table["rows"] for table in section["tables"])
        assert any("█" in str(row[-1]) for table in section["tables"] for row in table["rows"])
        assert all(target["got"] is not None for target in section["targets"])


def test_without_a_redis_server_its_sections_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tmp_path))
    told = json.loads(run(*SMALLEST, *ON_REDIS, "--json", "-"))
    assert all("no redis-server" in section["skipped"] for section in told["sections"])


def test_a_pipe_gets_plain_tables_and_verdicts() -> None:
    told = run(*SMALLEST, "--sketch-only", "socket")
    assert "\x1b" not in told
    assert "## Calls through the socket (socket)" in told
    assert "host\tcalls/s" in told


@pytest.mark.parametrize("size", [40, 100, 1000, 10_000])
def test_a_document_has_the_size_that_was_asked_for(size: int) -> None:
    text = frames.document(size)
    assert len(text) == size
    assert list(json.loads(text))[-1] == "visits"


class _Transport(asyncio.Transport):
    """Remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def server_frame(payload: bytes, first: int = 0x81) -> bytes:
    masked = frames.client_frame(payload)
    head = masked[: len(masked) - len(payload) - 4]
    return bytes((first, head[1] & 0x7F)) + head[2:] + payload


def answers(lengths: list[int]) -> bytes:
    return b"".join(server_frame(b'{"type":"invocationresult"%s}' % (b" " * n)) for n in lengths)


async def counting_caller(calls: int) -> tuple[Caller, _Transport]:
    caller, transport = Caller("host"), _Transport()
    caller.connection_made(transport)
    caller.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    caller.start(frames.ring("get", 100, calls, 0), calls, calls)
    return caller, transport


async def test_answers_are_counted_wherever_a_read_ends() -> None:
    stream = answers([0, 80, 120, 300]) + server_frame(b"are you there", 0x89) + answers([5, 400])
    for first in range(1, len(stream)):
        for second in {first, min(first + 1, len(stream)), min(first + 7, len(stream))}:
            caller, transport = await counting_caller(6)
            for part in (stream[:first], stream[first:second], stream[second:]):
                if part:
                    caller.data_received(part)
            assert caller.done == 6, (first, second)
            assert b"are you there" in transport.written[-1]


async def test_a_large_answer_is_counted_once_when_it_is_complete() -> None:
    stream = answers([70_000, 0])
    caller, _ = await counting_caller(2)
    for at in range(0, len(stream), 9_999):
        assert caller.done < 2
        caller.data_received(stream[at : at + 9_999])
    assert caller.done == 2
    assert await caller.finished() == 0


async def test_an_error_among_answers_is_noticed() -> None:
    caller, _ = await counting_caller(3)
    error = server_frame(b'{"type":"invocationresult","error":{"code":"SET_ERROR","message":"full"}}')
    caller.data_received(answers([10, 5000]) + error)
    assert (caller.done, caller.errors) == (3, 1)


def test_a_verdict_says_by_how_much_a_target_is_missed() -> None:
    assert Target("calls", 100, 110, "calls/s").verdict == "met"
    assert Target("calls", 100, 80, "calls/s").verdict == "missed by 20%"
    assert Target("latency", 0.25, 0.5, "ms", at_most=True).verdict == "missed by 100%"
    assert Target("latency", 0.25, None, "ms", at_most=True).verdict == "not measured"


def test_bars_and_numbers_read_well() -> None:
    assert bar(1, 2, 4) == "██"
    assert bar(3, 16, 2) == "▍"
    assert bar(5, 0) == ""
    assert [number(n) for n in (123456.7, 12.34, 1.234, 0.1234, 7, None)] == [
        "123,457",
        "12.3",
        "1.23",
        "0.123",
        "7",
        "–",
    ]
