"""Sends frames to a running engine, right and wrong ones, and counts the answers."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter, deque
from dataclasses import dataclass, field

from tests.fuzz import messages, texts
from tests.fuzz.connection import Connection, frame
from tests.fuzz.messages import ID, Sample

FRAMES_PER_CONNECTION = 250
SAMPLES = 1500
AT_ONCE = 8
LINGER = 6
"""So many stay when they have had all their answers."""
WRONG = 0.85
"""The share of connections that are closed over a wrong frame. Each has a few frames only."""
FRAMES_PER_WRONG = 8

_ANSWER = re.compile(rb'\{"type":"invocationresult","invocation_id":"(fuzz-[0-9a-z-]+)"')


@dataclass
class Found:
    """What a part has done and seen."""

    frames: int = 0
    connections: int = 0
    damaged: int = 0
    calls: int = 0
    """That had to be answered once."""
    problems: list[str] = field(default_factory=list)


class Part:
    """So many frames, all from one seed."""

    def __init__(self, port: int, seed: str, frames: int) -> None:
        self._port = port
        self._seed = seed
        self._left = frames
        luck = random.Random(seed)
        self.found = Found()
        self._lingering: deque[tuple[Connection, bool]] = deque()
        self._samples = [messages.message(luck) for _ in range(SAMPLES)]

    async def run(self) -> Found:
        """Send them, over several connections at a time."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work())
        while self._lingering:
            await self._leave()
        return self.found

    async def _work(self) -> None:
        while self._left > 0:
            number = self.found.connections
            self.found.connections += 1
            luck = random.Random(f"{self._seed}:{number}")
            if luck.random() < WRONG:
                await self._wrong(luck)
            else:
                await self._right(luck, number)

    def _sample(self, luck: random.Random) -> Sample:
        """A message, damaged or not. Every call has an id of its own."""
        sample = luck.choice(self._samples)
        if luck.random() < 0.4:
            self.found.damaged += 1
            other = luck.choice(self._samples).text
            return Sample(texts.damaged(sample.text, other, luck).replace(ID, b"fuzz-damaged"), None)
        return sample

    def _next(self) -> None:
        self.found.frames += 1
        self._left -= 1

    async def _right(self, luck: random.Random, number: int) -> None:
        """A connection that stays open, since each of its frames is one: every call on it is answered."""
        found = self.found
        expected: dict[bytes, int] = {}
        sent: dict[bytes, bytes] = {}
        answers: Counter[bytes] = Counter()
        closing = b"fuzz-last-%d" % number
        parts = []
        if luck.random() < 0.5:
            parts.append(frame(_INTRODUCTION % luck.choice((b'"0.25.0"', b'"0.12.0"'))))
        for index in range(min(FRAMES_PER_CONNECTION, self._left)):
            self._next()
            text, wanted = self._sample(luck)
            if ID in text:
                name = b"fuzz-%d-%d" % (number, index)
                text = text.replace(ID, name)
                if wanted is not None:
                    expected[name] = wanted
                    sent[name] = text
                    found.calls += wanted
            parts.append(messages.framed(text, luck))
        parts.append(frame(_LAST % closing))

        def receive(text: bytes) -> None:
            answer = _ANSWER.match(text)
            if answer is not None:
                answers[answer[1]] += 1

        connection = await Connection.open(self._port, receive)
        missing = [name for name, wanted in expected.items() if wanted]
        try:
            await connection.send(b"".join(parts))
            await connection.until(
                lambda: answers[closing] > 0 and all(answers[name] for name in missing), f"{self._seed}, connection {number}"
            )
            await connection.send(frame(_LAST % (closing + b"-again")))
            await connection.until(lambda: answers[closing + b"-again"] > 0, f"{self._seed}, connection {number}")
        except AssertionError as error:
            unanswered = [sent[name][:300] for name in missing if not answers[name]]
            found.problems.append(f"{error}; without an answer: {unanswered[:5]}")
        wrong = {name.decode(): answers[name] for name, wanted in expected.items() if answers[name] > wanted}
        if wrong:
            found.problems.append(f"{self._seed}, connection {number}: more answers than calls: {wrong}")
        self._lingering.append((connection, luck.random() < 0.3 or connection.is_over))
        if len(self._lingering) > LINGER or luck.random() < 0.5:
            await self._leave()

    async def _leave(self) -> None:
        """Close the connection that is the oldest of those that stay, with all that it serves, but never answers."""
        connection, resets = self._lingering.popleft()
        await connection.close(reset=resets)

    async def _wrong(self, luck: random.Random) -> None:
        """A connection that the engine may close at any frame, or that goes in mid-frame."""
        connection = await Connection.open(self._port, lambda text: None)
        for _ in range(luck.randint(1, FRAMES_PER_WRONG)):
            self._next()
            text = self._sample(luck).text
            if luck.random() < 0.5:
                await connection.send(messages.framed(text, luck))
            else:
                await connection.send(messages.unframed(text, luck))
        await connection.close(reset=True)


_LAST = b'{"type":"invokefunction","function_id":"state::get","data":{"scope":"s","key":"k"},"invocation_id":"%b"}'
_INTRODUCTION = (
    b'{"type":"invokefunction","function_id":"engine::workers::register","action":{"type":"void"},'
    b'"data":{"runtime":"python","name":"fuzz","version":%b,"os":"linux","pid":1}}'
)
