"""The bridge adapter: values, sessions and events of a remote engine, by its own functions and its trigger type `state`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.adapters.bridge import answers
from iii_state.adapters.bridge.feeds import Feeds
from iii_state.adapters.bridge.remote import Remote
from iii_state.config import BridgeSettings
from iii_state.errors import Code, FunctionError, StoreError
from iii_state.events import DeadLetter, Delivery, DispatchLimits, Failure, QueueLimits, QueueStats, Subscription
from iii_state.sessions import Request
from iii_state.tasks.closing import Stopping
from iii_state.tasks.results import Answer
from iii_state.values.ops import Plan

T = TypeVar("T")

HEALTH_SECONDS = 2.0
LINE_UP = b'"iii-state::line_up"'
READINGS = 10
"""So often a scope is begun to be read that connections break on."""

DEADLINES = "deadlines: ttl_ms would be ignored"
"""What a stock engine has not: one that would be ignored is worse than one that is refused."""

PAGE = b',"limit":1000,"max_bytes":8000000'


class BridgeAdapter:
    """Uses the state of the engine at `bridge_url`."""

    def __init__(
        self, settings: BridgeSettings, *, limits: QueueLimits | None = None, dispatch: DispatchLimits | None = None
    ) -> None:
        self.parts = _Parts(settings, limits=limits, dispatch=dispatch)
        self.values = self.sessions = self.queues = self.admin = self.succession = self.parts
        self.start, self.stop, self.health = self.parts.start, self.parts.stop, self.parts.health
        self.route = self.parts.route

    @property
    def store(self) -> str | None:
        return self.parts.store


class _Parts:
    """Uses the state of the engine at `bridge_url`."""

    def __init__(
        self, settings: BridgeSettings, *, limits: QueueLimits | None = None, dispatch: DispatchLimits | None = None
    ) -> None:
        self._remote = Remote(settings, self._connected, self._lost)
        self._feeds = Feeds(self._remote, limits or QueueLimits(), dispatch or DispatchLimits())
        url = settings.bridge_url
        self._read_value = answers.checked(url, "state::get", answers.value)
        self._read_deleted = answers.checked(url, "state::delete", answers.value)
        self._read_replaced = answers.checked(url, "state::set", answers.replaced)
        self._read_updated = answers.checked(url, "state::update", answers.updated)
        self._read_texts = answers.checked(url, "state::list", answers.texts)
        self._read_groups = answers.checked(url, "state::list_groups", answers.groups)
        self._read_keys = answers.checked(url, "state::list_keys", answers.keys)
        self._read_line = answers.checked(url, "iii-state::line_up", answers.before)
        self._read_page = answers.checked(url, "state::list_entries", answers.page)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._has_started = False
        self._stopping = Stopping(self._stop)

    # -- opening and closing

    async def start(self, bell: Callable[[str], None]) -> None:
        if self._has_started:
            raise StoreError("this bridge adapter has been started before, and cannot be used again: make another one")
        self._has_started = True
        self._feeds.bell = bell
        try:
            await self._remote.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        await self._stopping()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._feeds.close()
        await self._remote.stop()

    async def health(self) -> str | None:
        trouble = self._remote.trouble
        if trouble is not None:
            return f"cut off: {trouble}"
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._remote.route([])
        except TimeoutError:
            return f"the engine at {self._remote.url} has not answered for {HEALTH_SECONDS:g} s"
        except FunctionError as error:
            return str(error)
        return None

    def _connected(self) -> None:
        self._feeds.connected()

    def _lost(self) -> None:
        self._feeds.lost()

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- values

    def get(self, scope: str, key: str) -> Answer[bytes | None]:
        return self._remote.call(b'"state::get"', _place(scope, key), self._read_value)

    def set(
        self, scope: str, key: str, value: bytes, *, ttl_ms: int | None = None, request: Request | None = None
    ) -> Answer[bytes | None]:
        data = b'%b,"value":%b' % (_place(scope, key), value)
        needs = ""
        if ttl_ms is not None:
            data, needs = b'%b,"ttl_ms":%d' % (data, ttl_ms), DEADLINES
        return self._remote.call(b'"state::set"', data, self._read_replaced, is_mutation=True, ticket=_ticket(request), needs=needs)

    def delete(self, scope: str, key: str, *, request: Request | None = None) -> Answer[bytes | None]:
        place = _place(scope, key)
        return self._remote.call(b'"state::delete"', place, self._read_deleted, is_mutation=True, ticket=_ticket(request))

    def update(
        self,
        scope: str,
        key: str,
        plan: Plan,
        limit: int,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
    ) -> Answer[Updated]:
        data = b'%b,"ops":%b' % (_place(scope, key), plan.text)
        needs = ""
        if ttl_ms is not None:
            data, needs = b'%b,"ttl_ms":%d' % (data, ttl_ms), DEADLINES
        if limit < values.MAX_VALUE_BYTES:
            data = b'%b,"_iii_state_limit":%d' % (data, limit)
        return self._remote.call(
            b'"state::update"', data, self._read_updated, is_mutation=True, ticket=_ticket(request), needs=needs
        )

    @property
    def store(self) -> str | None:
        return self._remote.store

    def open(self, session: str, previous_epoch: int, epoch: int) -> Answer[None]:
        return self._own(self._remote.open_session(session, previous_epoch, epoch))

    def texts(self, scope: str) -> Answer[list[bytes]]:
        return self._remote.call(b'"state::list"', b'{"scope":%b' % values.encode_string(scope), self._read_texts)

    def keys(self, scope: str) -> Answer[list[str]]:
        return self._own(self._keys_of(scope))

    async def _keys_of(self, scope: str) -> list[str]:
        return await self._ask_newer("state::list_keys", b'{"scope":%b' % values.encode_string(scope), self._read_keys)

    def entries(self, scope: str) -> Answer[list[tuple[str, bytes]]]:
        return self._own(self._entries(scope))

    async def _entries(self, scope: str) -> list[tuple[str, bytes]]:
        """The pages of one snapshot. A cursor ends with its connection: where that breaks, the scope is read from its beginning."""
        for _ in range(READINGS):
            try:
                return await self._pages(scope)
            except FunctionError as error:
                if error.code != Code.INVALID_CURSOR:
                    raise
        raise StoreError(
            f"the connection to {self._remote.url} broke {READINGS} times while the scope was read in pages: nothing was read"
        )

    async def _pages(self, scope: str) -> list[tuple[str, bytes]]:
        name = values.encode_string(scope)
        found: list[tuple[str, bytes]] = []
        cursor = b""
        while True:
            try:
                page = await self._ask_newer("state::list_entries", b'{"scope":%b%b%b' % (name, PAGE, cursor), self._read_page)
            except FunctionError as error:
                if error.code != Code.ROW_TOO_LARGE:
                    raise
                return [*found, *await self._large_entries(scope, dict(found))]
            found.extend((key, answers.stored(text)) for key, text in page.entries)
            if page.next_cursor is None:
                return found
            cursor = b',"cursor":%b' % values.encode_string(page.next_cursor)

    async def _large_entries(self, scope: str, known: dict[str, bytes]) -> list[tuple[str, bytes]]:
        """What is too large for a page: it comes last, and is read one by one, as it is now."""
        found = []
        for key in await self._keys_of(scope):
            if key not in known:
                text = self.get(scope, key)
                assert isinstance(text, asyncio.Future)
                if (value := await text) is not None:
                    found.append((key, value))
        return found

    async def _ask_newer(self, function_id: str, data: bytes, read: Callable[[bytes | None], T]) -> T:
        """Call a function that older engines do not have."""
        try:
            answer: T = await self._remote.call(values.encode_string(function_id), data, read)
        except FunctionError as error:
            if error.code != Code.FUNCTION_NOT_FOUND:
                raise
            raise StoreError(
                f"the engine at {self._remote.url} has no {function_id} (stock engines have it since 0.24), and without it "
                "tells the values of a scope, not their keys"
            ) from None
        return answer

    def scopes(self) -> Answer[list[str]]:
        return self._remote.call(b'"state::list_groups"', b"{", self._read_groups)

    def enter(self, worker: str, ttl_ms: int) -> Answer[list[str]]:
        return self._own(self._line_up(worker, ttl_ms))

    def leave(self, worker: str) -> Answer[None]:
        return self._own(self._step_out(worker))

    async def _line_up(self, worker: str, ttl_ms: int) -> list[str]:
        request = b'{"worker":%b,"ttl_ms":%d' % (values.encode_string(worker), ttl_ms)
        try:
            before: list[str] = await self._remote.call(LINE_UP, request, self._read_line)
        except FunctionError as error:
            if error.code != Code.FUNCTION_NOT_FOUND:
                raise
            return []  # a stock engine, or an older one of this project
        return before

    async def _step_out(self, worker: str) -> None:
        await self._line_up(worker, 0)

    def route(self, visited: list[str]) -> Answer[list[str]]:
        return self._own(self._remote.route(visited))

    def enable_events(self, enabled: bool) -> None:
        self._feeds.enabled = enabled

    # -- subscriptions and deliveries

    def subscribe(self, subscription: Subscription) -> Answer[None]:
        return self._feeds.subscribe(subscription)

    def offer(self, subscription_id: str, served: bool) -> None:
        self._feeds.offer(subscription_id, served)

    def unsubscribe(self, subscription_id: str) -> None:
        self._feeds.unsubscribe(subscription_id)

    def abandon(self, subscription_id: str) -> None:
        self._feeds.abandon(subscription_id)

    def take(self, subscription_id: str, count: int) -> list[Delivery]:
        return self._feeds.take(subscription_id, count)

    def holds(self, delivery: Delivery) -> bool:
        return self._feeds.holds(delivery)

    def ack(self, deliveries: Sequence[Delivery], want: int = 0) -> list[Delivery]:
        return self._feeds.ack(deliveries, want)

    def retry(self, delivery: Delivery, delay_ms: int, failure: Failure, *, crashed: bool = False) -> None:
        self._feeds.retry(delivery, delay_ms, failure, crashed=crashed)

    def dead_letter(self, delivery: Delivery, failure: Failure) -> None:
        self._feeds.bury(delivery, failure)

    def release(self, deliveries: Sequence[Delivery], *, begun: bool = False) -> None:
        self._feeds.release(deliveries, begun=begun)

    def stats(self) -> Answer[list[QueueStats]]:
        return self._own(self._feeds.queues())

    def dead_letters(self, function_id: str | None = None) -> Answer[list[DeadLetter]]:
        return self._own(self._feeds.dead_letters(function_id))

    def dead_retry(self, dead_letter_id: str) -> Answer[bool]:
        return self._own(self._feeds.revive(dead_letter_id))

    def dead_drop(self, dead_letter_id: str) -> Answer[bool]:
        return self._own(self._feeds.discard(dead_letter_id))


def _ticket(request: Request | None) -> bytes | None:
    return None if request is None else values.encode(request)


def _place(scope: str, key: str) -> bytes:
    return b'{"scope":%b,"key":%b' % (values.encode_string(scope), values.encode_string(key))
