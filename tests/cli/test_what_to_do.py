"""Errors of the command line say what came, what was expected, and what to do; in one line, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from iii_state.cli import main
from tests.support.certificates import Authority
from tests.support.engines.processes import EngineProcess, free_port, running_engine


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    with running_engine() as process:
        yield process


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    cert, key = Authority(tmp_path_factory.mktemp("tls")).issue("127.0.0.1")
    with running_engine(["--tls-cert", str(cert), "--tls-key", str(key)]) as process:
        yield process


def error(*arguments: str, code: int) -> str:
    """The error of a command that fails: its one line."""
    done = CliRunner().invoke(main, arguments, env={"III_TOKEN": None, "III_STATE_URL": None, "III_URL": None})
    assert done.exit_code == code, done.output
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("Error: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("set", "s", "k", "hello"),
            "Invalid value for VALUE: 'hello' is no JSON: invalid character (byte 0). "
            """A string needs quotes of its own: '"hello"'.""",
        ),
        (("set", "s", "k", '{"a":'), """Invalid value for VALUE: '{"a":' is no JSON: it ends too early."""),
        (("update", "s", "k", "nonsense"), "Invalid value for OPS: 'nonsense' is no JSON: invalid character (byte 4)."),
        (
            ("attach", "ws://:secret@127.0.0.1:1"),
            "unexpected argument ws://***@127.0.0.1:1; an engine is named with --engine: iii-state attach --engine "
            "ws://***@127.0.0.1:1",
        ),
        (("attach", "there"), "unexpected argument there"),
        (
            ("delete", "s", "k", "--if-equals", "ada"),
            "Invalid value for --if-equals: 'ada' is no JSON: invalid character (byte 0). "
            """A string needs quotes of its own: '"ada"'.""",
        ),
        (("--url", "ws://there", "get", "s", "k"), "--url belongs behind the command: iii-state COMMAND --url."),
        (("--nope", "get", "s", "k"), "No such option '--nope'."),
        (("serve", "-v"), "-v belongs before the command: iii-state -v serve."),
        (("get", "--verbose", "s", "k"), "--verbose belongs before the command: iii-state --verbose get."),
        (("triggers", "pause", "-v", "f"), "-v belongs before the command: iii-state -v triggers."),
        (
            ("move", "--from", "redis://localhost", "--to", "localhost:7000"),
            "Invalid value for '--to': it has to begin with redis://, rediss://, redis+sentinel://, rediss+sentinel:// or unix://",
        ),
        (
            ("doctor", "--url", "redis://localhost:6379"),
            "Invalid value for '--url' (env var: 'III_STATE_URL'): it has to be an address like ws://127.0.0.1:49134, not "
            "'redis://localhost:6379'; a Redis is named with --redis-url, by commands that take one",
        ),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], line: str) -> None:
    assert error(*arguments, code=2) == line


def test_a_command_that_is_not_there_names_those_that_are() -> None:
    words = error("xyzzy", code=2)
    assert words.startswith("No such command 'xyzzy'. There are: ")
    assert all(name in words for name in main.commands)
    assert error("dead", "xyzzy", code=2) == "No such command 'xyzzy'. There are: drop, list, retry, show."


def test_nobody_listens() -> None:
    for host in ("127.0.0.1", "localhost"):
        url = f"ws://{host}:{free_port()}"
        expected = f"no iii engine answers at {url}: nobody listens there. Is `iii-state serve` running, on that port?"
        assert error("get", "s", "k", "--url", url, code=1) == expected


def test_tls_where_there_is_none_and_none_where_there_is(engine: EngineProcess, with_tls: EngineProcess) -> None:
    url = engine.url.replace("ws:", "wss:")
    expected = f"no iii engine answers at {url}: it does not speak TLS. Is it {engine.url}?"
    assert error("get", "s", "k", "--url", url, code=1) == expected
    plain = f"ws://127.0.0.1:{with_tls.port}"
    words = error("get", "s", "k", "--url", plain, code=1)
    assert words.startswith(f"no iii engine answers at {plain}: it does not answer as a WebSocket (")
    assert words.endswith("). Is it the port of an engine, or one with TLS (wss://)?")


def test_a_path_that_an_engine_does_not_serve(engine: EngineProcess) -> None:
    words = error("get", "s", "k", "--url", f"{engine.url}/nope", code=1)
    assert words.endswith("it answers with HTTP status 404, not as a WebSocket. Is it the port of an engine?")


def test_a_port_that_is_taken(engine: EngineProcess) -> None:
    for host in ("127.0.0.1", "localhost"):
        assert error("serve", "--host", host, "--port", str(engine.port), code=1) == (
            f"cannot listen on {host}:{engine.port}: another program has this port; stop it, or name another one with --port "
            "(0 takes a free one)"
        )


def test_settings_in_the_wrong_place_are_an_error_for_every_command(tmp_path: Path) -> None:
    """They would not be read: values would be kept in memory."""
    file = tmp_path / "config.yaml"
    file.write_text("adapter:\n  name: redis\n")
    for command in (("config", "check"), ("config", "show"), ("serve", "--port", "0", "--config"), ("attach", "--config")):
        assert error(*command, str(file), code=1) == (
            f"{file}: adapter at the top of the file would not be read; settings belong in `config` of the item "
            "`- name: iii-state` of the list `workers`"
        )


def test_a_bridge_says_once_that_its_engine_is_away() -> None:
    url = f"ws://127.0.0.1:{free_port()}"
    with running_engine(["--bridge-url", url]) as process:
        printed = process.stderr.text()
    assert printed.count("no iii engine answers at") == 1
    assert f"calls wait for the engine at {url}, for 10 s each" in printed


@pytest.mark.parametrize("group", [(), ("dead",), ("config",)])
def test_every_command_is_told_of_in_a_line_that_is_not_cut_off(group: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*group, "--help"], terminal_width=80).stdout
    assert "..." not in shown.split("Commands:")[1]
