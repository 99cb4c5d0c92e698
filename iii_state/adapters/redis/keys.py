"""The names of everything that lies in Redis.

Scopes and keys are any strings, so a name that holds both begins with the scope's length, and in a key's name the free part
stands last. A `Keys` names what lies together: all of a single Redis, or one partition of a cluster (`cluster/tags.py`).
"""

from __future__ import annotations

import hashlib
import re
from functools import cached_property

FORMAT = 1
"""The version of this layout, held in the key that `Keys.format` names. An engine refuses a newer one."""

LOG_FORMAT = 2
"""The same while any scope has a change log: engines that do not know of it must not write there, and refuse this one."""

MAX_LANE_BYTES = 64
"""A longer lane is named by a hash of it."""

_ASIDE = re.compile(rb":damaged:\d{13,}\Z")


def lane(scope: bytes, key: bytes) -> bytes:
    """The lane of a scope and key, the same in every queue; begins with a digit or `~`, and is never longer than 64 bytes."""
    name = b"%d:%b%b" % (len(scope), scope, key)
    return name if len(name) <= MAX_LANE_BYTES else b"~" + hashlib.sha256(name).hexdigest()[:40].encode()


def caller_session(session: str) -> bytes:
    """The name of a session that a caller has chosen; no engine's own begins like this."""
    return b"caller:" + session.encode()


class Keys:
    """The keys under one prefix and one hash tag. Ids of queues, sessions and engines are ours: short, and without surprises.

    `tag` is empty, or the part in braces, with a colon, that puts all these keys into one slot of a cluster. The values' keys
    take no prefix: `state:<scope>` is the layout of the stock engine.
    """

    def __init__(self, prefix: bytes = b"iii-state", tag: bytes = b"") -> None:
        self.is_parted = bool(tag)
        self._values = b"%bstate:" % tag
        self._own = b"%b%b:" % (tag, prefix)

    def values(self, scope: bytes) -> bytes:
        """Hash: key -> stored text."""
        return self._values + scope

    def scope_of(self, values_key: bytes) -> bytes | None:
        """The scope whose values a key holds, None for a key of something else."""
        return values_key[len(self._values) :] if values_key.startswith(self._values) else None

    @cached_property
    def guard(self) -> bytes | None:
        """Of a cluster: a key that never is there, the last one of each mutation. So a node refuses all mutations of a slot from
        the moment at which it begins to move, and not only those that miss a key: none overtakes one that was made before it."""
        return self._own + b"guard" if self.is_parted else None

    @cached_property
    def scopes(self) -> bytes:
        """Set: scopes with data."""
        return self._own + b"scopes"

    @cached_property
    def routes(self) -> bytes:
        """Hash: queue -> its route, which events it wants; and settings of the fleet, in fields that begin with a colon. Also the
        channel on which a setting is announced."""
        return self._own + b"routes"

    @cached_property
    def routes_version(self) -> bytes:
        """Integer, raised by every change of the routes."""
        return self._own + b"routes:version"

    @cached_property
    def routes_log(self) -> bytes:
        """Stream: the changes of the routes; the entry of version n has the id `n-0`."""
        return self._own + b"routes:log"

    @cached_property
    def hold(self) -> bytes:
        """String with a time to live: while it is there, the routes do not change."""
        return self._own + b"routes:hold"

    @cached_property
    def orphans(self) -> bytes:
        """Sorted set: queues that no engine hosts, by when their retention ends, in milliseconds."""
        return self._own + b"orphans"

    @cached_property
    def deadlines(self) -> bytes:
        """Sorted set: scopes, by when to look for a deadline that is over; also the channel on which an earlier one is told."""
        return self._own + b"deadlines"

    def deadlines_of(self, scope: bytes) -> bytes:
        """Sorted set: keys of a scope whose values have a deadline, by that, in milliseconds since 1970."""
        return b"%bdeadlines:%b" % (self._own, scope)

    @cached_property
    def later(self) -> bytes:
        """Sorted set: planned attempts, `<queue>:<entry id>`, by when they are due, in milliseconds."""
        return self._own + b"later"

    @cached_property
    def dead_queues(self) -> bytes:
        """Set: queues that have dead letters."""
        return self._own + b"dead"

    @cached_property
    def fenced(self) -> bytes:
        """Set: engines that have been declared dead, and whose queues have not all been taken over yet."""
        return self._own + b"fenced"

    @cached_property
    def line(self) -> bytes:
        """Hash: worker -> its place among those that serve this store to engines that are not ours, and until when it counts."""
        return self._own + b"line"

    @cached_property
    def engines(self) -> bytes:
        """Hash: engine -> its milliseconds to live, and how often its heart has beaten."""
        return self._own + b"engines"

    @cached_property
    def teller(self) -> bytes:
        """String with a time to live: the engine that tells in its metrics what the queues hold."""
        return self._own + b"teller"

    @cached_property
    def features(self) -> bytes:
        """Hash: engine -> what it can read of a queue's entries that an older one does not look at, words with spaces between."""
        return self._own + b"features"

    @cached_property
    def paused(self) -> bytes:
        """Hash: id of a subscription that is paused -> since when, in milliseconds since 1970, a space, and its settings."""
        return self._own + b"paused"

    @cached_property
    def clock(self) -> bytes:
        """Hash: the time of the fleet, by Redis's clock (`lua/lib/fleet/time.lua`)."""
        return self._own + b"clock"

    @cached_property
    def clock_copy(self) -> bytes:
        """String: a copy of that, for when the hash has been damaged."""
        return self._own + b"clock:copy"

    @cached_property
    def moving(self) -> bytes:
        """Hash: how far a move of a store to here is (`iii-state move`); gone when it is complete."""
        return self._own + b"moving"

    @cached_property
    def store(self) -> bytes:
        """The id of what is stored here; made once, and gone with a flush."""
        return self._own + b"store"

    @cached_property
    def format(self) -> bytes:
        """The version of the layout."""
        return self._own + b"format"

    def shadow(self, generation: bytes, scope: bytes) -> bytes:
        """Hash: key -> text of a scope as it was last seen, where foreign writes are watched."""
        return b"%bshadow:%b:%b" % (self._own, generation, scope)

    def comparing(self, scope: bytes) -> bytes:
        """String with a time to live: who compares a scope with its shadow just now."""
        return b"%bcomparing:%b" % (self._own, scope)

    @cached_property
    def filling(self) -> bytes:
        """String with a time to live: who makes the first shadows of everything just now."""
        return self._own + b"filling"

    def marks(self, database: int) -> bytes:
        """Channel on which the scripts that write values say so."""
        return b"%bwrites@%d" % (self._own, database)

    @cached_property
    def waited(self) -> bytes:
        """String that is written so that WAIT has something to wait for."""
        return self._own + b"waited"

    def engine(self, engine: bytes) -> bytes:
        """String with a time to live: an engine's heartbeat, holding what people know it by."""
        return b"%bengine:%b" % (self._own, engine)

    def hosts(self, engine: bytes) -> bytes:
        """Set: queues in which something may be pending at an engine."""
        return b"%bhosts:%b" % (self._own, engine)

    def history(self, scope: bytes) -> bytes:
        """Stream: the changes of a scope that has a change log; the entry of a revision has the id `<revision>-<milliseconds>`."""
        return b"%bhistory:%b" % (self._own, scope)

    def revisions(self, scope: bytes) -> bytes:
        """Hash: the latest revision of a scope's change log, and that of each of its values."""
        return b"%brevisions:%b" % (self._own, scope)

    def session(self, name: bytes) -> bytes:
        """Hash: epoch, and the outcomes of calls in flight: an engine's own, or, as `caller_session` names them, a caller's."""
        return b"%bsession:%b" % (self._own, name)

    def subscription(self, queue: bytes) -> bytes:
        """Hash: a subscription, and the engines that host it."""
        return b"%bsub:%b" % (self._own, queue)

    def stream(self, queue: bytes) -> bytes:
        """Stream: events ready to be handled. Also the channel of the queue's wake-ups."""
        return b"%bq:%b" % (self._own, queue)

    def busy(self, queue: bytes) -> bytes:
        """Hash: lane -> how many of its events are outstanding; `entries`, `bytes` and `fence` of the whole queue."""
        return b"%bbusy:%b" % (self._own, queue)

    def lineages(self, queue: bytes) -> bytes:
        """Hash: write's id -> what the write was made within, of events that wait; it goes by itself a day after the last one."""
        return b"%blineages:%b" % (self._own, queue)

    def wait(self, queue: bytes, lane: bytes) -> bytes:
        """List: events behind an outstanding one of the same lane."""
        return b"%bwait:%b:%b" % (self._own, queue, lane)

    def waiting(self, queue: bytes) -> bytes:
        """What the names of a queue's lists begin with."""
        return self.wait(queue, b"")

    def aside(self, key: bytes, now_ms: int) -> bytes:
        """What a key is called from now on that was in the way of one of ours."""
        return b"%b:damaged:%d" % (key, now_ms)

    @staticmethod
    def is_aside(name: bytes) -> bool:
        """Whether a name, or the end of one, is that of something that was moved aside."""
        return _ASIDE.search(name) is not None

    def dead(self, queue: bytes) -> bytes:
        """Stream: events whose handler kept failing."""
        return b"%bdead:%b" % (self._own, queue)
