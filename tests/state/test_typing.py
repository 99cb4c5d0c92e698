"""The public names are typed: a user's program passes `mypy --strict`, and one that is wrong does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("embedding.py")

WRONG = {
    'await state.set(1, "k", 1)': "arg-type",
    'await state.set("s", "k")': "call-arg",
    'await state.set("s", "k", 1, ttl_ms="soon")': "arg-type",
    '(await state.set("s", "k", 1)).errors': "attr-defined",
    'await state.update("s", "k", ops.increment("n"))': "arg-type",
    'ops.increment("n", by="1")': "arg-type",
    "ops.append(1, 2)": "arg-type",
    "ops.no_such_op('a')": "attr-defined",
    "state.watch('s')": "call-arg|misc",
    "event.old": "attr-defined",
    "event.scope = 's'": "misc",
    "state.on_change(retry={'attempts': 3})": "arg-type|typeddict-unknown-key",
    "state.on_change(delivery='twice')": "arg-type",
    "state.on_change()(no_argument)": "type-var",
    "state.on_change(payload='old')": "arg-type",
    'await state.set("s", "k", 1, only_if=conditions.absent())': "arg-type",
    'await state.set("s", "k", 1, return_="all")': "arg-type",
    'await state.get("s", "k", meta="yes")': "call-overload",
    '(await state.get("s", "k", meta=True)).text': "attr-defined",
    'conditions.gte("n", "1")': "arg-type",
    'conditions.type("n", "int")': "arg-type",
    "conditions.no_such_test('a')": "attr-defined",
    'await state.list("s", order="up")': "arg-type",
    'await state.list("s", after="k")': "call-arg",
    'await state.touch("s", "k")': "call-arg",
    'await state.transact("s", steps.delete("k"))': "arg-type",
    'steps.set("k")': "call-arg",
    'steps.delete("k", ttl_ms=1)': "call-arg",
    "State(None)": "arg-type",
}
"""A line of a program → the kind of mistake that mypy finds in it."""

HEAD = """
from iii_state import Engine, Event, State, conditions, ops, steps

def no_argument() -> None: ...

async def main(state: State, event: Event) -> None:
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def check(program: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """What mypy says of a program, in a folder that knows nothing of this repository."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "--config-file", "", program.name]
    return subprocess.run(command, cwd=program.parent, capture_output=True, text=True, timeout=300, check=False)


def test_a_users_program_passes_strict_type_checks(tmp_path: Path, cache: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.read_text(encoding="utf-8"), encoding="utf-8")
    done = check(program, cache)
    assert (done.stdout, done.returncode) == ("Success: no issues found in 1 source file\n", 0), done.stdout + done.stderr


def test_wrong_uses_are_found(tmp_path: Path, cache: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(HEAD + "".join(f"    {line}\n" for line in WRONG), encoding="utf-8")
    found = re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]$", check(program, cache).stdout, re.MULTILINE)
    first = len(HEAD.splitlines()) + 1
    assert [int(line) - first for line, _ in found] == list(range(len(WRONG)))
    for (_, kind), (line, expected) in zip(found, WRONG.items(), strict=True):
        assert re.fullmatch(expected, kind), line


def test_the_users_program_runs() -> None:
    done = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    *printed, created, updated, again, deleted = done.stdout.splitlines()
    assert printed == [
        "o1 {'n': 1.5, 'items': ['book'], 'b': 2}",
        "CONDITION_FAILED: Condition 0 does not hold at path 'n' of scope 'more', key 'k'",
        "HISTORY_ERROR",
        "state:created state:updated state:updated state:deleted",
        "True",
    ]
    assert [created, updated, again, deleted] == ["state:created o1", "state:updated o1", "state:updated o1", "state:deleted o1"]
