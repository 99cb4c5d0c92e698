"""The queues: whether they are as iii-state left them, and whether events have been lost."""

from __future__ import annotations

from dataclasses import dataclass, field

from iii_state.adapters.redis.connection.connection import RedisConnection
from iii_state.adapters.redis.fleet.batches import batches
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts import inspections
from iii_state.observe.doctor.findings import Finding, counted, named

MOST_LANES = 10_000
"""A queue with more is not added up: reading its lanes would keep other callers waiting."""

_WORDS = {
    b"TYPE": "a key of it is of another type",
    b"GROUP": "its consumer group is gone",
    b"UNEVEN": "its events and its lanes do not fit together",
    b"DOUBT": "it has not been counted since it was damaged",
    b"COUNT": "its events are counted wrong",
    b"UNKNOWN": "its subscription is gone",
    b"LANES": "what should wait is not there",
}


@dataclass(slots=True)
class QueueDamage:
    """What was found."""

    damaged: dict[bytes, list[str]] = field(default_factory=dict)
    """By queue, what is wrong with it, in words."""
    lost: dict[bytes, int] = field(default_factory=dict)
    """By queue, how many events were found to be lost."""
    queued_bytes: int = 0
    has_other_types: bool = False
    """Whether some are behind keys of other types, and cannot be read."""

    def findings(self) -> list[Finding]:
        """It in words."""
        found = []
        if self.damaged:
            shown = [f"{queue.decode('utf-8', 'replace')} ({'; '.join(words)})" for queue, words in self.damaged.items()]
            found.append(
                Finding(
                    "fault",
                    "queues-damaged",
                    f"{counted(len(self.damaged), 'queue is', 'queues are')} damaged: {named(shown)}",
                    "Another program has removed, cut or replaced what iii-state keeps in Redis: events may be lost, or wait for "
                    "ever.",
                    "Engines that run repair it within seconds; else: iii-state doctor --repair. Find the program (CLIENT LIST)",
                )
            )
        if self.lost:
            shown = [f"{queue.decode('utf-8', 'replace')} ({count:,})" for queue, count in self.lost.items()]
            found.append(
                Finding(
                    "fault",
                    "events-lost",
                    f"{counted(sum(self.lost.values()), 'event has', 'events have')} been lost, of the queues {named(shown)}",
                    "Another program has removed them before they were handled. The values themselves are not touched by this.",
                    "Find the program (CLIENT LIST, ACL LOG), and bring in line what the handlers keep; "
                    "iii-state doctor --repair forgets the count",
                )
            )
        return found


async def of_queues(connection: RedisConnection, keys: Keys) -> QueueDamage:
    """Look at all queues; each in one step, so that traffic is not taken for damage."""
    found = QueueDamage()
    routed = [field for field in await connection.send(b"HKEYS", keys.routes) if not field.startswith(b":")]
    for queue in routed:
        told, lanes = await connection.run("repair/inspect_queue", inspections.inspect_queue(keys, queue, MOST_LANES))
        words = [_WORDS[word] for word, _ in told if word != b"LOST"]
        uneven = 0
        for part in batches(lanes, inspections.LANES_AT_ONCE):
            uneven += await connection.run("repair/inspect_lanes", inspections.inspect_lanes(keys, queue, part))
        if uneven:
            words.append(f"{_WORDS[b'LANES']} in {uneven:,} lanes")
        if words:
            found.damaged[queue] = words
        lost = sum(int(detail) for word, detail in told if word == b"LOST")
        if lost:
            found.lost[queue] = lost
        if b"TYPE" in [word for word, _ in told]:
            found.has_other_types = True
        else:
            found.queued_bytes += int(await connection.send(b"HGET", keys.busy(queue), b"bytes") or 0)
    return found


async def have_counted(connection: RedisConnection, keys: Keys, queues: QueueDamage) -> None:
    """Count the events of queues again whose lanes are in order, which engines do not look at."""
    for queue, words in queues.damaged.items():
        if words == [_WORDS[b"COUNT"]]:
            await connection.run("repair/recount_entries", inspections.recount_entries(keys, queue))


async def forget_lost(connection: RedisConnection, keys: Keys, queues: QueueDamage) -> None:
    """What was lost has been told: do not tell it again."""
    for queue in queues.lost:
        await connection.send(b"HDEL", keys.subscription(queue), b"lost")
        await connection.send(b"HDEL", keys.busy(queue), b"lost")
