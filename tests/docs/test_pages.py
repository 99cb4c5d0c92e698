"""The README and the pages are whole and exact: links, codes, settings, commands and versions are those of the code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import benchmarks.__main__ as bench
import click
import pytest

from iii_state import config as configuration
from iii_state import errors
from iii_state.cli import main
from iii_state.cli.docs import first_line, pages
from iii_state.errors import Code, ConfigError, StateError
from iii_state.events import DispatchLimits, QueueLimits, RetryPolicy
from tests.fuzz import __main__ as fuzz
from tests.powercut import __main__ as powercut
from tests.torture import __main__ as torture

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "iii_state"
README = ROOT / "README.md"
PAGES = sorted((PACKAGE / "docs").glob("*.md"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in (README, *PAGES)}

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)]*)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE = re.compile(r"[A-Z]+(_[A-Z]+)+|[a-z]+(_[a-z]+)+|TIMEOUT|FORBIDDEN|COMPACTED|UNSUPPORTED")

every_page = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)


def prose(text: str) -> str:
    """A page without its examples."""
    return _FENCE.sub("", text)


def page(name: str) -> str:
    return TEXTS[PACKAGE / "docs" / f"{name}.md"]


def section(text: str, heading: str) -> str:
    """What stands below a heading of the second level."""
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """The code spans in the first column of the tables of a text."""
    rows = [row.split(" | ")[0] for row in text.splitlines() if row.startswith("| `")]
    return [span for row in rows for span in re.findall(r"`([^`]+)`", row)]


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# -- form and links ----------------------------------------------------------------------------------------------------


def test_the_readme_is_two_screens() -> None:
    assert len(TEXTS[README].splitlines()) <= 160


@every_page
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in _LINK.findall(prose(TEXTS[path])):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_file(), link
        is_picture = target.suffix == ".png" and target.parent == PACKAGE / "docs"
        assert path == README or target in PAGES or is_picture, f"{link}: the pages are shown where nothing else is, too"
        assert not anchor or anchor in map(slug, _HEADING.findall(prose(TEXTS[target]))), link


@every_page
def test_every_file_that_is_named_is_there(path: Path) -> None:
    named = re.findall(r"`((?:iii_state|lua|tests|scripts)/[\w/.-]+)`", TEXTS[path])
    assert [file for file in named if not (ROOT / file).exists()] == []


@every_page
def test_every_json_block_is_json(path: Path) -> None:
    for language, block in _FENCE.findall(TEXTS[path]):
        if language == "json":
            json.loads(block)


def test_every_page_is_listed_and_linked_from_index_and_readme() -> None:
    names = {path.stem for path in PAGES}
    assert set(pages()) == names
    assert set(re.findall(r"\]\(([\w-]+)\.md", page("index"))) == names - {"index"}
    assert set(re.findall(r"\]\(iii_state/docs/([\w-]+)\.md", TEXTS[README])) == names


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_begins_with_its_title_and_a_line_that_says_what_it_is_about(path: Path) -> None:
    text = TEXTS[path]
    assert re.match(r"# [^\n]+\n\n[^\n]+\n\n", text)
    assert text.endswith("\n")
    line = first_line(text)
    assert line.endswith(".")
    assert len(line) <= 105
    assert not re.search(r"[`\[*]", line), "it is printed as it is"


def test_an_installed_package_brings_the_pages(tmp_path: Path) -> None:
    here = {path.name: path.read_bytes() for path in (*PAGES, *(PACKAGE / "docs").glob("*.png"))}
    installed = [entry for entry in (files("iii_state") / "docs").iterdir() if entry.name.endswith((".md", ".png"))]
    assert {entry.name: entry.read_bytes() for entry in installed} == here

    pytest.importorskip("hatchling")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = [name for name in wheel.namelist() if name.startswith("iii_state/docs/")]
        assert {Path(name).name: wheel.read(name) for name in names} == here


def test_the_newest_version_of_the_changelog_is_that_of_the_project() -> None:
    versions = re.findall(r"^## \[(.+)\] - \d{4}-\d\d-\d\d$", page("changelog"), re.MULTILINE)
    assert versions[0] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert versions == sorted(versions, reverse=True)


# -- codes -------------------------------------------------------------------------------------------------------------


def test_the_page_of_errors_has_every_code_and_no_other() -> None:
    without_ops = page("errors").replace(section(page("errors"), "Ops"), "")
    assert {cell for cell in first_cells(without_ops) if _CODE.fullmatch(cell)} == set(Code)


def test_the_page_of_errors_has_every_exception_and_no_other() -> None:
    family = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, StateError)}
    shown = first_cells(section(page("errors"), "In Python"))
    assert sorted(shown) == sorted(family - {"StateError"})


def codes_of_the_vectors() -> Iterator[str]:
    vectors = ROOT / "tests" / "support" / "update-vectors.json"

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("code"), str):
                yield node["code"]
            for child in node.values():
                yield from walk(child)
        elif isinstance(node, list):
            for child in node:
                yield from walk(child)

    yield from walk(json.loads(vectors.read_text(encoding="utf-8")))


def test_the_page_of_errors_has_every_code_of_an_op() -> None:
    shown = {re.sub(r"^(<op>|[a-z]+)\.", "", cell) for cell in first_cells(section(page("errors"), "Ops"))}
    met = {code.partition(".")[2] for code in codes_of_the_vectors() if "." in code}
    assert met
    assert met == shown


# -- settings ----------------------------------------------------------------------------------------------------------


def known_keys(config: dict[str, Any]) -> set[str]:
    """The keys that are known where `config` has one that is not."""
    with pytest.raises(ConfigError) as refused:
        configuration.parse(config)
    listed = re.search(r"known here: (.+)$", str(refused.value))
    assert listed is not None, refused.value
    return set(listed[1].split(", "))


NO_KEY = {"~~~~~~~~": 1}


def settings() -> dict[str, dict[str, Any]]:
    """Adapter, or "" for all → its settings by their full name, with their defaults."""
    defaults = configuration.parse({})
    dispatch = {
        name: getattr(kind, name) for kind in (DispatchLimits(), RetryPolicy(), QueueLimits()) for name in kind.__struct_fields__
    }
    dispatch["retention_ms"] = defaults.retention_ms
    assert set(dispatch) == known_keys({"dispatch": NO_KEY})
    found: dict[str, dict[str, Any]] = {"": {f"dispatch.{name}": value for name, value in dispatch.items()}}
    found[""] |= {"adapter.name": "kv", "triggers_enabled": True, "max_value_bytes": None, "save_interval_ms": 5000}
    found[""]["log_level"] = defaults.log_level
    found[""]["history"] = defaults.history or None
    assert known_keys(NO_KEY) == {"adapter", "dispatch", "server"} | {name for name in found[""] if "." not in name}
    found["server"] = {
        f"{within}{name}": getattr(kind, name, None) or None
        for within, kind in (("server.", defaults.server), ("server.limits.", defaults.server.limits), ("server.tls.", None))
        for name in known_keys({"server": NO_KEY if within == "server." else {within.split(".")[1]: NO_KEY}}) - {"tls", "limits"}
    } | {"server.insecure": False}
    for adapter in ("kv", "redis", "bridge"):
        used = configuration.parse({"adapter": {"name": adapter}}).adapter
        keys = known_keys({"adapter": {"name": adapter, "config": NO_KEY}}) - {"dispatch"}
        others = {"store_method": "in_memory", "file_path": "kv_store_data.db"}
        found[adapter] = {f"adapter.config.{name}": getattr(used, name, others.get(name)) for name in keys}
    return found


def in_words(default: Any) -> str:
    if isinstance(default, str):
        return f"`{default}`"
    return "none" if default is None else json.dumps(default)


def test_the_page_of_the_configuration_has_every_setting_with_its_default() -> None:
    tables = re.split(
        r"^`adapter\.config` of \[(\w+)\]|^`(?:dispatch|server)` stands",
        section(page("configuration"), "Settings"),
        flags=re.MULTILINE,
    )
    assert len(tables) == 11
    shown = {"": tables[0] + tables[8], "server": tables[10], **{tables[n]: tables[n + 1] for n in (1, 3, 5)}}
    for adapter, expected in settings().items():
        rows = re.findall(r"^\| `([\w.]+)` \| (\S+) \|", shown[adapter], re.MULTILINE)
        assert sorted(rows) == sorted((name, in_words(default)) for name, default in expected.items())


# -- commands ----------------------------------------------------------------------------------------------------------


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params if isinstance(parameter, click.Option) for name in parameter.opts} | {"--help"}


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that is typed, and what follows it. Options in front of it are those of `iii-state`."""
    command: click.Command = main
    while words:
        if isinstance(command, click.Group) and words[0] in options(command):
            words = words[1:]
        elif isinstance(command, click.Group) and command.invoke_without_command and words[0] == "|":
            break
        elif isinstance(command, click.Group):
            assert words[0] in command.commands, f"no such command: {words[0]}"
            command, words = command.commands[words[0]], words[1:]
        else:
            break
    return command, words


def every_option() -> set[str]:
    """The options of all commands, and of the scripts."""
    found: list[click.Command] = [main, bench.main, torture.main, powercut.main, fuzz.main]
    for command in found:
        found += command.commands.values() if isinstance(command, click.Group) else []
    return {name for command in found for name in options(command)}


def snippets(text: str) -> Iterator[str]:
    """What is typed: the lines of shell blocks, and code spans."""
    for language, block in _FENCE.findall(text):
        if language in ("sh", "console"):
            for line in block.splitlines():
                if language == "sh" or line.startswith("$ "):
                    yield re.split(r"\s+#", line.removeprefix("$ "))[0]
    yield from re.findall(r"`([^`\n]+)`", prose(text))


@every_page
def test_every_command_and_option_exists(path: Path) -> None:
    for snippet in snippets(TEXTS[path]):
        typed = re.search(r"(?:^|[ /])(iii-state|scripts/serve)((?: .*)?)$", snippet)
        if typed is None:
            own = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", snippet))
            assert own <= every_option() | SCRIPTS | OF_OTHERS, snippet
            continue
        words = shlex.split(re.sub(r"[\[\]]", " ", typed[2]))
        command, rest = command_of(words if typed[1] == "iii-state" else ["serve", *words])
        given = {word.partition("=")[0] for word in rest if word.startswith("--") and word != "--"}
        assert given <= options(command), snippet


SCRIPTS = {"--coverage", "--redis", "--slow"}
"""Of scripts/test."""

OF_REDIS = {"--appendonly", "--daemonize", "--dir", "--replicaof", "--sentinel", "--cluster", "--cluster-enabled"}
OF_REDIS |= {"--cluster-node-timeout", "--cluster-replicas", "--cluster-yes"}
"""Of redis-server and redis-cli, with which the lines for a desk start servers; these are run (`test_readme.py`)."""

OF_OTHERS = {"--strict"} | OF_REDIS
"""Of mypy, and of Redis."""


def test_the_options_of_scripts_test_exist() -> None:
    for option in SCRIPTS:
        assert option in (ROOT / "scripts" / "test").read_text(encoding="utf-8")


def test_every_command_is_on_a_page() -> None:
    text = "\n".join(snippet for text in TEXTS.values() for snippet in snippets(text))
    for name, command in main.commands.items():
        for typed in [f"{name} {each}" for each in command.commands] if isinstance(command, click.Group) else [name]:
            assert re.search(rf"iii-state {typed}\b", text), typed
