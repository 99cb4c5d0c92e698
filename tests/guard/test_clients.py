"""Our own clients at an engine that wants a token and speaks TLS: the command line, attach, a bridge; and tokens that change."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from iii_state.cli import main
from iii_state.client.address import EngineAddress, shown
from iii_state.client.client import Client
from iii_state.engine import Engine
from iii_state.errors import ConfigError, ConnectionLost
from iii_state.guard import tokens
from iii_state.state.module import StateModule
from tests.support.certificates import Authority
from tests.support.engines.attached import AttachProcess
from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.waiting import wait_until


class Guarded:
    """A process of `serve` with TLS and two tokens, of which the files lie in a folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.authority = Authority(folder)
        certificate, key = self.authority.issue("localhost", "127.0.0.1")
        self.token, self.other = tokens.make(), tokens.make()
        self.tokens_file = folder / "tokens.yaml"
        self.write(self.token, self.other)
        self.token_file = folder / "token"
        self.token_file.write_text(self.token)
        self.token_file.chmod(0o600)
        options = ("--tokens-file", str(self.tokens_file), "--tls-cert", str(certificate), "--tls-key", str(key))
        self.engine = EngineProcess([*options, *arguments])
        self.url = f"wss://localhost:{self.engine.port}"
        self.access = ["--ca-file", str(self.authority.file), "--token-file", str(self.token_file)]

    def write(self, *good: str) -> None:
        entries = [{"name": f"t{number}", "hash": tokens.hashed(token)} for number, token in enumerate(good)]
        self.tokens_file.write_text(yaml.safe_dump({"tokens": entries}))

    def reload(self) -> None:
        """Have the process read its files again, and wait until it has."""
        self.engine.process.send_signal(signal.SIGHUP)

    def address(self, **more: Any) -> EngineAddress:
        return EngineAddress(self.url, **{"ca_file": self.authority.file, "token": self.token, **more})


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    there = Guarded(tmp_path)
    try:
        yield there
    finally:
        there.engine.kill()


def command(*arguments: str, token: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, env={"III_TOKEN": token, "III_STATE_URL": None})


def test_the_command_line_brings_a_token_of_the_environment_or_of_a_file(guarded: Guarded) -> None:
    ca = ["--ca-file", str(guarded.authority.file)]
    done = command("set", "s", "k", "1", "--url", guarded.url, *guarded.access)
    assert (done.exit_code, done.stdout, done.stderr) == (0, '{"old_value":null,"new_value":1}\n', "")
    assert command("get", "s", "k", "--url", guarded.url, *ca, token=guarded.token).stdout == "1\n"
    refused = command("get", "s", "k", "--url", guarded.url, *ca, token=tokens.make())
    assert refused.exit_code == 1
    assert refused.stderr == (
        f"Error: the engine at {guarded.url} lets nobody in without a token that it knows, and that from III_TOKEN "
        "it does not know\n"
    )
    without = command("get", "s", "k", "--url", guarded.url, *ca)
    assert without.stderr == (
        f"Error: the engine at {guarded.url} lets nobody in without a token that it knows: set III_TOKEN, or name a file with "
        "--token-file\n"
    )
    guarded.engine.stderr.wait_for(re.compile("a request from 127.0.0.1 was refused: it brings no token"), 20)
    untrusted = command("get", "s", "k", "--url", guarded.url, token=guarded.token)
    assert "its certificate is not trusted here" in untrusted.stderr
    assert guarded.token not in untrusted.stderr + guarded.engine.stderr.text()


def test_a_token_file_that_cannot_be_used_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "two").write_text("two words")
    for name, says in (("missing", "cannot read"), ("empty", "is empty"), ("two", "holds no token")):
        done = command("get", "s", "k", "--token-file", str(tmp_path / name))
        assert done.exit_code == 1
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
        assert "two words" not in done.stderr


def test_attach_and_bridge_get_in_over_tls_and_come_back_with_a_new_token(tmp_path: Path) -> None:
    """A token is read anew for each connection: the file is all that has to change."""
    there = Guarded(tmp_path, "--no-state")
    attached = AttachProcess(there.url, *there.access, config={})
    try:
        attached.until_attached()
        bridge = {
            "bridge_url": there.url,
            "token_file": str(there.token_file),
            "ca_file": str(there.authority.file),
        }
        with running_engine(config={"adapter": {"name": "bridge", "config": bridge}}) as near:
            assert command("set", "s", "k", "1", "--url", near.url).exit_code == 0
            there.token_file.write_text(there.other)
            there.write(there.other)
            there.reload()
            attached.wait_for("was lost; triggers wait")
            attached.until_attached(2)
            wait_until(lambda: command("get", "s", "k", "--url", near.url).stdout == "1\n", "the bridge did not come back")
            seen = near.stderr.text() + attached.stderr.text() + there.engine.stderr.text()
            assert there.token not in seen
            assert there.other not in seen
            assert "is closed: its token is good no more" in there.engine.stderr.text()
    finally:
        attached.process.kill()
        attached.process.wait()
        there.engine.kill()


def test_a_bad_file_leaves_tokens_as_they_were_and_says_why(guarded: Guarded) -> None:
    guarded.tokens_file.write_text("tokens: [{name: x}]")
    guarded.reload()
    guarded.engine.stderr.wait(
        lambda: "the configuration is as it was: " in guarded.engine.stderr.text() or None, 30, "it says nothing"
    )
    assert command("get", "s", "k", "--url", guarded.url, *guarded.access).exit_code == 0


async def test_a_token_that_is_taken_away_ends_a_living_connection(guarded: Guarded) -> None:
    async with Client(guarded.address()) as client, Client(guarded.address(token=guarded.other)) as other:
        await client.call("state::set", b'{"scope":"s","key":"k","value":1}')
        guarded.write(guarded.other)
        guarded.reload()
        async with asyncio.timeout(30):
            with pytest.raises(ConnectionLost):
                await client.closed()
        assert await other.call("state::get", b'{"scope":"s","key":"k"}') == b"1"
    with pytest.raises(ConnectionLost, match="a token that it knows"):
        await Client(guarded.address()).__aenter__()


@pytest.mark.parametrize("file", ["token_file", "ca_file"])
async def test_a_bridge_does_not_start_with_files_that_cannot_be_used(tmp_path: Path, file: str) -> None:
    settings = {"bridge_url": "wss://localhost:1", file: str(tmp_path / "missing")}
    async with Engine() as engine:
        with pytest.raises(ConfigError, match="missing"):
            await engine.add_module(StateModule({"adapter": {"name": "bridge", "config": settings}}))
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@pytest.mark.parametrize("bad", ["a\r\nX: y", "two words", "ü", "\x00"])
async def test_a_token_that_would_break_the_handshake_is_refused_and_not_quoted(bad: str) -> None:
    with pytest.raises(ConfigError) as refused:
        await Client(EngineAddress("ws://localhost:1", token=bad)).__aenter__()
    assert bad not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("ws://h:1/?access_token=secret&x=1", "ws://h:1/?access_token=***&x=***"),
        ("ws://secret:secret@h:1", "ws://***@h:1"),
        ("wss://h?secret", "wss://h?***"),
        ("ws://h/#secret", "ws://h/"),
        ("ws://[secret", "(no URL)"),
        ("ws://h:1", "ws://h:1"),
    ],
)
async def test_a_url_is_shown_without_what_is_secret_in_it(url: str, seen: str) -> None:
    assert shown(url) == seen
    address = EngineAddress(url, token="iii_secret")
    assert "secret" not in f"{address} {address!r} {Client(address).url}"


def test_an_address_with_a_token_gets_in_and_is_not_shown(guarded: Guarded) -> None:
    ca = ["--ca-file", str(guarded.authority.file)]
    assert command("get", "s", "k", "--url", f"{guarded.url}/?access_token={guarded.token}", *ca).exit_code == 0
    refused = command("get", "s", "k", "--url", f"{guarded.url}/?access_token={guarded.token}x", *ca)
    assert refused.exit_code == 1
    assert guarded.token not in refused.stderr
    nowhere = command("get", "s", "k", "--url", f"ws://me:{guarded.token}@127.0.0.1:1/?access_token={guarded.token}")
    assert nowhere.exit_code == 1
    assert guarded.token not in nowhere.stderr
    wrong = command("get", "s", "k", "--url", f"tcp://me:{guarded.token}@127.0.0.1:1")
    assert wrong.exit_code == 2
    assert guarded.token not in wrong.stderr


def test_a_token_is_made_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    printed = command("token", "ci").stdout
    made = printed.splitlines()[1].removeprefix("# ")
    (tmp_path / "tokens.yaml").write_text(printed)
    (entry,) = tokens.read_tokens(tmp_path / "tokens.yaml")
    assert (entry.name, entry.credential, entry.rights) == ("ci", tokens.hashed(made), None)
    file = tmp_path / "made"
    quiet = command("token", 'a "name": [', "--out", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    (tmp_path / "tokens.yaml").write_text(quiet.stdout)
    (entry,) = tokens.read_tokens(tmp_path / "tokens.yaml")
    assert (entry.name, entry.credential) == ('a "name": [', tokens.hashed(tokens.read_token(file)))
    assert tokens.read_token(file) not in quiet.stdout
    before = file.read_text()
    again = command("token", "ci", "--out", str(file))
    assert (again.exit_code, file.read_text()) == (1, before)
    assert command("token", " ").exit_code == 2
