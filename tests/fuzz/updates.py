"""Sends the same op lists to engines over different stores, and compares: with each other byte for byte, and with the model."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from iii_state import values
from tests.fuzz import texts
from tests.fuzz.connection import Connection, frame
from tests.fuzz.op_lists import OpList, op_list
from tests.support import model
from tests.support.vectors import exact

KEYS = 300
"""So many keys get an op list each at once, and the next when all have been answered."""
SAMPLES = 4000
SCOPES = ("s", "scope:é/{😀}")

_ID = re.compile(rb'"invocation_id":"(\d+)"')
_UNKNOWN = object()


@dataclass
class Found:
    """What a part has done and seen."""

    op_lists: int = 0
    refused: int = 0
    with_errors: int = 0
    modelled: int = 0
    """Whose answers were compared with the model's."""
    problems: list[str] = field(default_factory=list)


class _Answer(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class _Updated(msgspec.Struct):
    old_value: msgspec.Raw
    new_value: msgspec.Raw
    errors: list[dict[str, Any]] = []


_answer = msgspec.json.Decoder(_Answer)
_updated = msgspec.json.Decoder(_Updated)


class Engine:
    """A connection to an engine, on which many calls are made at once."""

    def __init__(self) -> None:
        self._connection: Connection
        self._answers: dict[bytes, bytes] = {}

    async def open(self, port: int) -> None:
        self._connection = await Connection.open(port, self._receive)

    async def close(self) -> None:
        await self._connection.close()

    def _receive(self, text: bytes) -> None:
        found = _ID.search(text)
        if found is not None:
            assert found[1] not in self._answers, f"two answers to one call: {text[:200]!r}"
            self._answers[found[1]] = text

    async def call(self, calls: list[bytes]) -> list[bytes]:
        """Send messages with the ids "0", "1" …, and return the answers in this order."""
        self._answers.clear()
        await self._connection.send(b"".join([frame(call) for call in calls]))
        try:
            await self._connection.until(lambda: len(self._answers) == len(calls), "answers are missing")
        except AssertionError as error:
            unanswered = [call for index, call in enumerate(calls) if b"%d" % index not in self._answers]
            raise AssertionError(f"{error}; {len(unanswered)} calls, the first: {unanswered[:1]}") from None
        return [self._answers[b"%d" % index] for index in range(len(calls))]


class Part:
    """So many op lists, all from one seed, on keys that are not there before and after. `redis` is the server of one engine."""

    def __init__(self, engines: list[Engine], seed: str, op_lists: int, redis: Any = None) -> None:
        self._engines = engines
        self._redis = redis
        self._seed = seed
        self._left = op_lists
        self._luck = luck = random.Random(seed)
        self._samples = [op_list(luck) for _ in range(SAMPLES)]
        self._places = [(luck.choice(SCOPES), f"{index}\u0000é") for index in range(KEYS)]
        self._known: list[Any] = [model.ABSENT] * KEYS
        """What the model holds; _UNKNOWN where it did not follow."""
        self._texts: list[bytes | None] = [None] * KEYS
        self.found = Found()

    async def run(self) -> Found:
        """Apply them, and compare everything."""
        while self._left > 0 and len(self.found.problems) < 10:
            await self._set_some()
            await self._update_all()
        await self._compare_stored()
        return self.found

    async def _set_some(self) -> None:
        """Values to begin with, so that ops meet all kinds of them, and the model knows again what is there."""
        luck = self._luck
        calls: list[bytes] = []
        chosen = []
        for index in range(KEYS):
            if luck.random() < 0.1:
                text = texts.value(luck) if luck.random() < 0.3 else texts.document(luck)
                data = self._data(index, f'"value":{text}')
                calls.append(_message(len(calls), "state::set", data))
                chosen.append((index, text))
        await self._same(calls)
        for index, text in chosen:
            self._known[index] = values.decode(text.encode())
            self._texts[index] = values.to_stored(text.encode())

    async def _update_all(self) -> None:
        lists = [self._luck.choice(self._samples) for _ in range(min(KEYS, self._left))]
        self._left -= len(lists)
        calls = [_message(index, "state::update", self._data(index, f'"ops":{ops.text}')) for index, ops in enumerate(lists)]
        answers = await self._same(calls)
        for index, (ops, answer) in enumerate(zip(lists, answers, strict=True)):
            self.found.op_lists += 1
            if problem := self._wrong(index, ops, answer):
                self.found.problems.append(f"{self._seed}: {problem}: ops {ops.text[:500]}, answer {answer[:500]!r}")

    async def _same(self, calls: list[bytes]) -> list[bytes]:
        """The answers to calls, which all engines give alike."""
        first, *others = await asyncio.gather(*(engine.call(calls) for engine in self._engines))
        for other in others:
            if other != first:
                for call, one, two in zip(calls, first, other, strict=True):
                    if one != two:
                        self.found.problems.append(f"{self._seed}: {call[:700]!r} gives {one[:500]!r} and {two[:500]!r}")
        return first

    def _data(self, index: int, more: str) -> str:
        scope, key = self._places[index]
        return f'{{"scope":{texts.name(scope, self._luck)},"key":{texts.name(key, self._luck)},{more}}}'

    def _wrong(self, index: int, ops: OpList, answer: bytes) -> str | None:
        decoded = _answer.decode(answer)
        if ops.is_refused:
            self.found.refused += 1
            if b'"deserialization_error"' not in bytes(decoded.error):
                return "it is not refused"
            return None
        if decoded.error:
            self._known[index] = _UNKNOWN if ops.ops is None else self._known[index]
            return None if ops.ops is None and b'"deserialization_error"' in bytes(decoded.error) else "it is refused"
        updated = _updated.decode(decoded.result)
        old = self._texts[index]
        if bytes(updated.old_value) != (b"null" if old is None else old):
            return f"the old value is not what was there, {old!r}"
        self._texts[index] = bytes(updated.new_value)
        self.found.with_errors += bool(updated.errors)
        known, self._known[index] = self._known[index], _UNKNOWN
        if ops.ops is None or known is _UNKNOWN:
            return None
        self.found.modelled += 1
        new, errors = model.update(known, ops.ops)
        self._known[index] = new
        if exact(values.decode(updated.new_value)) != exact(new):
            return f"the model gives {values.encode(new)[:500]!r}"
        told = [{name: error[name] for name in ("op_index", "code", "message")} for error in updated.errors]
        return None if told == errors else f"the model's errors are {errors}"

    async def _compare_stored(self) -> None:
        """What is stored is what the last answers said, on every engine, and goes."""
        calls = [_message(index, "state::get", self._data(index, '"unused":1')) for index in range(KEYS)]
        for index, answer in enumerate(await self._same(calls)):
            held = bytes(_answer.decode(answer).result)
            if held != (self._texts[index] or b""):
                self.found.problems.append(f"{self._seed}: {held[:500]!r} is stored, {self._texts[index]!r} was told")
        if self._redis is not None:
            for (scope, key), told in zip(self._places, self._texts, strict=True):
                if told is not None and (found := self._redis.hget(f"state:{scope}", key)) != told:
                    self.found.problems.append(f"{self._seed}: Redis has {found!r}, told was {told!r}")
        await self._same([_message(index, "state::delete", self._data(index, '"unused":1')) for index in range(KEYS)])


def _message(number: int, function_id: str, data: str) -> bytes:
    text = f'{{"type":"invokefunction","invocation_id":"{number}","function_id":"{function_id}","data":{data}}}'
    return text.encode(errors="surrogatepass")
