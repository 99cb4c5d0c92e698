"""What this engine hosts: registering subscriptions, letting them go, and removing the queues of those that have ended."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

from iii_state import values
from iii_state.adapters.redis.connection.explain import trouble_of
from iii_state.adapters.redis.fleet.aside import Aside
from iii_state.adapters.redis.fleet.heartbeat import NARROWED
from iii_state.adapters.redis.fleet.retention import HOLD_SECONDS, Retention
from iii_state.adapters.redis.mutations.route import route_text
from iii_state.adapters.redis.mutations.routes import Wanted, wanted_of
from iii_state.adapters.redis.scripts import subscriptions as scripts
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import NoAnswer, StoreError
from iii_state.events import FOREVER, Subscription
from iii_state.tasks.background import Background
from iii_state.tasks.repeats import Repeats

logger = logging.getLogger(__name__)
repeats = Repeats(logger)

BROADCAST_RETENTION_MS = 300_000

PAUSE_SECONDS = 0.1
"""How long a request waits when Redis could not be asked."""

DAMAGED_SECONDS = 5.0
"""For so long requests are made again that meet keys of another type: such keys are moved aside meanwhile."""


class Hosted(NamedTuple):
    """A subscription that is hosted here. `engine` is the id under which Redis has it, empty where that is not certain."""

    subscription: Subscription
    queue: bytes
    engine: bytes


@dataclass(slots=True, frozen=True)
class _Request:
    """To subscribe (`again`, if it is hosted still), or to let go: `retained` tells whether the queue waits."""

    subscription_id: str
    answer: asyncio.Future[None]
    subscription: Subscription | None = None
    queue: bytes = b""
    retained: bool = False
    again: bool = False


class Subscriptions:
    """Requests are carried out one after the other; those to subscribe that lie together are one call. While Redis is away they
    wait: a trigger that is registered or let go meanwhile is so in the end. So they do while something is in the way of a key: a
    worker does not try again when its trigger was refused."""

    def __init__(self, shared: Shared, retention: Retention, aside: Aside) -> None:
        self.hosted: dict[str, Hosted] = {}
        """By subscription id."""
        self._keys = shared.keys
        self._run, self._send = shared.connection.run, shared.connection.send
        self._engine = shared.engine
        self._pubsub = shared.pubsub
        self._wake_ups = shared.wake_ups
        self._maintenance = shared.maintenance
        self._routes = shared.fanout.routes
        self._retention = retention
        self._aside = aside
        self._damaged_at = 0.0
        """When the first of the requests was made that have met keys of another type since, 0 where the last one has not."""
        self._requests: deque[_Request] = deque()
        self._under_way: dict[Wanted, set[bytes]] = {}
        """Queues of subscriptions that are being registered."""
        self._background = Background()
        self._task: asyncio.Task[None] | None = None
        shared.connection.restored.connect(self.doubt)

    async def stop(self) -> None:
        """Carry out nothing more, and end what only this engine could have served."""
        await self._background.stop()
        for request in self._requests:
            if not request.answer.done():
                request.answer.set_exception(StoreError("the redis adapter has been stopped"))
        for hosted in list(self.hosted.values()):
            if hosted.subscription.delivery == "broadcast":
                await self._retention.end(hosted.queue, self._engine.id)
        self.hosted.clear()

    def subscribe(self, subscription: Subscription) -> asyncio.Future[None]:
        """Host it. Raises `StoreError` where there are too many with its scope and key."""
        queue = self._queue_of(subscription)
        wanted = wanted_of(subscription)
        under_way = self._under_way.setdefault(wanted, set())
        self._routes.refuse_too_many(wanted, queue, under_way)
        answer = self._request(subscription.id, subscription=subscription, queue=queue)
        under_way.add(queue)

        def registered(_: asyncio.Future[None]) -> None:
            under_way.discard(queue)
            if not under_way and self._under_way.get(wanted) is under_way:
                del self._under_way[wanted]

        answer.add_done_callback(registered)
        return answer

    def unsubscribe(self, subscription_id: str) -> asyncio.Future[None]:
        """Let it go for good."""
        return self._request(subscription_id)

    def abandon(self, subscription_id: str) -> asyncio.Future[None]:
        """Let it go for now."""
        return self._request(subscription_id, retained=True)

    def queue_of(self, subscription_id: str) -> bytes | None:
        """The queue of a subscription that is hosted here, for certain: a takeover from this engine looks there."""
        hosted = self.hosted.get(subscription_id)
        return hosted.queue if hosted is not None and hosted.engine == self._engine.id else None

    def doubt(self) -> None:
        """Another Redis may answer by now, that has not heard of the latest."""
        self.hosted = {name: hosted._replace(engine=b"") for name, hosted in self.hosted.items()}

    def doubt_one(self, queue: bytes) -> None:
        """Redis has lost that this queue is hosted here."""
        name = self._wake_ups.subscription_of(queue) or ""
        if name in self.hosted:
            self.hosted[name] = self.hosted[name]._replace(engine=b"")
            self._maintenance.plan(0)

    async def host_again(self) -> int:
        """Register what is not registered for certain, or under another id of this engine."""
        missing = [(name, hosted) for name, hosted in self.hosted.items() if hosted.engine != self._engine.id]
        answers = [
            self._request(name, subscription=hosted.subscription, queue=hosted.queue, again=True) for name, hosted in missing
        ]
        for error in await asyncio.gather(*answers, return_exceptions=True):
            if isinstance(error, StoreError):
                repeats.warning("a trigger could not be registered again: %s; trying again", error)
                break
        return -1

    def _queue_of(self, subscription: Subscription) -> bytes:
        name = subscription.id.encode()
        return b"%b-%b" % (name, self._engine.instance) if subscription.delivery == "broadcast" else name

    def _forgotten(self, request: _Request) -> _Request:
        """A request to let go, with its queue. Not before its turn: what is to be let go may be on its way to be hosted."""
        known = self.hosted.pop(request.subscription_id, None)
        if known is None:
            return request if request.queue else replace(request, queue=request.subscription_id.encode())
        self._wake_ups.remove(known.queue)
        self._pubsub.ignore(self._keys.stream(known.queue))
        return replace(request, queue=known.queue)

    def _request(
        self,
        subscription_id: str,
        *,
        subscription: Subscription | None = None,
        queue: bytes = b"",
        retained: bool = False,
        again: bool = False,
    ) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        self._requests.append(_Request(subscription_id, answer, subscription, queue, retained, again))
        if self._task is None or self._task.done():
            self._task = self._background.start(self._work(), "iii-state redis subscriptions")
        return answer

    async def _work(self) -> None:
        while self._requests:
            batch = [self._requests.popleft()]
            if batch[0].subscription is not None:
                while self._requests and self._requests[0].subscription and len(batch) < scripts.SUBSCRIPTIONS_AT_ONCE:
                    batch.append(self._requests.popleft())
            else:
                batch[0] = self._forgotten(batch[0])
            try:
                await self._carry_out(batch)
            except NoAnswer as error:
                repeats.warning("triggers can be neither registered nor let go: %s; trying again", error)
                self._requests.extendleft(reversed(batch))
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:
                if self._may_be_mended(error):
                    self._requests.extendleft(reversed(batch))
                    await self._move_aside(batch)
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                self._damaged_at = 0.0
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
            except asyncio.CancelledError:
                self._requests.extendleft(reversed(batch))
                raise
            else:
                self._damaged_at = 0.0
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_result(None)

    def _may_be_mended(self, error: Exception) -> bool:
        """Whether a request has failed for a key of another type, and no other has for long."""
        if not isinstance(error, StoreError) or trouble_of(str(error)) != "WRONGTYPE":
            return False
        now = asyncio.get_running_loop().time()
        self._damaged_at = self._damaged_at or now
        return now - self._damaged_at < DAMAGED_SECONDS

    async def _move_aside(self, batch: list[_Request]) -> None:
        """Move aside what is in the way of these queues: no engine may look at them yet. Keys that all share are looked at."""
        typed = [(self._keys.subscription(request.queue), b"hash") for request in batch]
        typed += [(self._keys.stream(request.queue), b"stream") for request in batch]
        for error in await asyncio.gather(*(self._aside.move(*each) for each in typed), return_exceptions=True):
            if isinstance(error, StoreError):
                logger.info("what is in the way of a trigger could not be moved aside: %s", error)
                break

    async def _carry_out(self, batch: list[_Request]) -> None:
        first = batch[0]
        if first.subscription is not None:
            await self._host(batch)
        elif first.retained:
            engine = self._engine.id
            await self._run("subscriptions/abandon", scripts.abandon(self._keys, first.queue, engine))
            self._maintenance.plan(0)
        else:
            await self._retention.end(first.queue, self._engine.id)

    async def _host(self, batch: list[_Request]) -> None:
        batch = [request for request in batch if self._is_wanted(request)]
        if any(request.subscription is not None and request.subscription.is_narrowed for request in batch):
            batch = await self._without_refused(batch)
        if not batch:
            return
        registrations = []
        for request in batch:
            subscription = request.subscription
            assert subscription is not None
            if subscription.retention_ms != FOREVER:
                retention = b"%d" % int(subscription.retention_ms)
            else:  # an engine that died does not come back for what was broadcast to it
                retention = b"%d" % BROADCAST_RETENTION_MS if subscription.delivery == "broadcast" else b""
            settings = values.encode(subscription)
            registrations.append(scripts.Registration(request.queue, route_text(subscription), settings, retention))
        while True:
            await self._engine.is_member.wait()
            engine = self._engine.id
            reply = await self._run("subscriptions/subscribe", scripts.subscribe(self._keys, engine, registrations))
            if reply[0] == b"OK":
                changed = [word for registration in registrations for word in (registration.queue, registration.route)]
                self._routes.registered(reply[2], reply[1], changed)
                break
            if reply[0] == b"FENCED":
                self._engine.lost(engine)
            elif reply[0] == b"ENDING":
                await self._retention.clear(reply[1])
            else:
                await asyncio.sleep(HOLD_SECONDS)
        batch = [request for request in batch if self._is_wanted(request)]
        for request in batch:
            assert request.subscription is not None
            self.hosted[request.subscription_id] = Hosted(request.subscription, request.queue, engine)
            self._wake_ups.add(request.queue, request.subscription_id)
            self._wake_ups.wake(request.subscription_id)
        self._pubsub.listen([self._keys.stream(request.queue) for request in batch], self._wake_ups.heard)

    async def _without_refused(self, batch: list[_Request]) -> list[_Request]:
        """Refuse what an engine would take no notice of: that one would queue all events for a trigger that wants some. What is
        routed already stays: what is queued too much is found before it is handed out."""
        table = await self._send(b"HGETALL", self._keys.features)
        told = dict(zip(table[::2], table[1::2], strict=True))
        engines = await self._send(b"HKEYS", self._keys.engines)
        lacking = [engine for engine in engines if NARROWED not in told.get(engine, b"").split()]
        if not lacking:
            return batch
        error = StoreError(
            f"the engine {lacking[0].decode(errors='replace')} on the same Redis has not the feature {NARROWED.decode()}: "
            "it takes no notice of what narrows a trigger (prefixes, event_types, changed, when, coalesce). Such a trigger can be "
            "registered when all engines have been brought up to date"
        )
        kept: list[_Request] = []
        for request in batch:
            if request.subscription is None or not request.subscription.is_narrowed or self._routes.wanted_by(request.queue):
                kept.append(request)
            elif not request.answer.done():
                request.answer.set_exception(error)
        return kept

    def _is_wanted(self, request: _Request) -> bool:
        """Whether what is to be registered again is hosted still, and as it was: what has changed is a request of its own."""
        hosted = self.hosted.get(request.subscription_id)
        return not request.again or (hosted is not None and hosted.subscription is request.subscription)
