"""Events for what other programs do to the values: noticed by what Redis tells, found by comparing scopes with their shadows.

A shadow is a copy of a scope that the mutation scripts keep. A comparison looks for differences page by page; each is then made an
event by a script of its own, which looks again and brings the shadow up to date, so that it becomes one event, whoever compares.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from iii_state.adapters.redis.connection.call import Run
from iii_state.adapters.redis.identity import Identity
from iii_state.adapters.redis.keyspace.notifications import Keyspace
from iii_state.adapters.redis.keyspace.scan import all_scopes, hashes
from iii_state.adapters.redis.mutations.fanout import Fanout, Write, notice
from iii_state.adapters.redis.mutations.routes import FOREIGN_WRITES
from iii_state.adapters.redis.scripts import queues
from iii_state.errors import StoreError

logger = logging.getLogger(__name__)

CLASSES = "Kghxe"
"""What Redis has to tell: generic commands, hashes, what expires, what is evicted."""

FIRST_FIELDS, MOST_FIELDS = 20, 500
PAGE_BYTES = 500_000
"""A page is read at once; it holds about so much, and never more than so many fields."""

REST_PER_WORK = 3
"""Between two pages there is a pause of so many times what the page took, so that Redis is never taken up by comparing."""

LOCK_SECONDS = 5
"""A comparison holds its scope for so long without a sign of life: the engine may have died."""

RETRY_SECONDS = 1.0
_LOCK_MS = b"%d" % (LOCK_SECONDS * 1000)
_IGNORED = (b"expire", b"persist")


class ForeignWrites:
    """Watches the scopes of a fleet that has agreed to have foreign writes watched. `mutate` makes a write of a scope."""

    def __init__(
        self,
        fanout: Fanout,
        keyspace: Keyspace,
        engine: Identity,
        run: Run,
        send: Callable[..., asyncio.Future[Any]],
        mutate: Callable[[Write[Any], str], asyncio.Future[Any]],
    ) -> None:
        self._fanout = fanout
        self._keys = fanout.keys
        self._keyspace = keyspace
        self._engine = engine
        self._run = run
        self._send = send
        self._mutate = mutate
        self._values = keyspace.channel(self._keys.values(b""))
        self._own = b""
        """The key of the values that an own script writes just now, by the marks."""
        self._changed: dict[bytes, None] = {}
        """Scopes to be compared."""
        self._resting: dict[bytes, tuple[bytes, float]] = {}
        """Scopes that are compared elsewhere, by the token of that comparison, or have failed; and when they are to be, if that has
        not ended until then."""
        self._everything = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing: set[bytes] = set()
        self._unusable: set[bytes] = set()

    def start(self) -> None:
        """Begin to listen, and to compare everything with what was last seen."""
        self._keyspace.bells.listen([self._fanout.marks], self._heard_mark)
        self._keyspace.bells.listen_to_all(self._values + b"*", self._heard)
        self._task = asyncio.create_task(self._work(), name="iii-state foreign writes")

    async def stop(self) -> None:
        """Compare nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def changed(self, scopes: Iterable[bytes]) -> None:
        """Another program may have changed these."""
        for scope in scopes:
            self._resting.pop(scope, None)
            self._changed[scope] = None
            self._wake.set()

    # -- listening

    def _heard_mark(self, channel: bytes, mark: bytes | None) -> None:
        if mark is None:
            self._own = b""
        elif mark.startswith(b"+"):  # a comparison begins, which finds what has been told before
            token, _, scope = mark[1:].partition(b":")
            if scope in self._changed:
                del self._changed[scope]
                self._rest(scope, token, LOCK_SECONDS)
        elif mark.startswith(b"~"):  # and goes on
            token, _, scope = mark[1:].partition(b":")
            if self._resting.get(scope, (b"", 0))[0] == token:
                self._rest(scope, token, LOCK_SECONDS)
        elif mark.startswith(b"-"):
            token, _, scope = mark[1:].partition(b":")
            if self._resting.get(scope, (b"", 0))[0] == token:
                del self._resting[scope]
        else:
            self._own = mark

    def _heard(self, channel: bytes, event: bytes | None) -> None:
        if event is None:
            self._everything = True
            self._wake.set()
        elif event not in _IGNORED:
            scope = channel[len(self._values) :]
            if self._keys.values(scope) != self._own:
                self.changed((scope,))

    def _rest(self, scope: bytes, token: bytes, seconds: float) -> None:
        self._resting[scope] = (token, asyncio.get_running_loop().time() + seconds)

    # -- comparing

    async def _work(self) -> None:
        while True:
            try:
                async with asyncio.timeout(0.25 if self._resting or self._fanout.routes.is_filling else None):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                if self._fanout.routes.is_filling:
                    await self._fill()
                if self._everything:
                    self._everything = False
                    await self._compare_everything()
                await self._compare_what_changed()
            except StoreError as error:
                logger.info("looking for foreign writes is put off: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._everything = True
                self._wake.set()
            except Exception:
                logger.exception("looking for foreign writes has failed")
                await asyncio.sleep(RETRY_SECONDS)

    async def _compare_everything(self) -> None:
        """What was written while nothing was heard is found by looking."""
        scopes = [scope async for page in all_scopes(self._keys, self._send) for scope in page]
        random.shuffle(scopes)
        self.changed(scopes)

    async def _compare_what_changed(self) -> None:
        now = asyncio.get_running_loop().time()
        self.changed([scope for scope, (_, until) in self._resting.items() if until <= now])
        while self._changed:
            busy = True
            for scope in list(self._changed):
                if scope in self._changed and await self._compare_if_free(scope):
                    busy = False
            if busy:
                await asyncio.sleep(0.02)

    async def _compare_if_free(self, scope: bytes) -> bool:
        """False where another engine compares this scope, and had begun before what was told last."""
        shadows = self._fanout.routes.shadows
        if shadows is None or not _is_text(scope):
            self._refuse(scope)
            return True
        token, lock = secrets.token_hex(6).encode(), self._keys.comparing(scope)
        if not await self._send(b"SET", lock, token, b"NX", b"PX", _LOCK_MS):
            if await self._send(b"PTTL", lock) > 1000 * LOCK_SECONDS:  # Redis's clock was set back meanwhile
                await self._send(b"DEL", lock)
            return False
        self._changed.pop(scope, None)
        try:
            await self._send(b"PUBLISH", self._fanout.marks, b"+%b:%b" % (token, scope))
            await self._compare(shadows, scope, lock, b"~%b:%b" % (token, scope))
        except StoreError as error:
            if scope not in self._failing:
                self._failing.add(scope)
                logger.warning("what other programs have done to scope %r is not all noticed yet: %s", scope.decode(), error)
            self._changed.pop(scope, None)
            self._rest(scope, b"", RETRY_SECONDS)
        except BaseException:
            self._changed[scope] = None
            raise
        else:
            self._failing.discard(scope)
            await self._send(b"PUBLISH", self._fanout.marks, b"-%b:%b" % (token, scope))
        finally:
            self._release(lock)
        return True

    def _release(self, lock: bytes) -> None:
        # Also when this task is being cancelled, so nothing waits for it; a lock that stays ends by itself.
        self._send(b"DEL", lock).add_done_callback(lambda answered: answered.cancelled() or answered.exception())

    async def _compare(self, shadows: bytes, scope: bytes, lock: bytes, sign_of_life: bytes = b"") -> None:
        loop = asyncio.get_running_loop()
        names = (b"2", self._keys.values(scope), self._keys.shadow(shadows, scope))
        fields = FIRST_FIELDS
        for part in (b"v", b"s"):
            cursor = b"0"
            while True:
                began = loop.time()
                page = await self._run("foreign/compare", (*names, part, cursor, b"%d" % fields))
                pause = (loop.time() - began) * REST_PER_WORK
                cursor, looked_at, keys = page
                await self._notice(scope, keys)
                if cursor == b"0":
                    break
                fields = max(10, min(MOST_FIELDS, fields * PAGE_BYTES // (looked_at + 1)))
                await self._send(b"PEXPIRE", lock, _LOCK_MS)
                if sign_of_life:
                    await self._send(b"PUBLISH", self._fanout.marks, sign_of_life)
                await asyncio.sleep(pause)

    async def _notice(self, scope: bytes, keys: Sequence[bytes]) -> None:
        usable = [key for key in keys if _is_text(key) or self._refuse(scope, key)]
        name = scope.decode()
        writes = [self._mutate(notice(self._fanout, name, key.decode()), name) for key in usable]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _refuse(self, scope: bytes, key: bytes = b"") -> bool:
        """What is no UTF-8 cannot be in an event."""
        self._changed.pop(scope, None)
        if (not _is_text(scope) or not _is_text(key)) and len(self._unusable) < 1000 and scope + key not in self._unusable:
            self._unusable.add(scope + key)
            logger.warning("another program writes at scope %r, key %r, which is no UTF-8: that has no events", scope, key)
        return False

    # -- the first shadows

    async def _fill(self) -> None:
        """Make the shadows of what was there before foreign writes were watched; none of it is an event."""
        lock, token = self._keys.filling, self._engine.instance
        if not await self._send(b"SET", lock, token, b"NX", b"PX", _LOCK_MS) and await self._send(b"GET", lock) != token:
            return
        try:
            await self._fill_all(lock)
        finally:
            self._release(lock)

    async def _fill_all(self, lock: bytes) -> None:
        await self._fanout.follow(self._send)
        routes = self._fanout.routes
        if routes.is_filling and routes.shadows is not None:
            generation, setting = routes.shadows, routes.settings[FOREIGN_WRITES]
            async for names in hashes(self._send, self._keys.values(b"")):
                await self._send(b"PEXPIRE", lock, _LOCK_MS)
                for name in names:
                    scope = self._keys.scope_of(name) or b""
                    if _is_text(scope):
                        await self._send(b"PEXPIRE", lock, _LOCK_MS)
                        await self._compare(generation, scope, lock)
            await self._run("fleet/swap_setting", queues.change_setting(self._keys, FOREIGN_WRITES, setting, generation))
            await self._fanout.follow(self._send)
            logger.info("the writes of other programs have events from now on")
            await self._forget_others(generation)

    async def _forget_others(self, generation: bytes) -> None:
        """Shadows of an earlier time when foreign writes were watched."""
        kept = self._keys.shadow(generation, b"")
        async for names in hashes(self._send, self._keys.shadow(b"", b"")[:-1]):
            old = [name for name in names if not name.startswith(kept)]
            if old:
                await self._send(b"UNLINK", *old)


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
