"""The faults of a run, and when: a seed determines them.

Bursts of faults take turns with calms. In a calm the system is itself again, and what happens then has no excuse.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.torture.subscriptions import HANDLE, HANDLE_AWAY, HANDLE_OLD, HANDLE_POISON

TTL_SECONDS = 3.0
CALL_TIMEOUT_SECONDS = 5.0
FIRST_CALM_SECONDS = 3.0
BURST_SECONDS = 13.0
CALM_SECONDS = 9.0

SHORT, LONG = (0.1, 2.0), (TTL_SECONDS + 1, TTL_SECONDS + 3)


@dataclass(frozen=True)
class Kind:
    """A kind of fault: what is done, to one of which group, and between how many seconds it lasts."""

    verb: str
    group: str
    seconds: tuple[float, float]


def _processes(group: str) -> dict[str, Kind]:
    """What is done to processes: SIGKILL, SIGSTOP with SIGCONT, SIGTERM, each with a new start."""
    return {
        f"kill {group}": Kind("kill", group, SHORT),
        f"kill {group} for long": Kind("kill", group, LONG),
        f"stop {group}": Kind("stop", group, (0.2, 2.0)),
        f"stop {group} for long": Kind("stop", group, (TTL_SECONDS + 0.5, TTL_SECONDS + 3)),
        f"restart {group}": Kind("restart", group, (0.0, 0.5)),
    }


WORKERS = {
    "kill worker": Kind("kill", "worker", (0.0, 1.0)),
    "worker away": Kind("kill", "away", (5.0, 10.0)),
}

CONNECTIONS = {
    "cut connections": Kind("cut", "connection", (0.0, 0.3)),
    "lose replies and cut": Kind("lose", "connection", (0.1, 0.5)),
    "cut and let stragglers through": Kind("straggle", "connection", (0.2, 0.8)),
    "delay connections": Kind("delay", "connection", (0.5, 2.5)),
}

REDIS = {
    "kill redis": Kind("kill", "redis", (0.0, 1.0)),
    "restart redis": Kind("restart", "redis", (0.0, 1.0)),
    "kill redis for long": Kind("kill", "redis", (CALL_TIMEOUT_SECONDS + 0.5, CALL_TIMEOUT_SECONDS + 2)),
    "stop redis": Kind("stop", "redis", (0.5, TTL_SECONDS + 1)),
    "flush scripts": Kind("flush", "redis", (0.0, 0.0)),
}


NODES = {
    "kill master": Kind("kill", "node", (0.0, 2.0)),
    "stop master": Kind("stop", "node", (0.2, 0.6)),
    "stop master for long": Kind("stop", "node", (4.0, 6.0)),
    "fail over": Kind("fail over", "node", (0.0, 0.0)),
    "move slot": Kind("move", "node", (0.2, 1.0)),
    "move another slot": Kind("move", "node", (0.2, 1.0)),
    "add node and empty it": Kind("add", "node", (0.5, 1.5)),
    "flush scripts": Kind("flush", "node", (0.0, 0.0)),
}

CLOCKS = {
    "set clock ahead": Kind("ahead", "clock", (2.0, 5.0)),
    "set clock back": Kind("back", "clock", (2.0, 5.0)),
}

KEYS = {f"{verb} keys": Kind(verb, "key", (0.0, 0.0)) for verb in ("delete", "rename", "replace")}


@dataclass(frozen=True)
class Plan:
    """What is there to be hurt with one adapter.

    Args:
        engines: how many there are to which writers and workers connect.
        kinds: the faults there are.
    """

    adapter: str
    engines: int
    workers: dict[str, tuple[int, ...]]
    """Of each role, the engine of each worker."""
    groups: dict[str, int]
    """How many of each other group can be hurt."""
    kinds: dict[str, Kind]

    def targets(self, group: str) -> int:
        """How many there are of a group."""
        match group:
            case "engine":
                return self.engines
            case "worker":
                return len(self.workers[HANDLE]) + len(self.workers[HANDLE_OLD])
            case "away":
                return len(self.workers[HANDLE_AWAY])
            case _:
                return self.groups[group]


PLANS = {
    plan.adapter: plan
    for plan in (
        Plan(
            "redis",
            engines=3,
            workers={HANDLE: (0, 1, 2), HANDLE_OLD: (0, 1), HANDLE_POISON: (0,), HANDLE_AWAY: (1,)},
            groups={
                "redis": 1,
                "clock": 1,
                "key": 3,
                "connection": 4,
            },  # the last is that of the engine in the process of the writers
            kinds={
                **_processes("engine"),
                "restart all engines": Kind("restart all", "engine", (0.5, 1.5)),
                "kill the one that takes over": Kind("kill two", "engine", (TTL_SECONDS - 0.2, TTL_SECONDS + 0.6)),
                **WORKERS,
                **REDIS,
                **CLOCKS,
                **KEYS,
                **CONNECTIONS,
            },
        ),
        Plan(
            "cluster",
            engines=3,
            workers={HANDLE: (0, 1, 2), HANDLE_OLD: (0, 1), HANDLE_POISON: (0,), HANDLE_AWAY: (1,)},
            groups={"node": 3, "clock": 1, "key": 3, "connection": 6},
            kinds={
                **_processes("engine"),
                "restart all engines": Kind("restart all", "engine", (0.5, 1.5)),
                "kill the one that takes over": Kind("kill two", "engine", (TTL_SECONDS - 0.2, TTL_SECONDS + 0.6)),
                **WORKERS,
                **NODES,
                **CLOCKS,
                **KEYS,
                **CONNECTIONS,
            },
        ),
        Plan(
            "kv",
            engines=1,
            workers={HANDLE: (0, 0), HANDLE_OLD: (0,), HANDLE_POISON: (0,), HANDLE_AWAY: (0,)},
            groups={"clock": 1, "connection": 2},  # one of workers, one of writers
            kinds={**_processes("engine"), **WORKERS, **CLOCKS, **CONNECTIONS},
        ),
        Plan(
            "bridge",
            engines=2,
            workers={HANDLE: (0, 1), HANDLE_OLD: (0,), HANDLE_POISON: (0,), HANDLE_AWAY: (1,)},
            groups={"store": 1, "clock": 1, "connection": 3},  # the last is that of the engine in the process of the writers
            kinds={
                **_processes("engine"),
                "restart all engines": Kind("restart all", "engine", (0.5, 1.5)),
                **_processes("store"),
                **WORKERS,
                **CLOCKS,
                **CONNECTIONS,
            },
        ),
        Plan(
            "attach",
            engines=1,
            workers={HANDLE: (0, 0), HANDLE_OLD: (0,), HANDLE_POISON: (0,), HANDLE_AWAY: (0,)},
            groups={"attached": 2, "redis": 1, "clock": 1, "connection": 4},  # of each: to Redis, to the engine
            kinds={**_processes("engine"), **_processes("attached"), **WORKERS, **REDIS, **CLOCKS, **CONNECTIONS},
        ),
    )
}
"""By adapter."""

IN_TURN = [adapter for adapter in PLANS if adapter != "cluster"]
"""What `all` means, and the long runs: a run on a cluster is for itself."""


@dataclass(frozen=True)
class PlannedFault:
    """A fault: so many seconds after the start, to this engine (connection, worker), for so many seconds."""

    at: float
    kind: str
    target: int
    seconds: float


def faults(seed: int, seconds: float, plan: Plan) -> list[PlannedFault]:
    """The faults of a run of so many seconds. Each kind comes up before any comes again."""
    chance = random.Random(seed)
    kinds = _shuffled_again_and_again(chance, plan)
    planned = []
    begin = FIRST_CALM_SECONDS
    while begin + BURST_SECONDS / 2 <= seconds:
        at = begin
        end = min(begin + BURST_SECONDS, seconds)
        while (at := at + chance.uniform(0.3, 2.0)) < end:
            name = next(kinds)
            kind = plan.kinds[name]
            target = chance.randrange(plan.targets(kind.group))
            planned.append(PlannedFault(round(at, 3), name, target, round(chance.uniform(*kind.seconds), 3)))
        begin = end + CALM_SECONDS
    return planned


def _shuffled_again_and_again(chance: random.Random, plan: Plan) -> Iterator[str]:
    while True:
        kinds = list(plan.kinds)
        chance.shuffle(kinds)
        yield from kinds
