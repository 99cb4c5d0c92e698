"""Clients that read and write the same few keys at once, and note when each call was made, when it was answered, and with what."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from iii_state.errors import ConnectionLost, FunctionError
from tests.linearizability.operations import UNTOLD, Listing, Operation, Place
from tests.support.engines.turning import TurningClient

CLIENTS = 6
KEYS = 4
OPERATIONS = 40
"""So many of each client are one history: the keys of the next one are others, so that what is open does not pile up."""

CALL_SECONDS = 3.0
PAUSE_SECONDS = 0.05
"""After a call that was refused, and before an engine that could not be reached is tried again."""

REFUSED = ("SET_ERROR", "UPDATE_ERROR", "DELETE_ERROR", "deserialization_error", "VALUE_TOO_LARGE", "function_not_found")
"""Codes that say of a mutation that it was not made (`iii_state/docs/errors.md`)."""

MADE = ("NOT_CONFIRMED", "OLD_VALUE_UNKNOWN")
"""Codes that say that it was."""


@dataclass
class Record:
    """What the clients have noted of one set of keys."""

    keys: list[Place]
    operations: list[Operation] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    refused: int = 0

    def figures(self) -> Counter[str]:
        """How many operations of each outcome there are."""
        opened = sum(each.returned is None for each in self.operations)
        return Counter(answered=len(self.operations) - opened, open=opened, refused=self.refused, listings=len(self.listings))


class Load:
    """Clients that begin with the engines in turn; use with `async with`."""

    def __init__(self, urls: Sequence[str], seed: int, clients: int = CLIENTS) -> None:
        self._random = random.Random(seed)
        self._callers = [TurningClient(urls, number, f"client-{number}", CALL_SECONDS, PAUSE_SECONDS) for number in range(clients)]
        self._numbers = count()

    async def __aenter__(self) -> Load:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*[caller.close() for caller in self._callers])

    async def record(self, operations: int = OPERATIONS) -> Record:
        """Have each client make so many calls on keys of their own, and read everything in the end."""
        number = next(self._numbers)
        scope = f"linearizability {number}"
        record = Record([(scope, f"k{key}") for key in range(KEYS)])

        async def work(caller: int) -> None:
            chance = random.Random(self._random.random())
            for call in range(operations):
                await self._call(caller, record, *_chosen(chance, record.keys, f"{number}.{caller}.{call}"))

        async with asyncio.TaskGroup() as tasks:
            for caller in range(len(self._callers)):
                tasks.create_task(work(caller))
        for key in range(KEYS):
            await self._call(key % len(self._callers), record, record.keys[key], "get", None, "")
        await self._call(0, record, record.keys[0], "list_keys", None, "")
        return record

    async def _call(self, caller: int, record: Record, place: Place, kind: str, argument: Any, mark: str) -> None:
        payload: dict[str, Any] = {"scope": place[0]}
        if kind != "list_keys":
            payload["key"] = place[1]
        if argument is not None:
            payload["ops" if kind == "update" else "value"] = argument
        client = await self._callers[caller].connect()
        invoked = time.monotonic_ns()
        returned: int | None = None
        response: Any = None
        try:
            answer = await client.call(f"state::{kind}", json.dumps(payload).encode())
            returned = time.monotonic_ns()
            response = _response(kind, None if answer is None else json.loads(answer))
        except FunctionError as error:
            if error.code == "TIMEOUT":
                self._callers[caller].leave()
            if error.code in REFUSED:
                record.refused += 1
                await asyncio.sleep(PAUSE_SECONDS)
                return
            if error.code in MADE:
                returned, response = time.monotonic_ns(), UNTOLD
        except ConnectionLost as error:
            self._callers[caller].leave()
            if not error.sent:
                record.refused += 1
                return
        if kind != "list_keys":
            record.operations.append(Operation(place, kind, argument, invoked, returned, response, mark, f"client {caller}"))
        elif returned is not None:
            record.listings.append(Listing(place[0], response, invoked, returned))


def _chosen(chance: random.Random, keys: Sequence[Place], mark: str) -> tuple[Place, str, Any, str]:
    """What a client does next: key, kind, argument, mark."""
    place = chance.choice(keys)
    match chance.choices(("get", "set", "delete", "increment", "append", "merge", "list_keys"), (28, 14, 8, 14, 14, 10, 12))[0]:
        case "set":
            return place, "set", {"n": 0, "w": mark}, mark
        case "increment":
            return place, "update", [{"type": "increment", "path": "n", "by": 1}], ""
        case "append":
            return place, "update", [{"type": "append", "path": ["log"], "value": [mark]}], mark
        case "merge":
            ops = [{"type": "merge", "value": {"w": mark}}, {"type": "increment", "path": ["deep", "n"], "by": 2}]
            return place, "update", ops, mark
        case kind:
            return place, kind, None, ""


def _response(kind: str, answer: Any) -> Any:
    match kind:
        case "set":
            return answer["old_value"]
        case "update":
            assert "errors" not in answer, answer
            return answer["old_value"], answer["new_value"]
        case "list_keys":
            return answer["keys"]
        case _:
            return answer
