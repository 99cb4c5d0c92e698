"""Calls of everybody on one connection: written together, answered in order, and sent again where the connection broke.

Calls made in one turn of the event loop are written together, replies are matched in order, many calls are in flight. When the
connection breaks, what was in flight is sent again over the next one in its order, each mutation with the slot and the sequence
number it had: Redis applies it if it had not, and else answers what it answered then (`lua/lib/sessions/recognise.lua`). So calls
apply in the order in which they were made, once each, across connections too.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import hiredis

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.call import AGAIN, HELD, Again, Command, RedisCall, Reply
from iii_state.adapters.redis.connection.carrier import Carrier
from iii_state.adapters.redis.connection.explain import (
    carried_before,
    closed_before_an_answer,
    explain,
    is_damage,
    is_of_another_server,
    is_of_former_primary,
    is_of_moving_slot,
    old_value_lost,
    record_lost,
    redirection_of,
    refusal_of,
    too_late,
)
from iii_state.adapters.redis.connection.holding import Holding
from iii_state.adapters.redis.connection.session import EngineSession
from iii_state.adapters.redis.connection.traffic import Traffic
from iii_state.errors import ConditionFailed, NoAnswer, OldValueUnknown, RequestFenced, SessionLost, StoreError
from iii_state.tasks.signal import Signal

logger = logging.getLogger(__name__)

T = TypeVar("T")

CALLS_PER_WRITE = 64
"""So many are written at once; Redis begins with them while the next are put together."""

CALLS_PER_JOINT = 16
BYTES_PER_JOINT = 16 * 1024
"""So many calls, with so many bytes of their own, are sent as one at most where they can be: nearly all of what that spares is
spared by so many, and Redis does nothing else until all of them are done."""

MAX_BYTES_IN_FLIGHT = 32 * 1024 * 1024
MAX_WAITING_BYTES = 256 * 1024 * 1024
MAX_WAITING_PER_CALL_IN_FLIGHT = 64
MAX_TRIES = 100
"""How often one call is sent on live connections: each time there was a reason that had gone by the next time."""


class Pipeline:
    """The calls that wait, those in flight, and those to be sent again. `adopt` gives it a connection, `give_up` takes it away."""

    def __init__(self, address: Address, session: EngineSession, *, call_timeout_ms: int, max_in_flight: int) -> None:
        self.address = address
        self.session = session
        self.socket: Carrier | None = None
        self.has_answered = False
        """Whether anything has come over the connection there is, or was last."""
        self.trouble = ""
        """Why there is no connection."""
        self.damaged = Signal()
        """Emitted when Redis holds something else than iii-state has left there."""
        self.demoted: Callable[[Carrier, str], None] = lambda socket, refusal: None
        """Called when the server of a connection has turned out to be no primary any more, by the error reply that says so. The
        connection is replaced."""
        self.log_lost: Callable[[int, str, int], None] = lambda level, reason, calls: None
        """Called at the end of a connection, for the log: at which level, why, and how many calls were on it."""
        self.timeout = call_timeout_ms / 1000
        self.is_closed = True
        self.traffic = Traffic()
        self._max_in_flight = max_in_flight
        self._max_waiting = MAX_WAITING_PER_CALL_IN_FLIGHT * max_in_flight
        self._waiting: deque[RedisCall[Any]] = deque()
        self._waiting_bytes = 0
        self._in_flight: deque[RedisCall[Any]] = deque()
        self._bytes_in_flight = 0
        self._again: deque[RedisCall[Any]] = deque()
        """To be sent before anything that waits; while there are any, nothing new is sent."""
        self._ahead: list[RedisCall[Any]] = []
        """To be sent before those."""
        self._kept_back: deque[RedisCall[Any]] = deque()
        """To be sent behind those, one after the other: see `Holding`."""
        self._must_load = False
        """Whether the scripts have to be loaded before that."""
        self._leave: str | None = None
        """Why the connection is to be replaced once everything in flight has been answered."""
        self._has_moved = False
        """Whether that is because the node serves the slot no more."""
        self._holding = Holding(self._go_on)
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._soon: Callable[[Callable[[], None]], object]
        """Has a callback called at the end of this turn of the event loop."""

    # -- the connection

    def open(self) -> None:
        """Take calls from now on."""
        self._loop = asyncio.get_running_loop()
        self._soon = self._loop.call_soon
        self.is_closed = False

    def adopt(self, socket: Carrier) -> None:
        """Go on over this connection, whose session is open and whose scripts are loaded."""
        self.has_answered = False
        if socket.closed.done():
            return
        socket.received = self._received
        socket.lost = lambda: self.give_up(socket, socket.trouble)
        self.socket = socket
        self._soon = socket.soon
        self._leave = None
        self._has_moved = False
        self.trouble = ""
        self._holding.end()
        self._send_again()
        self._flush()

    def give_up(self, socket: Carrier, reason: str) -> None:
        """The connection is over: what it carried is sent again over the next one."""
        if self.socket is not socket:
            return
        self.socket = None
        self._soon = self._loop.call_soon
        self._holding.end()
        self.traffic.received_bytes += socket.received_bytes
        socket.abort()
        if not self.is_closed:
            level = logging.INFO if self._has_moved else logging.WARNING  # what is moved on purpose is no trouble
            self.log_lost(level, reason, len(self._in_flight))
        self.trouble = reason
        self._bytes_in_flight = 0
        for call in self._in_flight:
            call.joint = 0
            if call.future.done():
                self.session.release(call)
            else:
                call.was_carried = call.mutates
                self._again.append(call)
        self._in_flight.clear()
        self._again += self._kept_back
        self._kept_back.clear()

    def lose_session(self) -> None:
        """The record of what has been applied is gone, and with it the answer for what an earlier connection had carried."""
        kept: deque[RedisCall[Any]] = deque()
        for call in self._again:
            call.slot = -1
            if call.was_carried and call.in_session:
                self._fail(call, record_lost(self.address))
            else:
                kept.append(call)
        self._again = kept
        self.session.renew()

    async def close(self) -> None:
        """End the connection; what has not been answered fails."""
        self.is_closed = True
        self._holding.end()
        if self._timer is not None:
            self._timer.cancel()
        if self.socket is not None:
            socket, self.socket = self.socket, None
            socket.lost = lambda: None
            socket.abort()
            await socket.closed
        for calls in (self._again, self._in_flight, self._kept_back, self._waiting):
            for call in calls:
                was_sent = call.was_carried or (call.mutates and calls is self._in_flight)
                self._fail(call, closed_before_an_answer(self.address, was_sent=was_sent))
            calls.clear()

    def current_traffic(self) -> Traffic:
        """What has been counted, and how many calls are on their way, or about to be sent."""
        waiting = len(self._again) + len(self._kept_back) + len(self._waiting)
        received = 0 if self.socket is None else self.socket.received_bytes
        received += self.traffic.received_bytes
        return replace(self.traffic, in_flight=len(self._in_flight), waiting=waiting, received_bytes=received)

    # -- sending

    def call(self, call: RedisCall[T]) -> asyncio.Future[T]:
        """Make a call. The Future fails with `StoreError` in words, or with what `call.result` raises. Cancelling it does not take
        back what has been sent."""
        if self.is_closed:
            raise StoreError(f"the connection to Redis at {self.address} is not open")
        if len(self._waiting) >= self._max_waiting or self._waiting_bytes > MAX_WAITING_BYTES:
            why = self.trouble or "it does not keep up"
            raise NoAnswer(f"{len(self._waiting)} calls wait for Redis at {self.address} already: {why}; nothing was changed")
        loop = self._loop
        call.deadline = deadline = loop.time() + self.timeout
        call.future = future = loop.create_future()
        self._waiting.append(call)
        self._waiting_bytes += call.size
        if not self._scheduled:
            self._scheduled = True
            self._soon(self._flush)
        if self._timer is None:
            self._timer = loop.call_at(deadline - self.timeout / 2, self._look_at_the_clock)
        return future

    def _flush(self) -> None:
        """Send what waits, as far as there is room."""
        self._scheduled = False
        socket = self.socket
        if socket is None or self._again or self._kept_back or self._leave is not None:
            return
        while packets := self._next_packets():
            self._write(socket, packets)

    def _next_packets(self) -> list[bytes]:
        """The bytes of what waits, as far as there is room, and as much as is written at once."""
        waiting, in_flight = self._waiting, self._in_flight
        packets: list[bytes] = []
        joint: list[RedisCall[Any]] = []
        joint_size = calls = 0
        room = (self._max_in_flight if not self._holding.reason else 1) - len(in_flight)
        room = min(room, CALLS_PER_WRITE)
        while waiting and calls < room and self._bytes_in_flight < MAX_BYTES_IN_FLIGHT:
            call = waiting.popleft()
            self._waiting_bytes -= call.size
            if call.future.done():
                continue
            calls += 1
            can_join = call.size <= BYTES_PER_JOINT and call.can_join()
            if joint and not (can_join and joint_size + call.size <= BYTES_PER_JOINT):
                packets.append(self._joined(joint))
                joint, joint_size = [], 0
            if not can_join:
                packets.append(self._packed(call))
                continue
            joint.append(call)
            joint_size += call.size
            if len(joint) == CALLS_PER_JOINT:
                packets.append(self._joined(joint))
                joint, joint_size = [], 0
        if joint:
            packets.append(self._joined(joint))
        return packets

    def _write(self, socket: Carrier, packets: list[bytes]) -> None:
        """Send the calls whose bytes these are; those that could not be built have none."""
        packets = [packet for packet in packets if packet]
        if not packets:
            return
        data = b"".join(packets) if len(packets) > 1 else packets[0]
        traffic = self.traffic
        traffic.calls += len(packets)
        traffic.round_trips += 1
        traffic.sent_bytes += len(data)
        socket.write(data, len(packets))

    def _send_again(self) -> None:
        again, self._again = self._again, deque()
        self.traffic.sent_again += len(again)
        if self._ahead:
            again.extendleft(reversed([self._leading(call) for call in self._ahead]))
            self._ahead.clear()
        if self._must_load:
            self._must_load = False
            self.traffic.script_loads += 1
            again.extendleft(reversed([self._leading(Command(words)) for words in self.session.scripts.load_commands()]))
        again += self._kept_back
        self._kept_back.clear()
        packets: list[bytes] = []
        while again and not (packets and self._holding.reason):
            call = again.popleft()
            if not self._dropped(call) and (packet := self._packed(call)):
                packets.append(packet)
        self._kept_back = again
        if packets:
            assert self.socket is not None
            self._write(self.socket, packets)

    def _leading(self, call: RedisCall[Any]) -> RedisCall[Any]:
        """A call that goes ahead of calls sent again; if it fails, they will say so."""
        call.future = self._loop.create_future()
        call.future.add_done_callback(_retrieved)
        call.deadline = self._loop.time() + self.timeout
        return call

    def _dropped(self, call: RedisCall[Any]) -> bool:
        """Whether a call has failed or was cancelled meanwhile: it is not sent again."""
        if call.future.done():
            self.session.release(call)
            return True
        return False

    def _packed(self, call: RedisCall[Any]) -> bytes:
        """The bytes of a call, which counts as in flight from now on; none if it could not be built."""
        session = self.session
        if call.in_session and call.slot < 0:
            session.number(call)
        try:
            packet = call.command(session.name, session.epoch)
        except Exception as error:
            session.release(call)
            call.future.set_exception(error)
            return b""
        call.size = len(packet)
        self._bytes_in_flight += call.size
        self._in_flight.append(call)
        return packet

    def _joined(self, calls: list[RedisCall[Any]]) -> bytes:
        """The bytes of one call for all of these, which count as in flight from now on; none if it could not be built."""
        first = calls[0]
        if len(calls) == 1:
            return self._packed(first)
        session = self.session
        for call in calls:
            if call.slot < 0:
                session.number(call)
        try:
            packet = first.joint_command(calls, session.name, session.epoch)
        except Exception as error:
            for call in calls:
                self._fail(call, error)
            return b""
        first.joint = len(calls)
        first.size = len(packet)  # that of the others is not asked for again
        self._bytes_in_flight += first.size
        self._in_flight += calls
        self.traffic.calls += len(calls) - 1
        return packet

    def _fail(self, call: RedisCall[Any], error: Exception) -> None:
        if not call.future.done():
            call.future.set_exception(error)
        self.session.release(call)

    # -- calls that are held

    @property
    def held_for(self) -> str:
        """Why calls are held over a connection that there is; empty where none are."""
        return self._holding.reason if self._again or self._kept_back else ""

    def _go_on(self) -> None:
        """Send what is to be sent again, or the next of it, and, when all of that has been answered, what waits."""
        self._send_again()
        if not self._in_flight:
            self._holding.settle()
        self._flush()

    # -- replies

    def _received(self, replies: list[Reply]) -> None:
        in_flight = self._in_flight
        self.has_answered = True
        for reply in replies:
            if not in_flight:  # of no call: this is no Redis, or a middlebox
                self._leave = f"Redis at {self.address} has sent what nobody asked for"
                break
            call = in_flight.popleft()
            self._bytes_in_flight -= call.size
            if call.joint:
                self._joint_answered(call, reply)
            else:
                self._answered(call, reply)
        socket = self.socket
        if socket is None:
            return
        if self._leave is not None:
            if not in_flight:
                self.give_up(socket, self._leave)
        elif self._again or self._kept_back or self._holding.reason:
            if not in_flight:
                if self._holding.is_due:
                    self._holding.pause()
                else:
                    self._holding.taken()
                    self._go_on()
        elif self._waiting and not self._scheduled:
            self._flush()

    def _joint_answered(self, first: RedisCall[Any], reply: Reply) -> None:
        """The reply of a call that stands for several: of each its own, or one that is that of all."""
        next_in_flight = self._in_flight.popleft
        calls = [first]
        for _ in range(first.joint - 1):
            calls.append(next_in_flight())
        first.joint = 0
        if type(reply) is not list or len(reply) != len(calls) or type(reply[0]) is bytes:
            for call in calls:
                self._answered(call, reply)
            return
        for call, own in zip(calls, reply, strict=True):
            self._answered(call, hiredis.ReplyError(own[1].decode("utf-8", "replace")) if own[0] == b"ERROR" else own)

    def _answered(self, call: RedisCall[Any], reply: Reply) -> None:
        try:
            result = call.result(reply) if type(reply) is not hiredis.ReplyError else self._refused(call, str(reply))
        except Exception as failure:
            self._failed(call, failure)
            return
        if type(result) is Again:
            if result is HELD:
                if not self._dropped(call):
                    self._again.append(call)
                return
            self._ahead.extend(first for first in result.first if first not in self._ahead)
            self._try_again(call, None)
            return
        future = call.future
        if not future.done():
            future.set_result(result)
        self.session.release(call)

    def _failed(self, call: RedisCall[Any], error: Exception) -> None:
        """What a failure means for a call that an earlier connection may have carried."""
        if isinstance(error, RequestFenced):
            if call.in_session:
                self._try_again(call, f"another connection has taken over the session at {self._server}")
                return
        elif isinstance(error, SessionLost):
            if call.was_carried:
                error = record_lost(self.address)
            elif call.in_session:
                self._try_again(call, f"the session is gone from Redis at {self._server}")
                return
        elif isinstance(error, OldValueUnknown):
            if call.in_session:
                error = old_value_lost(self.address)
        elif call.was_carried and not call.in_session and not isinstance(error, ConditionFailed):
            error = carried_before(self.address, error)  # an earlier connection's calls are not fenced, see `RequestId`
        self._fail(call, error)

    @property
    def _server(self) -> Address:
        """The one that answers, as far as there is one."""
        return self.address if self.socket is None else self.socket.address

    def _try_again(self, call: RedisCall[Any], leave: str | None) -> None:
        """Keep a call that changed nothing; with `leave`, for the next connection."""
        if leave is not None:
            self._leave = leave
        call.tries += 1
        if call.tries > MAX_TRIES:
            why = self._leave or "its scripts were lost, its routes changed, or another program wrote the same value, each time"
            told = f"Redis at {self._server} has put this call off {MAX_TRIES} times: {why}; nothing was changed"
            self._fail(call, NoAnswer(told))
        elif not self._dropped(call):
            self._again.append(call)

    def _refused(self, call: RedisCall[Any], text: str) -> Again:
        """What an error reply means. Raises `StoreError`, unless the call only has to be sent again."""
        if text.startswith("NOSCRIPT"):
            self._must_load = True
            return AGAIN
        if is_damage(text):
            self.damaged.emit()
        socket, address = self.socket, self._server
        if is_of_another_server(text):
            is_news = self._leave is None
            self._leave = explain(address, text)
            self._has_moved = redirection_of(text) == "MOVED"
            if is_of_former_primary(text):
                if is_news and socket is not None:
                    self.demoted(socket, text)
                return AGAIN
        elif is_of_moving_slot(text):
            if self._holding.refused(explain(address, text)) and socket is not None:
                self.demoted(socket, text)
            return HELD
        raise refusal_of(address, call, text)

    # -- time

    def _look_at_the_clock(self) -> None:
        """Fail what has waited too long, and give up a connection that has been silent for half of that time."""
        self._timer = None
        now = self._loop.time()
        socket, why = self.socket, self._silence()
        for call in self._in_flight:
            if call.deadline > now:
                break
            if not call.future.done():
                call.future.set_exception(too_late(call, why, sent=True))
        for calls in (self._again, self._kept_back, self._waiting):
            while calls and calls[0].deadline <= now:
                call = calls.popleft()
                if calls is self._waiting:
                    self._waiting_bytes -= call.size
                self._fail(call, too_late(call, why, sent=call.was_carried))
        if socket is not None and self._in_flight:
            silent_since = max(socket.heard, self._in_flight[0].deadline - self.timeout)
            if now - silent_since >= self.timeout / 2:
                self.give_up(socket, f"Redis at {socket.address} has not answered for {self.timeout * 500:.0f} ms")
        self._set_timer(now)

    def _silence(self) -> str:
        why = self.trouble or self._holding.reason or f"Redis at {self._server} does not answer"
        return f"{why}; given up after {self.timeout * 1000:.0f} ms"

    def _set_timer(self, now: float) -> None:
        deadlines = [
            call.deadline for calls in (self._again, self._kept_back, self._waiting) for call in itertools.islice(calls, 1)
        ]
        deadlines += [call.deadline for call in self._in_flight if not call.future.done()][:1]
        if self._in_flight:
            deadlines.append(now + self.timeout / 4)
        if deadlines:
            self._timer = self._loop.call_at(min(deadlines), self._look_at_the_clock)


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Whatever it failed with is not reported as forgotten."""
    future.cancelled() or future.exception()
