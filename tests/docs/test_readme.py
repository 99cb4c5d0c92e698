"""The examples of the README and of the pages, run as written."""

from __future__ import annotations

import asyncio
import re
import shlex
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from iii_state import Engine, StateModule
from iii_state.cli import main
from tests.docs.test_skills import WITHOUT_DEPRECATED
from tests.support import ROOT
from tests.support.engines.attached import attached
from tests.support.engines.processes import free_port, running_engine
from tests.support.metrics import program
from tests.support.redis.nodes import cluster_nodes
from tests.support.redis.sentinels import sentinel_group
from tests.support.redis.server import RedisServer

PAGES = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "iii_state" / "docs").glob("*.md")))]
SDK_PYTHON = ROOT / ".cache" / "sdks" / "python-0.25.0" / "bin" / "python"


def block(kind: str, name: str) -> str:
    marked = rf"<!-- {kind}: {re.escape(name)} -->\n```\w+\n(.*?)```"
    (found,) = (text for page in PAGES for text in re.findall(marked, page, re.DOTALL))
    return str(found)


def run(python: str | Path, path: Path, source: str) -> list[str]:
    path.write_text(source, encoding="utf-8")
    command = [python, *WITHOUT_DEPRECATED, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_first_example_prints_what_its_page_says(tmp_path: Path) -> None:
    if not SDK_PYTHON.exists():
        pytest.skip("the official SDK is not installed; scripts/test installs it")
    with running_engine() as engine:
        source = block("example", "orders.py").replace("ws://127.0.0.1:49134", engine.url)
        printed = run(SDK_PYTHON, tmp_path / "orders.py", source)
    assert printed == block("output", "orders.py").splitlines()


@pytest.mark.parametrize("engines", ["engines", "sentinels", "nodes"])
def test_the_second_example_two_engines_and_two_workers_are_one(engines: str, tmp_path: Path) -> None:
    if not SDK_PYTHON.exists():
        pytest.skip("the official SDK is not installed; scripts/test installs it")
    with ExitStack() as running:
        if engines == "sentinels":
            sentinels = "redis+sentinel://localhost:26379,localhost:26380,localhost:26381/mymaster"
            places = {sentinels: running.enter_context(sentinel_group()).url}
        elif engines == "nodes":
            nodes = running.enter_context(cluster_nodes(replicas=0))
            places = {"redis://localhost:7000,localhost:7001": nodes.seeds, "redis://localhost:7000": nodes.url}
        else:
            places = {"redis://localhost:6379": running.enter_context(RedisServer()).url}
        places["/tmp/orders/bin/python"] = str(SDK_PYTHON)
        places |= {port: str(free_port()) for port in ("49134", "49135")}

        def commands(name: str) -> list[str]:
            text = re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], block("commands", name))
            return text.splitlines()

        for command in commands(engines):
            program, *arguments = shlex.split(command)
            assert program == "scripts/serve"
            running.enter_context(running_engine(arguments))
        (tmp_path / "fleet.py").write_text(block("example", "fleet.py"), encoding="utf-8")
        shell = ["bash", "-ec", "\n".join(commands("fleet"))]
        workers = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert (workers.returncode, sorted(workers.stdout.splitlines())) == (0, block("output", "fleet.py").splitlines()), workers


@pytest.mark.parametrize("desk", ["sentinels", pytest.param("nodes", marks=pytest.mark.slow)])
def test_what_a_page_starts_on_a_desk_is_what_its_commands_want(desk: str, tmp_path: Path) -> None:
    script = block("shell", "sentinels") if desk == "sentinels" else block("shell", "nodes")
    ports = {port: str(port_with_a_bus()) for port in dict.fromkeys(re.findall(r"\b(?:263|638|700)\d+\b", script))}
    here = {**ports, "/tmp/sentinels": str(tmp_path), "/tmp/cluster": str(tmp_path)}

    def elsewhere(text: str) -> str:
        return re.sub("|".join(map(re.escape, here)), lambda found: here[found[0]], text)

    try:
        done = subprocess.run(["bash", "-ec", elsewhere(script)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done
        for command in block("commands", desk).splitlines():
            url = shlex.split(elsewhere(command))[2]
            with running_engine(["--redis-url", url]) as engine:
                written = CliRunner().invoke(main, ["set", "orders", "o1", "1", "--url", engine.url])
            assert written.exit_code == 0, written.output
    finally:
        for port in ports.values():
            subprocess.run(["redis-cli", "-p", port, "shutdown", "nosave"], capture_output=True, timeout=20, check=False)


def port_with_a_bus() -> int:
    """A free port of a node, whose bus, 10,000 further on, is free as well."""
    while True:
        port = free_port()
        with socket.socket() as bus:
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        return port


def test_the_attached_workers_print_what_their_page_says_and_serve_the_first_example(tmp_path: Path) -> None:
    if not SDK_PYTHON.exists():
        pytest.skip("the official SDK is not installed; scripts/test installs it")
    with RedisServer() as server, running_engine(["--no-state"]) as engine, ExitStack() as running:
        places = {"redis://localhost:6379": server.url, "ws://127.0.0.1:49134": engine.url}

        def here(text: str) -> str:
            return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], text)

        processes = []
        for command, line in zip(block("commands", "attach").splitlines(), block("output", "attach").splitlines(), strict=True):
            program, subcommand, option, url, *arguments = shlex.split(here(command))
            assert (program, subcommand, option) == (".venv/bin/iii-state", "attach", "--engine")
            processes.append(running.enter_context(attached(url, *arguments)))
            processes[-1].wait_for(f"{here(line)}\n")
        source = here(block("example", "orders.py"))
        assert run(SDK_PYTHON, tmp_path / "orders.py", source) == block("output", "orders.py").splitlines()
        processes[0].kill()
        processes[1].until_attached()
        assert run(SDK_PYTHON, tmp_path / "orders.py", source) == block("output", "orders.py").splitlines()


def test_the_embedded_example_prints_what_its_page_says(tmp_path: Path) -> None:
    printed = run(sys.executable, tmp_path / "embedded.py", block("example", "embedded.py"))
    assert printed == block("output", "embedded.py").splitlines()


def test_the_traced_example_prints_what_its_page_says(tmp_path: Path) -> None:
    printed = run(sys.executable, tmp_path / "traces.py", block("example", "traces.py"))
    assert printed == block("output", "traces.py").splitlines()


def test_the_typed_example_prints_what_its_page_says(tmp_path: Path) -> None:
    printed = run(sys.executable, tmp_path / "typed.py", block("example", "typed.py"))
    assert printed == block("output", "typed.py").splitlines()


def test_the_bridge_example_prints_what_its_page_says(tmp_path: Path) -> None:
    printed = run(sys.executable, tmp_path / "bridge.py", block("example", "bridge.py"))
    assert printed == block("output", "bridge.py").splitlines()


def test_the_command_line_examples_print_what_their_page_says() -> None:
    script: list[tuple[str, str]] = []
    for line in block("console", "data").splitlines():
        if line.startswith("$ "):
            script.append((line[2:], ""))
        else:
            command, output = script[-1]
            script[-1] = command, output + line + "\n"
    with running_engine() as engine:
        for command, output in script:
            if "watch" in command:
                continue
            shell = command.replace("iii-state ", f"{sys.executable} -m iii_state ", 1)
            environment = {"III_STATE_URL": engine.url, "PATH": "/usr/bin:/bin"}
            done = subprocess.run(shell, shell=True, capture_output=True, text=True, env=environment, timeout=60, check=False)
            assert (done.stdout, done.stderr) == (output, ""), command


async def test_an_alert_finds_loops_and_dead_letters() -> None:
    async with Engine() as engine:
        await engine.add_module(StateModule({"dispatch": {"max_attempts": 1}}))
        host, port = await engine.serve("127.0.0.1", 0)
        environment = {"III_STATE_URL": f"ws://{host}:{port}", "PATH": "/usr/bin:/bin"}
        shell = block("shell", "alerts").replace("iii-state", f"{sys.executable} -m iii_state", 1)

        async def alert() -> tuple[int, str]:
            process = await asyncio.create_subprocess_shell(shell, stdout=PIPE, stderr=PIPE, env=environment)
            printed, said = await asyncio.wait_for(process.communicate(), 60)
            assert said == b""
            assert process.returncode is not None
            return process.returncode, printed.decode()

        async def state(function: str, **payload: Any) -> None:
            await engine.trigger({"function_id": f"state::{function}", "payload": payload})

        async def counts(event: Any) -> None:
            await state("update", scope="loop", key="k", ops=[{"type": "increment", "path": "n", "by": 1}])

        def fails(event: Any) -> None:
            raise RuntimeError("no")

        for function, scope in ((counts, "loop"), (fails, "dead")):
            engine.register_function(function.__name__, function)
            config = {"type": "state", "function_id": function.__name__, "config": {"scope": scope}}
            await engine.register_trigger(config)
        assert await alert() == (1, "")
        await state("set", scope="dead", key="k", value=1)
        async with asyncio.timeout(20):
            while (await alert())[0] != 0:
                pass
        await engine.trigger({"function_id": "iii-state::dead_drop", "payload": {"function_id": "fails"}})
        assert await alert() == (1, "")
        await state("set", scope="loop", key="k", value={"n": 0})
        async with asyncio.timeout(20):
            while '"looping":true' not in (await alert())[1]:
                pass


def test_prometheus_takes_the_configuration_of_the_page(tmp_path: Path) -> None:
    promtool = program("promtool")
    token, config = tmp_path / "iii-state.token", tmp_path / "prometheus.yml"
    token.write_text("secret", encoding="utf-8")
    config.write_text(block("prometheus", "scrape").replace("/etc/prometheus/iii-state.token", str(token)), encoding="utf-8")
    rules = CliRunner().invoke(main, ["metrics", "alerts"])
    (tmp_path / "iii-state.rules.yml").write_text(rules.stdout, encoding="utf-8")
    done = subprocess.run([promtool, "check", "config", config], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "1 rule files found" in done.stdout) == (0, True), done.stdout + done.stderr


def test_every_program_of_a_page_is_marked_and_run() -> None:
    """What this module asks for is all there is: a program without a mark would not be noticed when it stops to work.

    The pages `guard` and `recipes` have tests of their own (`tests/guard/test_page.py`, `test_recipes.py`), which say the same.
    """
    here = [page for page in PAGES if not page.startswith(("# Guard", "# Recipes"))]
    marked = {found for page in here for found in re.findall(r"<!-- (\w+: [\w.]+) -->", page)}
    run_here = {f"{kind}: {name}" for kind, name in re.findall(r'block\("(\w+)", "([\w.]+)"\)', Path(__file__).read_text())}
    assert marked == run_here | {f"commands: {name}" for name in ("engines", "sentinels", "nodes", "fleet")}
    for page in PAGES:
        assert len(re.findall(r"^```python$", page, re.MULTILINE)) == len(
            re.findall(r"<!-- example: .+ -->\n```python$", page, re.MULTILINE)
        )
