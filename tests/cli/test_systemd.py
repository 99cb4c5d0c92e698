"""`iii-state systemd`: the units that it prints are ones that systemd takes, and start what they say."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from iii_state.cli import main

ATTACHED = ("--attach", "ws://127.0.0.1:49134/?x=100%&y=$HOME")


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["systemd", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def command_of(unit: str) -> list[str]:
    """What systemd starts: its words are split much as a shell's, `%%` is one per cent sign, and `$$` one dollar."""
    found = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert found is not None
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(found[1])]


@pytest.mark.parametrize("arguments", [(), ATTACHED, ("--config", "/etc/a name with 'quotes'/c.yaml")])
def test_systemd_finds_nothing_wrong_with_a_unit(arguments: tuple[str, ...], tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here: apt-get install systemd")
    path = tmp_path / "iii-state.service"
    path.write_text(printed("--executable", sys.executable, *arguments))
    done = subprocess.run([analyze, "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "iii-state" in line]) == (0, []), done.stderr
    path.write_text(path.read_text().replace("Restart=always", "Restart=perhaps"))
    wrong = subprocess.run([analyze, "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert "perhaps" in wrong.stderr, "it would have been told"


def test_a_unit_starts_this_program_with_its_configuration() -> None:
    assert command_of(printed()) == [
        *(str(Path(sys.executable).with_name("iii-state")), "serve"),
        *("--config", "/etc/iii-state/config.yaml", "--log-format", "json"),
    ]
    assert command_of(printed("--executable", "/a b/iii-state", "--config", "/c", *ATTACHED)) == [
        *("/a b/iii-state", "attach", "--engine", ATTACHED[1], "--config", "/c", "--log-format", "json"),
    ]
    for command in (command_of(printed()), command_of(printed(*ATTACHED))):
        sub = main.commands[command[1]]
        options = {name for parameter in sub.params for name in parameter.opts}
        assert {word for word in command if word.startswith("--")} <= options


def test_a_name_of_several_lines_is_refused() -> None:
    done = CliRunner().invoke(main, ["systemd", "--attach", "ws://a\nExecStartPre=/bin/evil"])
    assert done.exit_code == 2
    assert "one line" in done.output


def test_no_password_stands_in_the_description() -> None:
    unit = printed("--attach", "ws://user:secret@host:1")
    (description,) = re.findall(r"^Description=.*$", unit, re.MULTILINE)
    assert "secret" not in description
