"""What `from iii_state import …` gives: what users need, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import iii_state

NAMES = {
    "engine": {"Engine", "FunctionRegistration", "TriggerRegistration", "StateModule", "Guard"},
    "state": {
        "State",
        "SetResult",
        "UpdateResult",
        "StepResult",
        "Stored",
        "StateChange",
        "OpError",
        "ops",
        "conditions",
        "steps",
    },
    "events": {"Event", "EventType", "Retry", "Watch"},
    "errors": {
        "Code",
        "ConditionUnmet",
        "ConfigError",
        "FunctionError",
        "Gap",
        "NotCarriedOut",
        "StateError",
        "StoreError",
        "WorkerLost",
    },
    "modules of one's own": {"Result", "Caller", "Handler", "Host", "Module", "Runner", "Trigger", "TriggerProvider"},
}


def test_the_public_names_are_these() -> None:
    assert set(iii_state.__all__) == set().union(*NAMES.values())
    assert len(iii_state.__all__) == sum(map(len, NAMES.values())) == len(set(iii_state.__all__))


def test_nothing_else_can_be_taken_for_public() -> None:
    """Apart from the packages that it consists of."""
    program = "import iii_state, types; print(*(n for n, v in vars(iii_state).items() if not isinstance(v, types.ModuleType)))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert {name for name in printed.split() if not name.startswith("_")} == set(iii_state.__all__) - {"ops", "conditions", "steps"}


def test_every_public_class_says_what_it_is() -> None:
    for name in iii_state.__all__:
        value = getattr(iii_state, name)
        if isinstance(value, type):
            assert value.__doc__, name


def test_the_package_is_typed() -> None:
    assert (files("iii_state") / "py.typed").is_file()
