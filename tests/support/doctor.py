"""`iii-state doctor`, asked as an operator does, and its answer checked as a whole."""

from __future__ import annotations

import asyncio
import json

from click.testing import CliRunner, Result

from iii_state.cli import main
from tests.support.redis.server import RedisServer

FAULTS = {"eviction-policy", "values-unreadable", "queues-damaged", "events-lost", "file-damaged"}
"""What the exit code 1 is for, and nothing else."""


def ask(*arguments: str) -> Result:
    """What the command says."""
    return CliRunner().invoke(main, ["doctor", *arguments])


async def findings(*arguments: str) -> dict[str, dict[str, str]]:
    """What is found, by its id; the exit code says whether one is a fault."""
    result = await asyncio.to_thread(ask, *arguments, "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    found = {finding["id"]: finding for finding in json.loads(result.stdout)["findings"]}
    faults = {name for name, finding in found.items() if finding["severity"] == "fault"}
    assert faults == FAULTS & set(found), result.output
    assert result.exit_code == (1 if faults else 0)
    for finding in found.values():
        assert all(finding[member] for member in ("what", "meaning", "remedy"))
    return found


async def found_in(server: RedisServer, *arguments: str) -> dict[str, dict[str, str]]:
    """What is found in a Redis."""
    return await findings("--redis-url", server.url, *arguments)
