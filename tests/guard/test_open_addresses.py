"""Addresses that others can reach: a token is insisted on, by `serve` and by an embedded engine, or a warning is given."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from iii_state.cli import main
from iii_state.engine import Engine
from iii_state.errors import ConfigError
from iii_state.guard import Guard, tokens
from tests.support.engines.processes import EngineProcess


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "0", "::ffff:0.0.0.0"])
async def test_an_embedded_engine_insists_on_a_token(host: str) -> None:
    async with Engine() as engine:
        with pytest.raises((ConfigError, ValueError)) as refused:
            await engine.serve(host, 0)
        assert host == "" or "can be reached by others: give a token" in str(refused.value)
        assert "\n" not in str(refused.value)


async def test_with_a_token_it_listens(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(tokens.make())
    async with Engine(guard=Guard.of({"token_file": str(tmp_path / "token")})) as engine:
        assert (await engine.serve("0.0.0.0", 0))[0] == "0.0.0.0"


async def test_every_loopback_address_needs_none() -> None:
    async with Engine() as engine:
        for host in ("127.0.0.1", "127.0.0.2", "localhost"):
            await engine.serve(host, 0)


async def test_insecure_is_said_at_each_start(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        async with Engine(guard=Guard.of({"insecure": True})) as engine:
            await engine.serve("0.0.0.0", 0)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["insecure: whoever can reach 0.0.0.0 reads and changes everything here, without a token"] * 2


async def test_tokens_cannot_be_taken_from_an_address_that_needs_them(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(tokens.make())
    async with Engine(guard=Guard.of({"token_file": str(tmp_path / "token")})) as engine:
        await engine.serve("0.0.0.0", 0)
        with pytest.raises(ConfigError, match="can be reached by others"):
            await engine.reload_guard(Guard.of({}).settings)
        assert engine.guard.wants_tokens


def test_serve_says_so_in_one_line() -> None:
    for address in (["--host", "0.0.0.0"], ["--host", "::"]):
        done = CliRunner().invoke(main, ["serve", *address, "--port", "0"])
        assert done.exit_code == 1
        assert done.stderr.startswith(f"Error: {address[1]} can be reached by others: give a token (--token-file, tokens_file, ")
        assert done.stderr.count("\n") == 1


def test_serve_listens_with_a_token_or_insecure(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(tokens.make())
    file.chmod(0o600)
    for arguments, environment in (
        (["--token-file", str(file)], {}),
        ([], {"III_STATE_TOKEN": tokens.make()}),
        (["--insecure"], {}),
    ):
        engine = EngineProcess(["--host", "0.0.0.0", *arguments], environment=environment)
        assert engine.stop() == 0
        assert ("insecure: " in engine.stderr.text()) is ("--insecure" in arguments)


@pytest.mark.parametrize("token", ["", " ", "short"])
def test_a_token_in_the_environment_that_cannot_be_used_is_an_error(token: str) -> None:
    done = CliRunner().invoke(main, ["serve", "--port", "0"], env={"III_STATE_TOKEN": token})
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: III_STATE_TOKEN")


def test_the_block_server_of_a_configuration_holds_for_serve_and_options_go_before_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(tokens.make())
    file.chmod(0o600)
    engine = EngineProcess(config={"server": {"host": "0.0.0.0", "token_file": str(file)}})
    assert engine.stop() == 0
    assert "listening on ws://0.0.0.0:" in engine.stderr.text()
    engine = EngineProcess(["--host", "127.0.0.1"], config={"server": {"host": "0.0.0.0"}})
    assert engine.stop() == 0
    assert "listening on ws://127.0.0.1:" in engine.stderr.text()


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ({"hosts": "x"}, "unknown key server.hosts; did you mean server.host?"),
        ({"port": "x"}, "server.port has to be a whole number"),
        ({"allow_origins": "http://x"}, "server.allow_origins has to be a list"),
        ({"allow_origins": ["*"]}, "server.allow_origins[0] has to be an origin such as"),
        ({"allow_origins": ["null"]}, "has to be an origin such as"),
        ({"allow_origins": ["http://x/"]}, "has to be an origin such as"),
        ({"allow_hosts": ["http://x"]}, "server.allow_hosts[0] has to be the name of a host"),
        ({"allow_hosts": ["x:80"]}, "server.allow_hosts[0] has to be the name of a host"),
        ({"allow_hosts": ["*"]}, "server.allow_hosts[0] has to be the name of a host"),
        ({"tls": {"cert": "c"}}, "server.tls.key is missing"),
        ({"limits": {"connections": 0}}, "server.limits.connections has to be"),
        ({"limits": {"message_bytes": 1 << 40}}, "server.limits.message_bytes has to be"),
        ({"limits": {"conections": 1}}, "did you mean server.limits.connections?"),
        ({"token_file": "/nowhere/token"}, "cannot read /nowhere/token"),
        ([], "server has to be a mapping"),
    ],
)
def test_what_a_guard_cannot_use_is_an_error_that_names_the_key(server: object, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Guard.of(server)  # type: ignore[arg-type]
    assert says in str(refused.value).replace("server.: ", "server: ")
