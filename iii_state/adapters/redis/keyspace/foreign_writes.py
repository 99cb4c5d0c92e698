"""Events for what other programs do to the values: when a scope is to be compared with its shadow, by what Redis tells."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Iterable

from iii_state.adapters.redis.keyspace.notifications import Notifications
from iii_state.adapters.redis.keyspace.scan import all_scopes, is_text
from iii_state.adapters.redis.keyspace.shadows import LOCK_MS, LOCK_SECONDS, Shadows
from iii_state.adapters.redis.shared import Shared
from iii_state.errors import StoreError
from iii_state.tasks.background import Background

logger = logging.getLogger(__name__)

CLASSES = "Kghxe"
"""What Redis has to tell: generic commands, hashes, what expires, what is evicted."""

FIRST_FIELDS, MOST_FIELDS = 20, 500
RETRY_SECONDS = 1.0
_IGNORED = (b"expire", b"persist")


class ForeignWrites:
    """Watches the scopes of a fleet that has agreed to have foreign writes watched."""

    def __init__(self, shared: Shared, notifications: Notifications) -> None:
        self._keys = shared.keys
        self._send = shared.connection.send
        self._pubsub = shared.pubsub
        self._fanout = shared.fanout
        self._shadows = Shadows(shared)
        self._values = notifications.channel(self._keys.values(b""))
        self._own = b""
        """The key of the values that an own script writes just now, by the marks."""
        self._changed: dict[bytes, None] = {}
        """Scopes to be compared."""
        self._resting: dict[bytes, tuple[bytes, float]] = {}
        """Scopes that are compared elsewhere, by the token of that comparison, or have failed; and when they are to be, if that has
        not ended until then."""
        self._everything = False
        self._wake = asyncio.Event()
        self._background = Background()
        self._failing: set[bytes] = set()

    def start(self) -> None:
        """Begin to listen, and to compare everything with what was last seen."""
        self._pubsub.listen([self._fanout.marks], self._heard_mark)
        self._pubsub.listen_to_all(self._values + b"*", self._heard)
        self._background.start(self._work(), "iii-state foreign writes")

    async def stop(self) -> None:
        """Compare nothing more."""
        await self._background.stop()

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
                    await self._shadows.fill()
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
        if shadows is None or not is_text(scope):
            self._changed.pop(scope, None)
            self._shadows.refuse(scope)
            return True
        token, lock = secrets.token_hex(6).encode(), self._keys.comparing(scope)
        if not await self._send(b"SET", lock, token, b"NX", b"PX", LOCK_MS):
            if await self._send(b"PTTL", lock) > 1000 * LOCK_SECONDS:  # Redis's clock was set back meanwhile
                await self._send(b"DEL", lock)
            return False
        self._changed.pop(scope, None)
        try:
            await self._send(self._fanout.scripts.publish, self._fanout.marks, b"+%b:%b" % (token, scope))
            await self._shadows.compare(shadows, scope, lock, b"~%b:%b" % (token, scope))
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
            await self._send(self._fanout.scripts.publish, self._fanout.marks, b"-%b:%b" % (token, scope))
        finally:
            self._shadows.release(lock)
        return True
