"""Clients that read and write the same few keys at once, and note when each call was made, when it was answered, and with what."""

from __future__ import annotations

import asyncio
import json
import random
import re
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
KEYS = 5
JOINED = 2
"""So many of them are changed by transactions, too, and are one object to the checker."""
OPERATIONS = 40
"""So many of each client are one history: the keys of the next one are others, so that what is open does not pile up."""

CALL_SECONDS = 3.0
PAUSE_SECONDS = 0.05
"""After a call that was refused, and before an engine that could not be reached is tried again."""

REFUSED = (
    "SET_ERROR",
    "UPDATE_ERROR",
    "DELETE_ERROR",
    "TRANSACT_ERROR",
    "deserialization_error",
    "VALUE_TOO_LARGE",
    "function_not_found",
)
"""Codes that say of a mutation that it was not made (`iii_state/docs/errors.md`)."""

MADE = ("NOT_CONFIRMED", "OLD_VALUE_UNKNOWN")
"""Codes that say that it was."""


@dataclass
class Record:
    """What the clients have noted of one set of keys."""

    keys: list[Place]
    etags: dict[Place, tuple[Any, str]] = field(default_factory=dict)
    """Of each key a value that was there, and its etag."""
    operations: list[Operation] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    refused: int = 0

    @property
    def joined(self) -> list[Place]:
        """The keys that transactions change."""
        return self.keys[:JOINED]

    def figures(self) -> Counter[str]:
        """How many operations of each outcome there are."""
        opened = sum(each.returned is None for each in self.operations)
        unmet = sum(isinstance(each.response, dict) and "unmet" in each.response for each in self.operations)
        kinds = Counter(f"{each.kind}s" for each in self.operations if each.kind in ("change", "transact"))
        return kinds + Counter(
            unmet=unmet, answered=len(self.operations) - opened, open=opened, refused=self.refused, listings=len(self.listings)
        )


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
                await self._call(caller, record, *_chosen(chance, record, f"{number}.{caller}.{call}"))

        async with asyncio.TaskGroup() as tasks:
            for caller in range(len(self._callers)):
                tasks.create_task(work(caller))
        for key in range(KEYS):
            await self._call(key % len(self._callers), record, record.keys[key], "get", None, "")
        await self._call(0, record, record.keys[0], "list_keys", None, "")
        return record

    async def _call(self, caller: int, record: Record, place: Place, kind: str, argument: Any, mark: str) -> None:
        function, payload = _request(place, kind, argument)
        client = await self._callers[caller].connect()
        invoked = time.monotonic_ns()
        returned: int | None = None
        response: Any = None
        try:
            answer = await client.call(f"state::{function}", json.dumps(payload).encode())
            returned = time.monotonic_ns()
            response = _response(kind, argument, None if answer is None else json.loads(answer))
            if kind == "get":
                response, etag = response["value"], response["etag"]
                if etag is not None:
                    record.etags[place] = (response, etag)
        except FunctionError as error:
            if error.code == "TIMEOUT":
                self._callers[caller].leave()
            if error.code in REFUSED:
                record.refused += 1
                await asyncio.sleep(PAUSE_SECONDS)
                return
            if error.code == "CONDITION_FAILED":
                returned, response = time.monotonic_ns(), _unmet(error.message)
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


CHOICES = {
    "get": 24,
    "set": 10,
    "delete": 6,
    "increment": 10,
    "append": 10,
    "merge": 8,
    "list_keys": 10,
    "create": 6,
    "compare and set": 10,
    "bounded": 8,
    "transact": 14,
}


def _chosen(chance: random.Random, record: Record, mark: str) -> tuple[Place, str, Any, str]:
    """What a client does next: key, kind, argument, mark."""
    place = chance.choice(record.keys)
    match chance.choices(list(CHOICES), list(CHOICES.values()))[0]:
        case "set":
            return place, "set", {"n": 0, "w": mark}, mark
        case "increment":
            return place, "update", [INCREMENT], ""
        case "append":
            return place, "update", [{"type": "append", "path": ["log"], "value": [mark]}], mark
        case "merge":
            ops = [{"type": "merge", "value": {"w": mark}}, {"type": "increment", "path": ["deep", "n"], "by": 2}]
            return place, "update", ops, mark
        case "transact":
            return record.joined[0], "transact", _transaction(chance, record, mark), mark
        case "create" | "compare and set" | "bounded" as kind:
            return place, "change", {**_change(chance, record, place, kind, mark), "if_failed": chance.random() < 0.5}, mark
        case kind:
            return place, kind, None, ""


INCREMENT = {"type": "increment", "path": "n", "by": 1}


def _change(chance: random.Random, record: Record, place: Place, kind: str, mark: str) -> dict[str, Any]:
    """A step with conditions. With `etag`, it is the etag of what the condition compares with that is sent."""
    if kind == "bounded":
        return {"ops": [INCREMENT], "if": [{"path": "n", "lt": 3}, {"path": ["w"], "present": True}]}
    seen = record.etags.get(place)
    if kind == "create" or seen is None:
        return {"value": {"n": 0, "w": mark}, "if": [{"absent": True}]}
    value, etag = seen
    step: dict[str, Any] = {} if chance.random() < 0.3 else {"value": {"n": 1, "w": mark}}
    return {**step, "if": [{"equals": value}], **({"etag": etag} if chance.random() < 0.5 else {})}


def _transaction(chance: random.Random, record: Record, mark: str) -> dict[str, Any]:
    """Changes of all joined keys, the last with a condition now and then."""
    places = chance.sample(record.joined, JOINED)
    steps: list[dict[str, Any]] = []
    for place in places:
        match chance.choice(("set", "increment", "append", "delete", "conditional")):
            case "set":
                step: dict[str, Any] = {"value": {"n": 0, "w": mark}}
            case "increment":
                step = {"ops": [INCREMENT]}
            case "append":
                step = {"ops": [{"type": "append", "path": ["log"], "value": [mark]}]}
            case "conditional":
                step = _change(chance, record, place, chance.choice(("create", "compare and set", "bounded")), mark)
            case _:
                step = {}
        steps.append({"key": place[1], **step})
    return {"steps": steps, "if_failed": chance.random() < 0.5}


def _request(place: Place, kind: str, argument: Any) -> tuple[str, dict[str, Any]]:
    """The function that is called, and with what."""
    payload: dict[str, Any] = {"scope": place[0]}
    if kind == "list_keys":
        return kind, payload
    if kind == "transact":
        payload["steps"] = [{"key": step["key"], "type": _function(step), **_sent(step)} for step in argument["steps"]]
    else:
        payload["key"] = place[1]
    if kind == "change":
        payload |= _sent(argument)
    if kind in ("change", "transact") and argument["if_failed"]:
        payload["if_failed"] = "return"
    if kind == "get":
        payload["meta"] = True
    elif kind in ("set", "update"):
        payload["ops" if kind == "update" else "value"] = argument
    return _function(argument) if kind == "change" else kind, payload


def _function(step: dict[str, Any]) -> str:
    return "update" if "ops" in step else "set" if "value" in step else "delete"


def _sent(step: dict[str, Any]) -> dict[str, Any]:
    sent: dict[str, Any] = {name: step[name] for name in ("value", "ops", "if") if name in step}
    if "etag" in step:
        sent["if"] = [{"etag": step["etag"]}]
    return sent


def _unmet(message: str) -> dict[str, Any]:
    """What the message of `CONDITION_FAILED` tells."""
    found = re.match(r"(?:steps\[(\d+)\]: )?Condition (\d+) ", message)
    assert found is not None, message
    return {"unmet": int(found[2]), "step": None if found[1] is None else int(found[1])}


def _response(kind: str, argument: Any, answer: Any) -> Any:
    if kind in ("change", "transact") and isinstance(answer, dict) and answer.get("applied") is False:
        return {"unmet": answer["condition"], "step": answer.get("step"), "value": answer["value"]}
    match kind:
        case "set":
            return answer["old_value"]
        case "update":
            assert "errors" not in answer, answer
            return answer["old_value"], answer["new_value"]
        case "change":
            return (answer, None) if _function(argument) == "delete" else (answer["old_value"], answer["new_value"])
        case "transact":
            return [(each["old_value"], each.get("new_value")) for each in answer["results"]]
        case "list_keys":
            return answer["keys"]
        case _:
            return answer
