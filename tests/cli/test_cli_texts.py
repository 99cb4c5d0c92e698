"""What the command line prints: exact in a pipe, harmless and in good time on a terminal, and one line where it cannot print."""

from __future__ import annotations

import json
import logging
import os
import pty
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from iii_state.cli.terminal import OneLine, exact_name, name, printable
from iii_state.engine import Engine
from tests.support.engines.processes import EngineProcess, running_engine

COMMAND = [sys.executable, "-m", "iii_state"]
CLEARS, TURNS, C1 = "\x1b[2J\x1b]0;pwned\x07", "\u202egnp.exe", "\u009b2J"


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as process:
        yield process


def on_terminal(engine: EngineProcess, *arguments: str, until: str = "", **environment: str) -> str:
    """What a command prints on a terminal, without the colours that it sets: until it ends, or has printed something."""
    ours, theirs = pty.openpty()
    variables = {**os.environ, "III_STATE_URL": engine.url, "TERM": "xterm", "NO_COLOR": "1", "LANG": "C.UTF-8", **environment}
    process = subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=variables)
    os.close(theirs)
    printed = b""
    guard = threading.Timer(60, process.kill)
    guard.start()
    try:
        while not until or until.encode() not in printed:
            try:
                more = os.read(ours, 65536)
            except OSError:  # the terminal's other side is gone
                break
            printed += more
            if not more:
                break
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        os.close(ours)
    return printed.decode(environment.get("PYTHONIOENCODING", "utf-8"))


def in_pipe(engine: EngineProcess, *arguments: str, **environment: str) -> bytes:
    variables = {**os.environ, "III_STATE_URL": engine.url, **environment}
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, env=variables, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout


def in_shell(engine: EngineProcess, command: str) -> subprocess.CompletedProcess[str]:
    """A command of the shell's, in which `iii-state` is ours."""
    ours = " ".join(map(shlex.quote, COMMAND))
    script = f'iii_state() {{ {ours} "$@"; }}; {command}'
    variables = {**os.environ, "III_STATE_URL": engine.url}
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, errors="replace", env=variables, timeout=60, check=False
    )


def is_harmless(printed: str) -> bool:
    return not any(letter in printed for letter in ("\x1b[2J", "\x1b]", "\x07", "\u009b", "\u202e"))


def test_names_and_values_do_nothing_to_a_terminal_and_are_exact_in_a_pipe(engine: EngineProcess) -> None:
    text = CLEARS + TURNS + C1
    in_pipe(engine, "set", text, text, json.dumps(text))
    assert json.loads(in_pipe(engine, "get", text, text)) == text
    assert in_pipe(engine, "keys", text) == text.encode() + b"\n"
    for arguments in (("get", text, text), ("get", text, text, "--json"), ("get", text, "missing"), ("keys", text)):
        printed = on_terminal(engine, *arguments)
        assert is_harmless(printed), repr(printed)
        assert "\\u009b" in printed
    assert json.loads(on_terminal(engine, "get", text, text)) == text


def test_watch_does_nothing_to_a_terminal(engine: EngineProcess) -> None:
    scope = f"watched {CLEARS}"
    done = threading.Event()

    def write() -> None:
        while not done.wait(0.2):
            in_pipe(engine, "set", scope, TURNS, json.dumps(C1))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        printed = on_terminal(engine, "watch", scope, until="updated")
    finally:
        done.set()
        writer.join()
    assert "updated" in printed
    assert is_harmless(printed), repr(printed)


def test_names_that_are_no_line_are_told_from_those_that_look_like_them() -> None:
    names = ["a\nb", '"a\\nb"', "", '""', "a\tb", "a\\nb", "é", "\u202e", CLEARS]
    for shown in (name, exact_name):
        texts = list(map(shown, names))
        assert len(set(texts)) == len(names)
        assert [json.loads(text) if text.startswith('"') else text for text in texts] == names
        assert not any("\n" in text for text in texts)
    assert [exact_name(text) for text in ("é", "\u202e", "a b")] == ["é", "\u202e", "a b"]


def test_a_large_value_is_printed_soon(engine: EngineProcess) -> None:
    value = {f"member {number}": ["x" * 10] * 10 for number in range(10_000)}
    done = subprocess.run(
        [*COMMAND, "set", "large", "k", "-", "--url", engine.url],
        input=json.dumps(value), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert json.loads(on_terminal(engine, "get", "large", "k")) == value  # within its 60 s, of which highlighting took all


def test_an_encoding_that_lacks_a_character_gets_an_escape(engine: EngineProcess) -> None:
    in_pipe(engine, "set", "é", "😀", '"é😀"')
    assert in_pipe(engine, "keys", "é", PYTHONIOENCODING="ascii") == "😀\n".encode()
    for encoding, shown in (("ascii", '"\\u00e9\\ud83d\\ude00"'), ("latin-1", '"é\\ud83d\\ude00"')):
        assert on_terminal(engine, "get", "é", "😀", PYTHONIOENCODING=encoding).strip() == shown
        assert on_terminal(engine, "keys", "é", PYTHONIOENCODING=encoding).strip() == '"\\ud83d\\ude00"'
    assert printable("é😀\n") == "é😀\\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("iii_state get s k >&-", "standard output is closed"),
        ("iii_state lua-load >&-", "standard output is closed"),
        ("iii_state watch >&-", "standard output is closed"),
        ("iii_state get s k >/dev/full", "No space left on device"),
        ("iii_state groups --json >/dev/full", "No space left on device"),
        ("iii_state triggers >/dev/full", "No space left on device"),
        ("iii_state --help >/dev/full", "No space left on device"),
        ("iii_state set s k - <&-", "standard input is closed"),
        ("iii_state watch $'\\xff'", "surrogate"),
        ("iii_state get $'\\xff' k", "surrogate"),
        ("iii_state dead list $'\\xff'", "surrogate"),
        ("iii_state set s k $'\"\\xff\"'", "no JSON"),
    ],
)
def test_what_cannot_be_read_or_written_is_one_line(engine: EngineProcess, command: str, words: str) -> None:
    done = in_shell(engine, command)
    assert done.returncode in (1, 2), done
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("Usage:", "Try ")) and line]
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert done.stdout == ""


def test_a_log_line_is_one_line() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 1, "%s failed", (f"a\nb{CLEARS}{TURNS}",), None)
    line = OneLine("%(levelname)s %(message)s").format(record)
    assert line == "ERROR a\\nb\\u001b[2J\\u001b]0;pwned\\u0007\\u202egnp.exe failed"


@pytest.mark.parametrize("command", ["serve", "attach"])
@pytest.mark.parametrize("arguments", [["--config", f"/nope{CLEARS}"], ["--adapter", CLEARS], [f"--{CLEARS}"], [CLEARS]])
def test_errors_do_nothing_to_a_terminal(engine: EngineProcess, command: str, arguments: list[str]) -> None:
    printed = on_terminal(engine, command, *arguments)
    assert "Error: " in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize("host", ["", " "])
def test_serve_refuses_an_empty_host(host: str) -> None:
    refused = subprocess.run([*COMMAND, "serve", "--host", host], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "Invalid value for '--host': it is empty" in refused.stderr


async def test_an_engine_refuses_an_empty_host() -> None:
    async with Engine() as engine:
        with pytest.raises(ValueError, match="the host is empty"):
            await engine.serve("")
