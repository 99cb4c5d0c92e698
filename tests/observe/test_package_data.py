"""What the package brings for Prometheus and Grafana: every metric in it exists, and the rules fire when they should."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import iii_state
from iii_state.cli import main
from iii_state.figures import Family
from tests.support.metrics import DATA, program

RULES = DATA / "alerts.yml"
DASHBOARD = DATA / "dashboard.json"
DOCS = Path(iii_state.__file__).parent / "docs" / "metrics.md"


def families() -> dict[str, Family]:
    """All there are, by name."""
    found: dict[str, Family] = {}
    for module in pkgutil.walk_packages(iii_state.__path__, "iii_state."):
        if module.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Family):
                assert found.setdefault(value.name, value) == value, f"two families are called {value.name}"
    return found


def series() -> set[str]:
    """The names of all series."""
    names = set(families())
    return names | {f"{name}_{part}" for name in names for part in ("bucket", "count", "sum")}


OF_THE_PROCESS = {"process_open_fds", "process_max_fds", "process_cpu_seconds_total", "process_resident_memory_bytes"}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries() -> list[str]:
    """Those of the dashboard's panels, with their variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        target["expr"].replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*").replace("$function", ".*")
        for panel in panels
        for target in panel.get("targets", ())
    ]


def test_every_metric_that_a_rule_or_a_panel_names_exists() -> None:
    named = {
        name
        for text in (*queries(), *(rule["expr"] for rule in rules()))
        for name in re.findall(r"\b(?:iii_state|process)_\w+", text)
    }
    assert named - series() - OF_THE_PROCESS == set()
    assert len(queries()) > 40


def test_the_dashboard_has_an_id_of_its_own_and_no_two_panels_overlap() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert (dashboard["uid"], dashboard.get("id")) == ("iii-state", None)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_docs_have_every_metric_and_every_alert() -> None:
    text = DOCS.read_text()
    shown = {
        name: (kind, labels)
        for name, kind, labels in re.findall(r"^\| `(iii_state_\w+)` \| (\w+) \| ([^|]*)\|", text, re.MULTILINE)
    }
    known = families()
    assert set(shown) == set(known)
    for name, family in known.items():
        assert shown[name][0] == family.kind
        assert tuple(re.findall(r"`(\w+)`", shown[name][1])) == family.labels
    assert re.findall(r"^\| `(Iii\w+)`", text, re.MULTILINE) == [rule["alert"] for rule in rules()]


def test_promtool_accepts_the_rules_and_they_fire_when_they_should(tmp_path: Path) -> None:
    promtool = program("promtool")
    for command in (["check", "rules", str(RULES)], ["test", "rules", str(Path(__file__).parent / "alerts_test.yml")]):
        done = subprocess.run(
            [promtool, *command], capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parent
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_section_in_the_runbook_and_leads_there() -> None:
    page = (DOCS.parent / "running.md").read_text()
    sections = re.findall(r"^### (\w+)\n\n(.+)", page.split("\n## Runbook\n")[1], re.MULTILINE)
    assert [name for name, _ in sections] == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"running.md#{rule['alert'].lower()}"


def test_the_rules_can_be_had_with_links_to_where_the_pages_are_kept() -> None:
    done = CliRunner().invoke(main, ["metrics", "alerts", "--docs-url", "https://wiki.example.com/iii-state/"])
    (group,) = yaml.safe_load(done.output)["groups"]
    for rule, plain in zip(group["rules"], rules(), strict=True):
        link = f"https://wiki.example.com/iii-state/{plain['annotations']['runbook']}"
        assert rule["annotations"].pop("runbook_url") == link
        del plain["annotations"]["runbook"]
        assert rule == plain
    wrong = CliRunner().invoke(main, ["metrics", "alerts", "--docs-url", "no address"])
    assert wrong.exit_code == 2


def test_every_alert_has_a_case_and_says_what_to_do() -> None:
    cases = yaml.safe_load((Path(__file__).parent / "alerts_test.yml").read_text())["tests"]
    tried = {case["alertname"] for test in cases for case in test.get("alert_rule_test", ()) if case["exp_alerts"]}
    assert tried == {rule["alert"] for rule in rules()}
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize(("command", "file"), [("alerts", RULES), ("dashboard", DASHBOARD)])
def test_the_command_prints_them(command: str, file: Path) -> None:
    result = CliRunner().invoke(main, ["metrics", command])
    assert (result.exit_code, result.stdout_bytes) == (0, file.read_bytes())
