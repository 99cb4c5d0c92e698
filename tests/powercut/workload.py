"""What is done to a kv store on file while its operations are recorded: `python -m tests.powercut.workload`, once per life.

Beside the operations the record gets marks: what was asked for and what was acknowledged, which transaction has been committed,
and a digest of what the file holds then. `verdict.py` reads them.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from iii_state import values
from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.kv.journal import file, journal, space, transaction
from iii_state.adapters.kv.journal.transaction import Transaction
from iii_state.events import Delivery, Failure, RetryPolicy, Subscription
from iii_state.history import LogRules
from iii_state.sessions import Request
from tests.support import model
from tests.support.stores import LIMIT, plan
from tests.support.waiting import answer_of, until

ALL = Subscription("all", retention_ms="forever", retry=RetryPolicy(max_attempts=3))
ONE = Subscription("one", scope="docs", retention_ms="forever")
BOTH = {ALL.id: ALL, ONE.id: ONE}
SESSION = "session-of-the-power-cut"
SLOTS = 3
SAVE_INTERVAL_MS = 20
FAILED = Failure("invocation_failed", "boom")

_library = ctypes.CDLL(None)


def mark(what: str, **members: Any) -> None:
    """Add a mark to the record, if one is made."""
    if "POWERCUT_RECORD" in os.environ:
        text = json.dumps({"what": what, **members}).encode()
        _library.powercut_mark(text, ctypes.c_size_t(len(text)))


def short(value: Any) -> str | None:
    """What stands for a value in marks: equal for equal values."""
    return None if value is model.ABSENT else hashlib.sha1(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def short_text(text: bytes | None) -> str | None:
    """The same, of a stored text."""
    try:
        return short(model.ABSENT if text is None else values.decode(text))
    except msgspec.MsgspecError:
        return "damaged"


TABLES = (
    "SELECT scope, key, value FROM state ORDER BY scope, key",
    "SELECT scope, key, at_ms FROM deadline ORDER BY scope, key",
    "SELECT id, slot, seq, old, forgotten FROM session ORDER BY id, slot",
    "SELECT * FROM subscription ORDER BY id",
    "SELECT * FROM delivery ORDER BY number",
    "SELECT number, crashes FROM crash WHERE number IN (SELECT number FROM delivery) ORDER BY number",
    "SELECT * FROM dead_letter ORDER BY id",
)


def digest(tables: list[list[Any]]) -> str:
    """Stands for all that a file holds."""
    return hashlib.sha1(repr(tables).encode()).hexdigest()


def digest_of(connection: sqlite3.Connection) -> str:
    return digest([connection.execute(query).fetchall() for query in TABLES])


def watch_commits(fault: str) -> None:
    """Mark every transaction, and let the file work in small steps. `fault` is planted (`tests.powercut.cuts.recorded`)."""
    commit, open_file = transaction.commit, file.open_file

    def marked(connection: sqlite3.Connection, changes: Transaction) -> None:
        mark("committing")
        if fault == "two transactions":
            deliveries, changes.deliveries = changes.deliveries, []
            commit(connection, changes)
            changes = Transaction(deliveries=deliveries)
        commit(connection, changes)
        mark("committed", digest=digest_of(connection))

    def opened(path: Path, now: int, history: LogRules) -> tuple[sqlite3.Connection, file.Contents]:
        mark("committing")
        connection, contents = open_file(path, now, history)
        if fault == "synchronous off":
            connection.execute("PRAGMA synchronous=OFF")
        mark("committed", digest=digest_of(connection), store=contents.store)
        return connection, contents

    setattr(journal, "commit", marked)  # noqa: B010
    setattr(journal, "open_file", opened)  # noqa: B010
    if fault == "never forced":
        setattr(journal, "force_log_to_disk", lambda path: None)  # noqa: B010
    file.LOG_PAGES = 64
    space.MAX_FREE_PAGES, space.PAGES_PER_STEP = 8, 8


class Workload:
    """One life of a store."""

    def __init__(self, adapter: KvAdapter, luck: random.Random, life: int) -> None:
        self._adapter = adapter
        self._luck = luck
        self._life = life
        self._number = 0
        self._now: dict[tuple[str, str], Any] = {}
        self._open: set[asyncio.Future[Any]] = set()
        self._seqs: dict[int, int] = {}
        self._epoch = 0

    async def begin(self) -> None:
        """Go on from what the store holds."""
        adapter = self._adapter
        for scope in adapter.values.scopes():
            self._now.update({(scope, key): values.decode(text) for key, text in adapter.values.entries(scope).rows})
        for slot in range(SLOTS):
            self._seqs[slot] = self._now.get(("sessions", str(slot)), {"seq": 0})["seq"]
        for subscription in BOTH.values():
            adapter.queues.subscribe(subscription)
        self._epoch = self._life + 1
        await answer_of(adapter.sessions.open(SESSION, self._life, self._epoch))

    async def round(self) -> None:
        """A handful of mutations at once, and what was delivered is dealt with."""
        for _ in range(self._luck.randint(1, 6)):
            self._mutate()
        self._handle()
        if self._open and self._luck.random() < 0.7:
            await asyncio.wait(self._open, return_when=asyncio.FIRST_COMPLETED)

    async def settle(self) -> None:
        """Wait for every call."""
        while self._open:
            await asyncio.wait(self._open)

    async def be_saved(self) -> None:
        """Wait until the log has been forced to disk by itself."""
        await self.settle()
        before = _library.powercut_log_syncs()
        self._mutate()
        await self.settle()
        await until(lambda: _library.powercut_log_syncs() > before, "the log was not forced to disk")

    def _call(self, number: int, answer: Any) -> None:
        self._open.add(answer)

        def done(answer: asyncio.Future[Any]) -> None:
            self._open.discard(answer)
            answer.result()
            mark("acknowledged", number=number)

        answer.add_done_callback(done)

    def _issue(self, scope: str, key: str, value: Any, **more: Any) -> int:
        self._number += 1
        number = self._life * 1_000_000 + self._number
        if value is model.ABSENT:
            self._now.pop((scope, key), None)
        else:
            self._now[scope, key] = value
        mark("issued", number=number, scope=scope, key=key, value=short(value), **more)
        return number

    def _value(self) -> Any:
        luck = self._luck
        size = luck.choice((0, 0, 0, 10, 500, 5_000, 100_000 if luck.random() < 0.15 else 50))
        return {"life": self._life, "n": self._number + 1, "by": 0, "filler": "x" * luck.randint(0, size)}

    def _mutate(self) -> None:
        luck, store = self._luck, self._adapter.values
        draw = luck.random()
        scope, key = luck.choice(("docs", "other")), f"k{luck.randint(0, 11)}"
        if draw < 0.4:
            value = self._value()
            number = self._issue(scope, key, value)
            self._call(number, store.set(scope, key, values.to_stored(values.encode(value))))
        elif draw < 0.6:
            old = self._now.get((scope, key), model.ABSENT)
            ops = [
                {"type": "set", "path": "n", "value": self._number + 1},
                {"type": "set", "path": "life", "value": self._life},
                {"type": "increment", "path": "by", "by": 1},
            ]
            value, _ = model.update(old, ops)
            self._call(self._issue(scope, key, value), store.update(scope, key, plan(*ops), LIMIT))
        elif draw < 0.75:
            self._call(self._issue(scope, key, model.ABSENT), store.delete(scope, key))
        elif draw < 0.87:
            value, ttl_ms = self._value(), luck.choice((1, 10, 100, 3_600_000))
            number = self._issue("deadlines", key, value, ttl_ms=ttl_ms)
            self._call(number, store.set("deadlines", key, values.to_stored(values.encode(value)), ttl_ms=ttl_ms))
        else:
            slot = luck.randrange(SLOTS)
            self._seqs[slot] = seq = self._seqs[slot] + 1
            request = Request(SESSION, self._epoch, slot, seq)
            value = {"seq": seq, **self._value()}
            number = self._issue("sessions", str(slot), value, slot=slot, seq=seq)
            text = values.to_stored(values.encode(value))
            self._call(number, store.set("sessions", str(slot), text, request=request))
            if luck.random() < 0.3:
                self._call(number, store.set("sessions", str(slot), text, request=request))

    def _handle(self) -> None:
        luck, queues = self._luck, self._adapter.queues
        for subscription_id in BOTH:
            taken = queues.take(subscription_id, luck.randint(0, 8))
            done = []
            for delivery in taken:
                draw = luck.random()
                if draw < 0.7:
                    done.append(delivery)
                elif draw < 0.8:
                    queues.retry(delivery, luck.randint(1, 10), FAILED, crashed=luck.random() < 0.3)
                elif draw < 0.9:
                    _mark_delivery("dead", delivery)
                    queues.dead_letter(delivery, FAILED)
                else:
                    queues.release([delivery])
            if done:
                for delivery in done:
                    _mark_delivery("acking", delivery)
                names = [delivery.event_id for delivery in done]
                answer = queues.ack(done)
                assert isinstance(answer, asyncio.Future)
                self._open.add(answer)

                def acked(answer: asyncio.Future[Any], names: list[str] = names) -> None:
                    self._open.discard(answer)
                    mark("acked", events=names)

                answer.add_done_callback(acked)
        if luck.random() < 0.1:
            dead_letters = self._adapter.admin.dead_letters()
            if dead_letters:
                letter = luck.choice(dead_letters)
                mark("undead", event=letter.id, subscription=letter.subscription_id, scope=letter.event.scope, key=letter.event.key)
                drop: Callable[[str], object] = luck.choice((self._adapter.admin.dead_retry, self._adapter.admin.dead_drop))
                drop(letter.id)


def _mark_delivery(what: str, delivery: Delivery) -> None:
    event = delivery.event
    place = {"subscription": delivery.subscription_id, "scope": event.scope, "key": event.key}
    mark(what, event=delivery.event_id, **place, new=short_text(event.new))


async def live(directory: Path, seed: int, life: int, rounds: int, end: str) -> None:
    """Open the store, work, and end: with a clean `stop`, or by a `kill` in mid-work."""
    adapter = KvAdapter(directory, save_interval_ms=SAVE_INTERVAL_MS)
    await adapter.start(lambda subscription_id: None)
    work = Workload(adapter, random.Random(f"{seed}:{life}"), life)
    await work.begin()
    for number in range(rounds):
        await work.round()
        if number == rounds // 2:
            await work.be_saved()
    if end == "kill":
        await work.round()
        os.kill(os.getpid(), signal.SIGKILL)
    await work.settle()
    await adapter.stop()
    mark("stopped")


def main() -> None:
    directory, seed, life, rounds, end, fault = sys.argv[1:]
    _library.powercut_log_syncs.restype = ctypes.c_int64
    watch_commits(fault)
    asyncio.run(live(Path(directory), int(seed), int(life), int(rounds), end))


if __name__ == "__main__":
    main()
