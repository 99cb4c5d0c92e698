"""The examples of the page `guard` are run, and do what the page says."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from iii_state import config
from iii_state.cli import main
from iii_state.guard import tokens
from iii_state.state.module import StateModule
from tests.support import ROOT
from tests.support.certificates import Authority
from tests.support.engines.processes import running_engine

PAGE = (files("iii_state") / "docs" / "guard.md").read_text(encoding="utf-8")
BLOCKS = {(kind, name): text for kind, name, text in re.findall(r"<!-- (\w+): ([\w.]+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)}


class Folder:
    """The files that the page speaks of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.authority, self.clients = Authority(path, "ca"), Authority(path, "clients")
        for issued, name in (
            (self.authority.issue("localhost", "127.0.0.1"), "cert"),
            (self.clients.issue("web.example.com"), "web"),
        ):
            for source, suffix in zip(issued, ("pem", "key"), strict=True):
                (path / f"{name}.{suffix}").write_bytes(source.read_bytes())
                (path / f"{name}.{suffix}").chmod(0o600)
        (path / "key.pem").write_bytes((path / "cert.key").read_bytes())
        (path / "key.pem").chmod(0o600)
        self.token = tokens.make()
        (path / "ci.token").write_text(self.token)
        (path / "ci.token").chmod(0o600)
        entries = [{"name": "ci", "hash": tokens.hashed(self.token)}, {"name": "web", "certificate": "web.example.com"}]
        (path / "tokens.yaml").write_text(yaml.safe_dump({"tokens": entries}))

    def placed(self, text: str) -> str:
        """The text with the paths of these files."""
        names = "|".join(re.escape(file.name) for file in self.path.iterdir())
        return re.sub(rf"(?<![\w./-])({names})(?![\w.])", lambda found: str(self.path / found[1]), text)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def named(kind: str) -> list[str]:
    return [name for found, name in BLOCKS if found == kind]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {kind for kind, _ in BLOCKS} == {"serve", "token", "tokens", "console", "config", "client", "example", "shell"}
    assert PAGE.count("```") == 2 * len(BLOCKS)


@pytest.mark.parametrize("name", named("serve"))
def test_an_engine_starts_as_the_page_says(folder: Folder, name: str) -> None:
    program, command, *arguments = shlex.split(folder.placed(BLOCKS["serve", name]), comments=True)
    assert (program, command) == ("iii-state", "serve")
    with running_engine(arguments) as engine:
        assert engine.url.startswith("wss://" if name in ("tls", "lan") else "ws://")
        assert ("insecure: " in engine.stderr.text()) is (name == "insecure")
        assert "can be read by every user" not in engine.stderr.text()


@pytest.mark.parametrize("name", named("tokens"))
def test_a_tokens_file_is_read_as_the_page_says(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokens.yaml").write_text(BLOCKS["tokens", name])
    found = tokens.read_tokens(tmp_path / "tokens.yaml")
    names = {"one": ["ci"], "rights": ["reports", "web"], "orders": ["orders"], "limits": ["ci"]}
    assert [entry.name for entry in found] == names[name]
    if name == "rights":
        rights = found[0].rights
        assert rights is not None
        assert rights.allows_scope("reports/2026")
        assert not rights.allows_scope("users")
        assert found[1].credential == "certificate:web.example.com"


def test_a_token_is_made_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(BLOCKS["token", "ci"], comments=True)
    assert program == "iii-state"
    done = CliRunner().invoke(main, arguments)
    shape = re.sub(r"[0-9a-f]{64}", "HASH", done.stdout)
    assert shape == re.sub(r"[0-9a-f]{64}", "HASH", BLOCKS["tokens", "one"])
    (entry,) = yaml.safe_load(done.stdout)["tokens"]
    assert entry["hash"] == tokens.hashed(tokens.read_token(tmp_path / "ci.token"))


def test_an_engine_for_a_network_is_made_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def here(kind: str) -> str:
        return str(BLOCKS[kind, "lan"]).replace("192.168.1.10", "127.0.0.1")

    made = here("shell").replace("iii-state", f"{sys.executable} -m iii_state", 1)
    subprocess.run(["bash", "-ec", made], check=True, capture_output=True, timeout=60)
    files = {word: str(tmp_path / word) for word in ("data", "tokens.yaml", "cert.pem", "key.pem")}
    _, _, *arguments = (files.get(word.removeprefix("./"), word) for word in shlex.split(here("serve")))
    with running_engine(arguments) as engine:
        assert "can be read by every user" not in engine.stderr.text()
        program, *client = shlex.split(here("client").replace("49134", str(engine.port)))
        done = CliRunner().invoke(main, client, env={"III_TOKEN": None})
        assert (program, done.exit_code, done.output) == ("iii-state", 0, "null\n")
        without = [word for word in client if word not in ("--token-file", "team.token")]
        assert CliRunner().invoke(main, without, env={"III_TOKEN": None}).exit_code == 1


_WORKERS = {
    "python": """
import os, sys
from iii import InitOptions, register_worker
iii = register_worker(sys.argv[1], InitOptions(worker_name="w"))
print(iii.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": "k", "value": 1}})["new_value"])
iii.shutdown()
""",
    "node": """
import { registerWorker } from "iii-sdk";
const headers = { Authorization: "Bearer " + process.env.III_TOKEN };
const iii = registerWorker(process.argv[2], { workerName: "w", headers, otel: { enabled: false } });
console.log((await iii.trigger({ function_id: "state::set", payload: { scope: "s", key: "k", value: 1 } })).new_value);
process.exit(0);
""",
}


@pytest.mark.parametrize(("kind", "variable"), [("python", "SSL_CERT_FILE"), ("node", "NODE_EXTRA_CA_CERTS")])
def test_a_worker_trusts_the_certificate_that_its_environment_names(folder: Folder, kind: str, variable: str) -> None:
    assert f"`{variable}=cert.pem`" in PAGE
    sdk = ROOT / ".cache" / "sdks" / {"python": "python-0.25.0", "node": "node-0.22.1"}[kind]
    program = str(sdk / "bin" / "python") if kind == "python" else shutil.which("node")
    if not sdk.exists() or program is None:
        pytest.skip("the official SDK is not installed; scripts/test installs it")
    source = folder.path / ("worker.py" if kind == "python" else "worker.mjs")
    source.write_text(_WORKERS[kind])
    if kind == "node":
        (folder.path / "node_modules").symlink_to((sdk / "node_modules").resolve())
    arguments = shlex.split(folder.placed("--tokens-file tokens.yaml --tls-cert cert.pem --tls-key key.pem"))
    with running_engine(arguments) as engine:
        given = {"PATH": "/usr/bin:/bin", "III_TOKEN": folder.token, variable: str(folder.authority.file)}
        url = engine.url.replace("127.0.0.1", "localhost")
        done = subprocess.run([program, source, url], capture_output=True, text=True, env=given, timeout=60, check=False)
        assert done.stdout.splitlines()[-1:] == ["1"], done.stderr


def test_commands_answer_as_the_page_says(folder: Folder) -> None:
    typed = re.findall(r"^\$ iii-state (.*)\n(.*)\n", BLOCKS["console", "token"], re.MULTILINE)
    assert len(typed) == 2
    with running_engine(["--token-file", str(folder.path / "ci.token")]) as engine:
        for command, answer in typed:
            done = CliRunner().invoke(
                main, shlex.split(folder.placed(command)), env={"III_STATE_URL": engine.url, "III_TOKEN": None}
            )
            assert done.output.strip() == answer.replace("ws://127.0.0.1:49134", engine.url)


def test_rights_hold_as_the_page_says(folder: Folder) -> None:
    (entry,) = yaml.safe_load(BLOCKS["tokens", "orders"])["tokens"]
    entry["hash"] = tokens.hashed(folder.token)
    (folder.path / "tokens.yaml").write_text(yaml.safe_dump({"tokens": [entry]}))
    typed = re.findall(r"^\$ iii-state (.*)\n(.*)\n", BLOCKS["console", "rights"], re.MULTILINE)
    assert len(typed) == 4
    with running_engine(["--tokens-file", str(folder.path / "tokens.yaml")]) as engine:
        for command, answer in typed:
            given = {"III_STATE_URL": engine.url, "III_TOKEN": folder.token}
            assert CliRunner().invoke(main, shlex.split(command), env=given).output.strip() == answer


def test_a_configuration_is_checked_as_the_page_says(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path)
    Path("config.yaml").write_text(yaml.safe_dump({"workers": [{"name": "iii-state", "config": {"log_level": "info"}}]}))
    ((command, answer),) = re.findall(r"^\$ iii-state (.*)\n(.*)\n", BLOCKS["console", "config"], re.MULTILINE)
    assert CliRunner().invoke(main, shlex.split(command)).output.strip() == answer


def test_a_client_with_a_certificate_gets_in_as_the_page_says(folder: Folder) -> None:
    block = yaml.safe_load(folder.placed(BLOCKS["config", "tls"]))
    with running_engine(config=block) as engine:
        program, *arguments = shlex.split(folder.placed(BLOCKS["client", "tls"]))
        assert program == "iii-state"
        url = f"wss://localhost:{engine.port}"
        given = [url if word == "wss://localhost:49134" else word for word in arguments]
        assert url in given
        done = CliRunner().invoke(main, given, env={"III_TOKEN": None})
        assert (done.exit_code, done.stdout) == (0, "null\n")


@pytest.mark.parametrize("name", ["bridge", "redis"])
def test_what_the_page_says_of_adapters_can_be_configured(folder: Folder, name: str) -> None:
    given = config.expand(yaml.safe_load(folder.placed(BLOCKS["config", name])), {})
    StateModule(given)


async def test_a_program_guards_its_engine_as_the_page_says(folder: Folder) -> None:
    source = folder.path / "guard.py"
    source.write_text(BLOCKS["example", "guard.py"])
    run = [sys.executable, str(source)]
    done = await asyncio.to_thread(subprocess.run, run, cwd=folder.path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "open to those who have a token\n"), done.stderr
