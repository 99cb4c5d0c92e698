"""What coding agents read: every example runs as written and prints what its page says, and the pages keep to their form."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from iii_state import Engine, StateModule
from iii_state import config as configuration
from tests.support import ROOT
from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.sdk.workers import NODE_NEW, PYTHON_NEW, SDKS_DIRECTORY, Sdk

PACKAGE = ROOT / "iii_state"
SKILLS = PACKAGE / "skills"
PAGES = sorted(SKILLS.rglob("*.md"))
HOW_TOS = sorted(SKILLS.glob("how-to/*.md"))
TRIGGERS = SKILLS / "how-to" / "react-to-state-changes.md"

TYPESCRIPT_VERSION = "5.9.3"
TSC = SDKS_DIRECTORY / f"typescript-{TYPESCRIPT_VERSION}" / "node_modules" / "typescript" / "bin" / "tsc"

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)]*)\)")
_FUNCTION = re.compile(r"\b((?:iii-state|state|engine)::[a-z_:]+)")
_SDK_NOISE = ("[iii]", "[OTel]")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def front_matter(page: Path) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", text(page), re.DOTALL)
    assert found is not None, page
    front: dict[str, Any] = yaml.safe_load(found[1])
    return front


def headings(page: Path) -> list[str]:
    """The headings of a page, with their signs; what stands in examples is none."""
    return [found[0] for found in _HEADING.finditer(_FENCE.sub("", text(page)))]


def sections(page: Path) -> dict[str, str]:
    """Heading of the second level → what stands below it, fences included."""
    _, *parts = re.split(r"^## (.+)$", text(page), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def cells(page: Path, section: str) -> list[str]:
    """The first column of the tables of a section."""
    return [row.split(" | ")[0].strip("| ") for row in sections(page)[section].splitlines() if row.startswith("| `")]


# -- the examples ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """One program of a page, and what it is to print."""

    name: str
    language: str
    source: str
    output: str


def examples_of(page: Path) -> Iterator[Example]:
    """Each program's output is the next block of the language `text`, which may stand for several."""
    waiting: list[tuple[str, str]] = []
    count = 0
    for language, block in _FENCE.findall(text(page)):
        if language in ("python", "typescript"):
            waiting.append((language, block))
        elif language == "text":
            assert waiting, f"{page} has an output without an example"
            count += 1
            for language, source in waiting:
                yield Example(f"{page.stem}-{count}", language, source, block)
            waiting.clear()
        else:
            assert language in ("json", "sh"), f"{page}: a block of {language}"
    assert not waiting, f"{page} has an example without output"


EXAMPLES = [example for page in PAGES for example in examples_of(page)]


def programs(language: str) -> list[Any]:
    return [pytest.param(example, id=example.name) for example in EXAMPLES if example.language == language]


def needed(sdk: Sdk) -> None:
    if reason := sdk.missing():
        pytest.skip(reason)


LOGGED: dict[str, Any] = {"history": [{"scope": "ledger"}]}
"""What the page of `state::history` needs of an engine."""


@pytest.fixture(scope="module")
def engine_for_python() -> Iterator[EngineProcess]:
    """All examples of a language run on one engine, on scopes and functions of their own."""
    needed(PYTHON_NEW)
    with running_engine(config=LOGGED) as engine:
        yield engine


@pytest.fixture(scope="module")
def engine_for_node() -> Iterator[EngineProcess]:
    needed(NODE_NEW)
    with running_engine(config=LOGGED) as engine:
        yield engine


WITHOUT_DEPRECATED = ["-W", "error::DeprecationWarning", "-W", "ignore:register_trigger is deprecated:DeprecationWarning"]
"""Examples call nothing that the SDK wants gone, but `register_trigger`: it offers no other call for triggers of state yet, and
its documentation says to keep to that."""


@dataclass(frozen=True)
class Compiled:
    """The TypeScript examples as JavaScript, and what the compiler had to say."""

    folder: Path
    complaints: str


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """All TypeScript examples, compiled at once, with the configuration that the index gives."""
    needed(NODE_NEW)
    if not (SDKS_DIRECTORY / f"typescript-{TYPESCRIPT_VERSION}" / ".installed").exists():
        pytest.skip(f"TypeScript {TYPESCRIPT_VERSION} is not installed (scripts/test does that)")
    folder = tmp_path_factory.mktemp("typescript")
    (config,) = re.findall(r"```json\n(.*?)```", sections(SKILLS / "index.md")["Setting up"], re.DOTALL)
    (folder / "tsconfig.json").write_text(config)
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    (folder / "node_modules").symlink_to(NODE_NEW.directory / "node_modules")
    for example in EXAMPLES:
        if example.language == "typescript":
            (folder / f"{example.name}.ts").write_text(example.source, encoding="utf-8")
    done = subprocess.run(["node", TSC], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    return Compiled(folder / "out", done.stdout + done.stderr)


def printed(command: list[str | Path], engine: EngineProcess, folder: Path) -> str:
    environment = {**os.environ, "III_URL": engine.url}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(_SDK_NOISE))


@pytest.mark.parametrize("example", programs("python"))
def test_a_python_example_prints_what_its_page_says(example: Example, engine_for_python: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(example.source, encoding="utf-8")
    python = PYTHON_NEW.directory / "bin" / "python"
    assert printed([python, *WITHOUT_DEPRECATED, "example.py"], engine_for_python, tmp_path) == example.output


def test_the_typescript_examples_pass_the_type_checker(compiled: Compiled) -> None:
    assert compiled.complaints == ""


@pytest.mark.parametrize("example", programs("typescript"))
def test_a_typescript_example_prints_what_its_page_says(
    example: Example, engine_for_node: EngineProcess, compiled: Compiled
) -> None:
    assert printed(["node", f"{example.name}.js"], engine_for_node, compiled.folder) == example.output


def test_every_page_with_code_has_it_in_both_languages() -> None:
    python, typescript = ([example.name for example in EXAMPLES if example.language == each] for each in ("python", "typescript"))
    assert python == typescript
    assert {name.rsplit("-", 1)[0] for name in python} == {"SKILL", *(page.stem for page in HOW_TOS)}


def test_the_examples_run_on_the_versions_that_the_index_names() -> None:
    index = text(SKILLS / "index.md")
    for package in (f"iii-sdk=={PYTHON_NEW.version}", f"iii-sdk@{NODE_NEW.version}", f"typescript@{TYPESCRIPT_VERSION}"):
        assert package in index
    assert f"\ntypescript={TYPESCRIPT_VERSION}\n" in text(ROOT / "scripts" / "sdks.sh")


# -- the pages ---------------------------------------------------------------------------------------------------------


async def served() -> set[str]:
    """The functions that an engine with state has."""
    async with Engine() as engine:
        await engine.add_module(StateModule())
        listed = await engine.trigger({"function_id": "engine::functions::list", "payload": {"include_internal": True}})
    return {function["function_id"] for function in listed["functions"]}


async def test_every_state_function_has_a_how_to_and_stands_in_both_overviews() -> None:
    functions = sorted(function for function in await served() if function.startswith("state::"))
    assert sorted(function for page in HOW_TOS for function in front_matter(page)["functions"]) == functions
    for page in HOW_TOS:
        if page != TRIGGERS:
            assert front_matter(page)["functions"] == [f"state::{page.stem}"], page
    entries = re.findall(r"^- \[`(state::\w+)`\]\(how-to/(\w+)\.md\)", sections(SKILLS / "SKILL.md")["Functions"], re.MULTILINE)
    assert sorted(function for function, _ in entries) == functions
    assert all(function == f"state::{stem}" for function, stem in entries)
    rows = re.findall(r"\(how-to/(\w+)\.md\) \| `(state::\w+)` \|$", text(SKILLS / "index.md"), re.MULTILINE)
    assert sorted(function for _, function in rows) == functions
    assert all(function == f"state::{stem}" for stem, function in rows)


async def test_no_page_names_a_function_that_is_not_there() -> None:
    functions = await served()
    named = {(page.name, name) for page in PAGES for name in _FUNCTION.findall(text(page))}
    assert named
    assert {(page, name) for page, name in named if name not in functions} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", text(page))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(SKILLS), link
        assert target.is_file(), link
        assert not anchor or anchor in map(slug, headings(target)), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_json_block_is_json(page: Path) -> None:
    for language, block in _FENCE.findall(text(page)):
        if language == "json":
            json.loads(block)


def test_the_skill_has_the_form_that_agents_look_for() -> None:
    page = SKILLS / "SKILL.md"
    front = front_matter(page)
    assert set(front) == {"name", "description"}
    assert front["name"] == "iii-state"
    assert "Reach for it when" in front["description"]
    assert 2 <= len(re.findall(r"^  \S", text(page).split("---")[1], re.MULTILINE)) <= 3, "two or three lines"
    title, *rest = headings(page)
    assert title == "# iii-state"
    assert rest == [f"## {section}" for section in ("When to Use", "Boundaries", "Functions", "Reactive triggers")]
    introduction = text(page).split("# iii-state\n")[1].split("\n## ")[0]
    assert len(introduction.strip().split("\n\n")) == 2
    assert 4 <= sections(page)["When to Use"].count("\n- ") <= 5


def test_the_index_and_the_how_tos_say_what_they_are() -> None:
    index = front_matter(SKILLS / "index.md")
    assert index == {"type": "index", "title": "iii-state"}
    linked = {(SKILLS / link).resolve() for link in _LINK.findall(text(SKILLS / "index.md"))}
    assert linked == set(PAGES) - {SKILLS / "index.md"}
    for page in HOW_TOS:
        front = front_matter(page)
        assert set(front) == {"type", "title", "functions"}
        assert front["type"] == "how-to"
        assert headings(page)[0] == f"# {front['title']}"


@pytest.mark.parametrize("page", [page for page in HOW_TOS if page != TRIGGERS], ids=lambda page: page.name)
def test_a_how_to_of_a_function_goes_from_when_to_pitfalls(page: Path) -> None:
    expected = ["When", "Request", "Result", "Errors", "Example in Python", "Example in TypeScript", "Pitfalls"]
    assert headings(page)[1:] == [f"## {section}" for section in expected]
    for section in ("Request", "Result"):
        assert "```json\n" in sections(page)[section], section


def test_the_how_to_of_triggers_goes_from_when_to_pitfalls() -> None:
    assert headings(TRIGGERS)[1:] == [
        f"## {section}"
        for section in (
            *("When", "Config", "Payload", "Order and delivery", "Condition", "Retries and dead letters", "Broadcast"),
            *("Idempotent handlers", "Loops", "Errors", "Example in Python", "Example in TypeScript"),
            *("Dead letters in Python", "Dead letters in TypeScript", "Pitfalls"),
        )
    ]


def shown(page: Path, section: str) -> list[Any]:
    """The JSON of a section."""
    return [json.loads(block) for language, block in _FENCE.findall(sections(page)[section]) if language == "json"]


async def test_requests_are_accepted_and_results_have_the_shape_shown() -> None:
    async with Engine() as engine:
        await engine.add_module(StateModule(LOGGED))
        for page in HOW_TOS:
            if page == TRIGGERS:
                continue
            (request,) = shown(page, "Request")
            fields = {name for cell in cells(page, "Request") for name in re.findall(r"`(\w+)`", cell)}
            assert set(request) <= fields, page
            result = await engine.trigger({"function_id": front_matter(page)["functions"][0], "payload": request})
            expected = shown(page, "Result")[0]
            if page.stem not in ("get", "delete"):
                assert type(result) is type(expected), page
                assert not isinstance(result, dict) or set(result) == set(expected), page


async def test_trigger_configs_are_accepted_and_events_have_the_shape_shown() -> None:
    events: asyncio.Queue[tuple[Any, Any]] = asyncio.Queue()

    async def handler(event: Any, metadata: Any) -> None:
        await events.put((event, metadata))

    async with Engine() as engine:
        await engine.add_module(StateModule())
        engine.register_function("shop::is_paid", lambda event: True)
        engine.register_function("shop::ship", handler)
        (config,) = shown(TRIGGERS, "Config")
        assert set(config) == {name for cell in cells(TRIGGERS, "Config") for name in re.findall(r"`(\w+)`", cell)}
        skill_config, skill_event = shown(SKILLS / "SKILL.md", "Reactive triggers")
        for each in (config, skill_config):
            await engine.register_trigger({"type": "state", "function_id": "shop::ship", "config": each})
        event_shown, metadata_shown = shown(TRIGGERS, "Payload")
        for expected in (event_shown, skill_event):
            for value in filter(None, (expected["old_value"], expected["new_value"])):
                place = {"scope": expected["scope"], "key": expected["key"]}
                await engine.trigger({"function_id": "state::set", "payload": {**place, "value": value}})
                event, metadata = await asyncio.wait_for(events.get(), 10)
            assert event == expected
            assert set(metadata["iii_state"]) == set(metadata_shown["iii_state"])


# -- the manifest and the wheel ----------------------------------------------------------------------------------------


def test_the_worker_manifest_names_this_worker_and_a_config_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = yaml.safe_load(text(PACKAGE / "iii.worker.yaml"))
    assert list(manifest) == ["iii", "name", "type", "description", "repo", "config"]
    assert (manifest["iii"], manifest["name"]) == ("v1", "iii-state")
    project = tmp_path / "config.yaml"
    project.write_text(yaml.safe_dump({"workers": [{"name": manifest["name"], "config": manifest["config"]}]}))
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6380")
    config = configuration.load(project)
    assert config["adapter"] == {"name": "redis", "config": {"redis_url": "redis://elsewhere:6380"}}
    StateModule(config)


def shipped(package: Path) -> dict[str, bytes]:
    """What agents read of a package: its manifest and its pages, by their place."""
    found = [package / "iii.worker.yaml", *package.glob("skills/**/*.md")]
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in found}


def test_an_installed_package_brings_the_pages(tmp_path: Path) -> None:
    here = shipped(PACKAGE)
    assert len(here) == len(PAGES) + 1
    assert shipped(Path(str(files("iii_state")))) == here

    pytest.importorskip("hatchling")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    assert shipped(tmp_path / "installed" / "iii_state") == here
    shutil.rmtree(tmp_path / "installed")
