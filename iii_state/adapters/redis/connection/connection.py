"""One connection to Redis that all calls of an engine share, kept up, and the session by which calls are recognised.

Calls made in one turn of the event loop are written together, replies are matched in order, many calls are in flight. When the
connection breaks, a new one is opened, the session's epoch is raised, and what was in flight is sent again in its order, each
mutation with the slot and the sequence number it had: Redis applies it if it had not, and else answers what it answered then
(`lua/lib/sessions/recognise.lua`). So calls apply in the order in which they were made, once each, across connections too.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast, overload

import hiredis

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.call import Again, Ahead, Call, Command, ScriptCall, _as_it_is
from iii_state.adapters.redis.connection.explain import explain, trouble_of
from iii_state.adapters.redis.connection.socket import Reply, Wire, open_wire
from iii_state.adapters.redis.scripts.loader import names, script
from iii_state.adapters.redis.scripts.mutations import opened
from iii_state.adapters.redis.scripts.packing import pack
from iii_state.errors import NoAnswer, OldValueUnknown, OutcomeUnknown, RequestFenced, SessionLost, SessionTaken, StoreError
from iii_state.sessions import SESSION_SECONDS

logger = logging.getLogger(__name__)

T = TypeVar("T")

CALLS_PER_WRITE = 64
"""So many are written at once; Redis begins with them while the next are put together."""

MAX_BYTES_IN_FLIGHT = 32 * 1024 * 1024
MAX_WAITING_BYTES = 256 * 1024 * 1024
MAX_WAITING_PER_CALL_IN_FLIGHT = 64
MAX_TRIES = 100
"""How often one call is sent on live connections: each time there was a reason that had gone by the next time."""

FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 2.0
SESSION_MS = b"%d" % (SESSION_SECONDS * 1000)


class Connection:
    """Calls to one Redis. `session_key` names the hash of a session in Redis.

    Raises `StoreError` from `start` when there is no way in; afterwards it reconnects by itself, and calls wait for that until
    their own time is over.
    """

    def __init__(
        self, address: Address, session_key: Callable[[bytes], bytes], *, call_timeout_ms: int = 5000, max_in_flight: int = 1024
    ) -> None:
        self.address = address
        self.restored: Callable[[], None] = lambda: None
        """Called when a broken connection has been replaced."""
        self.prepare: Callable[[Wire], Awaitable[None]] = _nothing_to_prepare
        """Awaited on every new connection but the first, before any call is sent: another server may answer by now."""
        self.stumbled: Callable[[], None] = lambda: None
        """Called when Redis holds something else than iii-state has left there."""
        self._session_key = session_key
        self._timeout = call_timeout_ms / 1000
        self._max_in_flight = max_in_flight
        self._max_waiting = MAX_WAITING_PER_CALL_IN_FLIGHT * max_in_flight
        self._waiting: deque[Call] = deque()
        self._waiting_bytes = 0
        self._in_flight: deque[Call] = deque()
        self._bytes_in_flight = 0
        self._again: deque[Call] = deque()
        """To be sent before anything that waits; while there are any, nothing new is sent."""
        self._reload = False
        """Whether the scripts have to be loaded before that."""
        self._ahead: list[Ahead] = []
        """What is to be sent before that, too."""
        self._new_session()
        self._sequences = itertools.count(1)
        self._wire: Wire | None = None
        self._leave: str | None = None
        """Why the connection is to be replaced once everything in flight has been answered."""
        self._trouble = ""
        self._proved = False
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        self._closed = True
        self._keeps_session = True

    def _new_session(self) -> None:
        self.session = secrets.token_hex(6).encode()
        self._epoch = 0
        self._held = 0
        """The last epoch that is known to have held; 0 before there was one."""
        self._slots = 0
        self._free_slots: list[int] = []

    # -- opening and closing

    async def start(self, check: Callable[[Wire], Awaitable[None]] | None = None) -> None:
        """Connect, let `check` look at the server before anything is written, and open the session.

        Raises `StoreError` in words.
        """
        self._loop = asyncio.get_running_loop()
        wire = await self._open(check)
        self._closed = False
        self._adopt(wire)
        self._keeper = asyncio.create_task(self._keep(), name="iii-state redis connection")

    def forget_session(self) -> None:
        """Redis does not answer: let the session expire."""
        self._keeps_session = False

    async def stop(self) -> None:
        """Let what is in flight be answered (bounded by the call timeout), drop the session, and close."""
        if self._closed:
            return
        if self._wire is not None and self._keeps_session:
            try:
                await self.call(lambda *ticket: (b"UNLINK", self._session_key(ticket[0])), _as_it_is)
            except StoreError as error:
                logger.info("the session could not be dropped, and will expire: %s", error)
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        if self._wire is not None:
            wire, self._wire = self._wire, None
            wire.lost = lambda: None
            wire.abort()
            await wire.closed
        for calls in (self._again, self._in_flight, self._waiting):
            for call in calls:
                self._fail(call, StoreError(f"the connection to Redis at {self.address} has been closed"))
            calls.clear()

    async def _open(self, first: Callable[[Wire], Awaitable[None]] | None = None) -> Wire:
        """A connection whose session is open and whose scripts are loaded."""
        try:
            async with asyncio.timeout(self._timeout):
                wire = await open_wire(self.address, f"iii-state:{self.session.decode()}")
                try:
                    if first is not None:
                        await first(wire)
                    await self._open_session(wire)
                    await self.prepare(wire)
                except BaseException:
                    wire.abort()
                    raise
                return wire
        except TimeoutError:
            hint = "; does it speak TLS on this port?" if self.address.tls is not None else ""
            raise StoreError(f"Redis at {self.address} has not answered within {self._timeout * 1000:.0f} ms{hint}") from None

    async def _open_session(self, wire: Wire) -> None:
        # The epoch counts attempts, not successes: one that was given up and gets through late cannot fence a later one.
        while True:
            self._epoch += 1
            key, epoch = self._session_key(self.session), b"%d" % self._epoch
            opening = (b"EVALSHA", script("sessions/open").sha1, b"1", key, b"%d" % self._held, epoch, SESSION_MS)
            replies = await wire.ask(*_load_commands(), opening)
            for refusal in replies:
                if isinstance(refusal, hiredis.ReplyError):
                    raise StoreError(explain(self.address, str(refusal)))
            reply = cast("list[object]", replies[-1])
            try:
                self._held = opened(reply)
                return
            except SessionLost:
                self._lose_session()
            except SessionTaken:
                if not self._held:  # an attempt of ours got through unheard
                    self._new_session()

    def _lose_session(self) -> None:
        """The record of what has been applied is gone, and with it the answer for what an earlier connection had carried."""
        logger.warning("the session is gone from Redis at %s (was it flushed?); beginning a new one", self.address)
        kept: deque[Call] = deque()
        for call in self._again:
            call.slot = -1
            if call.uncertain and call.ticketed:
                self._fail(call, self._record_lost())
            else:
                kept.append(call)
        self._again = kept
        self._new_session()

    async def _keep(self) -> None:
        """Replace the connection whenever it is over."""
        failures = 0
        while True:
            wire = self._wire
            if wire is not None:
                await self._refresh_until_closed(wire)
                if self._proved:
                    failures = 0
            while self._wire is None:
                if failures:
                    backoff = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures, 10))
                    await asyncio.sleep(backoff * random.uniform(0.5, 1))
                failures += 1
                try:
                    wire = await self._open()
                except StoreError as error:
                    if str(error) != self._trouble:
                        logger.warning("%s; trying again", error)
                    self._trouble = str(error)
                except Exception:
                    logger.exception("cannot connect to Redis at %s; trying again", self.address)
                else:
                    logger.info("connected to Redis at %s again", self.address)
                    self._adopt(wire)
                    self.restored()

    async def _refresh_until_closed(self, wire: Wire) -> None:
        """Keep the session from expiring, for as long as the connection lasts."""
        while True:
            done, _ = await asyncio.wait((wire.closed,), timeout=SESSION_SECONDS / 5)
            if done:
                return
            try:
                await self.call(lambda *ticket: (b"PEXPIRE", self._session_key(ticket[0]), SESSION_MS), _as_it_is)
            except StoreError as error:
                logger.warning("the session could not be kept: %s", error)

    def _adopt(self, wire: Wire) -> None:
        if wire.closed.done():
            return
        wire.received = self._received
        wire.lost = lambda: self._give_up(wire, wire.trouble)
        self._wire = wire
        self._leave = None
        self._proved = False
        self._trouble = ""
        self._send_again()
        self._flush()

    def _give_up(self, wire: Wire, reason: str) -> None:
        """The connection is over: what it carried is sent again over the next one."""
        if self._wire is not wire:
            return
        self._wire = None
        wire.abort()
        if not self._closed:
            logger.warning("%s; %d calls were on it; connecting again", reason, len(self._in_flight))
        self._trouble = reason
        self._bytes_in_flight = 0
        for call in self._in_flight:
            if call.future.done():
                self._release(call)
            else:
                call.uncertain = call.mutates
                self._again.append(call)
        self._in_flight.clear()

    # -- calls

    def send(self, *words: bytes, scope: str | None = None) -> asyncio.Future[Any]:
        """Send one command, and give its reply."""
        return self.call(lambda *ticket: words, _as_it_is, scope=scope)

    @overload
    def run(self, name: str, call: ScriptCall) -> asyncio.Future[Any]: ...

    @overload
    def run(self, name: str, call: ScriptCall, result: Callable[[Any], T]) -> asyncio.Future[T]: ...

    def run(self, name: str, call: ScriptCall, result: Callable[[Any], Any] = _as_it_is) -> asyncio.Future[Any]:
        """Call the script of this name, with keys and arguments; `result` reads its reply."""
        if callable(call):
            digest = script(name).sha1
            return self.call(lambda *ticket: (b"EVALSHA", digest, *call()), result)
        words = (b"EVALSHA", script(name).sha1, *call)
        return self.call(lambda *ticket: words, result, size=sum(map(len, words)))

    def call(
        self,
        command: Command,
        result: Callable[[Any], T],
        *,
        size: int = 0,
        mutates: bool = False,
        ticketed: bool = False,
        scope: str | None = None,
    ) -> asyncio.Future[T]:
        """Make a call.

        `command` gives it each time it is sent; `result(reply)` reads the reply that is no error, and raises
        `Again` where it is to be sent once more. One that `mutates` is recognised when it is sent again: by the ticket that it
        is given here, with `ticketed`, else by its caller's, which it bears already.
        `size` is about its bytes; `scope` is named in errors. The Future fails with `StoreError` in words, or with what
        `result` raises. Cancelling it does not take back what has been sent.
        """
        if self._closed:
            raise StoreError(f"the connection to Redis at {self.address} is not open")
        if len(self._waiting) >= self._max_waiting or self._waiting_bytes > MAX_WAITING_BYTES:
            why = self._trouble or "it does not keep up"
            raise NoAnswer(f"{len(self._waiting)} calls wait for Redis at {self.address} already: {why}; nothing was changed")
        loop = self._loop
        deadline = loop.time() + self._timeout
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append(Call(command, result, future, deadline, size, mutates, ticketed, scope))
        self._waiting_bytes += size
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
        if self._timer is None:
            self._timer = loop.call_at(deadline - self._timeout / 2, self._look_at_the_clock)
        return future

    def _flush(self) -> None:
        """Send what waits, as far as there is room."""
        self._scheduled = False
        wire = self._wire
        if wire is None or self._again or self._leave is not None:
            return
        waiting, in_flight = self._waiting, self._in_flight
        packets = []
        while waiting and len(in_flight) < self._max_in_flight and self._bytes_in_flight < MAX_BYTES_IN_FLIGHT:
            call = waiting.popleft()
            self._waiting_bytes -= call.size
            if not call.future.done() and (packet := self._packed(call)):
                packets.append(packet)
                if len(packets) == CALLS_PER_WRITE:
                    wire.write(b"".join(packets))
                    packets.clear()
        if packets:
            wire.write(b"".join(packets) if len(packets) > 1 else packets[0])

    def _send_again(self) -> None:
        again, self._again = self._again, deque()
        if self._ahead:
            again.extendleft(reversed([self._leading(*command) for command in self._ahead]))
            self._ahead.clear()
        if self._reload:
            self._reload = False
            again.extendleft(reversed([self._leading(command, _as_it_is) for command in _load_commands()]))
        packets = [packet for call in again if not self._dropped(call) and (packet := self._packed(call))]
        if packets:
            assert self._wire is not None
            self._wire.write(b"".join(packets))

    def _leading(self, command: tuple[bytes, ...] | Command, result: Callable[[Any], object]) -> Call:
        """A command that goes ahead of calls sent again; if it fails, they will say so."""
        future: asyncio.Future[object] = self._loop.create_future()
        future.add_done_callback(lambda answered: answered.cancelled() or answered.exception())
        deadline = self._loop.time() + self._timeout
        if callable(command):
            return Call(command, result, future, deadline, 0, True, True, None)
        words = command
        return Call(lambda *ticket: words, result, future, deadline, 0, False, False, None)

    def _dropped(self, call: Call) -> bool:
        """Nobody waits for it any more, so it is not sent again."""
        if call.future.done():
            self._release(call)
            return True
        return False

    def _packed(self, call: Call) -> bytes:
        """The bytes of a call, which counts as in flight from now on; none if it could not be built."""
        if call.ticketed and call.slot < 0:
            if self._free_slots:
                call.slot = self._free_slots.pop()
            else:
                call.slot = self._slots
                self._slots += 1
            call.sequence = next(self._sequences)
        try:
            packet = call.command(self.session, self._epoch, call.slot, call.sequence)
            if type(packet) is not bytes:
                packet = pack(tuple(cast("Sequence[bytes]", packet)))
        except Exception as error:
            self._release(call)
            call.future.set_exception(error)
            return b""
        call.size = len(packet)
        self._bytes_in_flight += call.size
        self._in_flight.append(call)
        return packet

    def _release(self, call: Call) -> None:
        if call.slot >= 0:
            self._free_slots.append(call.slot)
            call.slot = -1

    def _fail(self, call: Call, error: StoreError) -> None:
        if not call.future.done():
            call.future.set_exception(error)
        self._release(call)

    def _record_lost(self) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"the connection to Redis at {self.address} broke, and Redis has lost its record of this call: "
            "whether the change was made is not known"
        )

    # -- replies

    def _received(self, replies: list[Reply]) -> None:
        in_flight = self._in_flight
        self._proved = True
        for reply in replies:
            if not in_flight:  # nobody has asked: this is no Redis, or a middlebox
                self._leave = f"Redis at {self.address} has sent what nobody asked for"
                break
            call = in_flight.popleft()
            self._bytes_in_flight -= call.size
            self._answered(call, reply)
        wire = self._wire
        if wire is None:
            return
        if self._leave is not None:
            if not in_flight:
                self._give_up(wire, self._leave)
        elif self._again:
            if not in_flight:
                self._send_again()
                self._flush()
        elif self._waiting and not self._scheduled:
            self._flush()

    def _answered(self, call: Call, reply: Reply) -> None:
        future = call.future
        try:
            if type(reply) is hiredis.ReplyError:
                self._refused(call, str(reply))
            value = call.result(reply)
        except Again as again:
            self._ahead.extend(command for command in again.first if command not in self._ahead)
            self._try_again(call, None)
            return
        except RequestFenced as fenced:
            if call.ticketed:
                self._try_again(call, f"another connection has taken over the session at {self.address}")
                return
            error: Exception = fenced
        except SessionLost as lost:
            if call.uncertain:
                error = self._record_lost()
            elif call.ticketed:
                self._try_again(call, f"the session is gone from Redis at {self.address}")
                return
            else:
                error = lost
        except OldValueUnknown as forgotten:
            error = forgotten
            if call.ticketed:
                error = OldValueUnknown(
                    f"the change was made, but the connection to Redis at {self.address} broke before it could say what it replaced"
                )
        except Exception as failure:
            error = failure
            if call.uncertain and not call.ticketed:  # what the connection before this one carried is not fenced, see `Ticket`
                error = OutcomeUnknown(
                    f"{failure}; but an earlier connection to Redis at {self.address} had carried this call, too: "
                    "whether the change was made is not known"
                )
        else:
            if not future.done():
                future.set_result(value)
            if call.slot >= 0:
                self._free_slots.append(call.slot)
            return
        if not future.done():
            future.set_exception(error)
        self._release(call)

    def _try_again(self, call: Call, leave: str | None) -> None:
        """Keep a call that changed nothing; with `leave`, for the next connection."""
        if leave is not None:
            self._leave = leave
        call.tries += 1
        if call.tries > MAX_TRIES:
            why = leave or "its scripts were lost, its routes changed, or another program wrote the same value, each time"
            told = f"Redis at {self.address} has put this call off {MAX_TRIES} times: {why}; nothing was changed"
            self._fail(call, NoAnswer(told))
        elif not self._dropped(call):
            self._again.append(call)

    def _refused(self, call: Call, text: str) -> None:
        """Raises what an error reply means."""
        if text.startswith("NOSCRIPT"):
            self._reload = True
            raise Again
        trouble = trouble_of(text)
        if trouble == "WRONGTYPE" or "NOGROUP" in text or "user_script" in text or "not an integer" in text:
            self.stumbled()
        if trouble == "WRONGTYPE" and call.scope is not None:
            raise StoreError(
                f"a key on Redis at {self.address} has the wrong type: state:{call.scope}, or one that iii-state keeps: {text}"
            )
        # In Lua's own words: scripts compute first and write last, so nothing is half done.
        if call.mutates and "user_script" in text and ": attempt to " in text:
            raise StoreError(
                f"a script stumbled on Redis at {self.address}: a value in scope {call.scope!r}, or what iii-state keeps "
                f"for it, is not as iii-state writes it; nothing was changed ({text[:200]})"
            )
        if trouble in ("READONLY", "MASTERDOWN", "NOAUTH"):  # another server may answer there by now
            self._leave = explain(self.address, text)
        raise StoreError(explain(self.address, text))

    # -- time

    def _look_at_the_clock(self) -> None:
        """Fail what has waited too long, and give up a connection that has been silent for half of that time."""
        self._timer = None
        now = self._loop.time()
        wire = self._wire
        for call in self._in_flight:
            if call.deadline > now:
                break
            if not call.future.done():
                call.future.set_exception(self._too_late(call, sent=True))
        for calls in (self._again, self._waiting):
            while calls and calls[0].deadline <= now:
                call = calls.popleft()
                if calls is self._waiting:
                    self._waiting_bytes -= call.size
                self._fail(call, self._too_late(call, sent=call.uncertain))
        if wire is not None and self._in_flight:
            silent_since = max(wire.heard, self._in_flight[0].deadline - self._timeout)
            if now - silent_since >= self._timeout / 2:
                self._give_up(wire, f"Redis at {self.address} has not answered for {self._timeout * 500:.0f} ms")
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        deadlines = [call.deadline for calls in (self._again, self._waiting) for call in itertools.islice(calls, 1)]
        deadlines += [call.deadline for call in self._in_flight if not call.future.done()][:1]
        if self._in_flight:
            deadlines.append(now + self._timeout / 4)
        if deadlines:
            self._timer = self._loop.call_at(min(deadlines), self._look_at_the_clock)

    def _too_late(self, call: Call, *, sent: bool) -> StoreError:
        why = self._trouble or f"Redis at {self.address} does not answer"
        message = f"{why}; given up after {self._timeout * 1000:.0f} ms"
        if not call.mutates:
            return NoAnswer(message)
        if sent:
            return OutcomeUnknown(f"{message}; whether the change was made is not known")
        return NoAnswer(f"{message}; nothing was changed")


async def _nothing_to_prepare(wire: Wire) -> None:
    """Nobody wants to know what the server holds."""


def _load_commands() -> list[tuple[bytes, ...]]:
    """What loads every script. They are small; a server that has them already compiles nothing."""
    return [(b"SCRIPT", b"LOAD", script(name).source) for name in names()]
