"""The page `running`: what its recipe copies is there, and what it starts is a command with these options."""

from __future__ import annotations

import json
import re

from iii_state.cli import main
from tests.support import ROOT

PAGE = (ROOT / "iii_state" / "docs" / "running.md").read_text(encoding="utf-8")


def recipe() -> str:
    (found,) = re.findall(r"^```dockerfile\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def test_what_the_recipe_copies_is_all_that_an_installation_takes() -> None:
    copied = [name for line in re.findall(r"^COPY (.+) /src\S*$", recipe(), re.MULTILINE) for name in line.split()]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in ("README.md", "lua", "scripts"):  # of [project], [tool.hatch.build]: readme, force-include, the build's hook
        assert name in project
        assert name in copied


def test_what_the_recipe_starts_can_be_started() -> None:
    (entry,), (command,) = (re.findall(rf"^{word} (\[.*\])$", recipe(), re.MULTILINE) for word in ("ENTRYPOINT", "CMD"))
    assert json.loads(entry) == ["iii-state"]
    name, *words = json.loads(command)
    options = {option for parameter in main.commands[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_the_probes_of_the_page_are_paths_that_are_served() -> None:
    served = re.findall(r'add_get\("(/\w+)"', (ROOT / "iii_state" / "engine" / "probes.py").read_text(encoding="utf-8"))
    assert set(re.findall(r"httpGet: \{path: (/\w+),", PAGE)) <= set(served)
