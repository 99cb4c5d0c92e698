"""The two ends of a measurement: who calls and counts the answers, and who handles events.

Of an answer that is counted, only the frame's length is read, and whether an error is in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time

from benchmarks import frames
from benchmarks.jobs import HANDLER
from benchmarks.sockets import PATIENCE, TEXT, Socket, payload_span

_ERROR = b'"error":{'
_ERROR_BYTES = 1024
"""An error is shorter. Reads that hold only longer messages are not searched: that would cost more than the call."""


class Caller(Socket):
    """A connection that, once started, keeps a number of calls in flight.

    It times a sample of them: one at a time, found again by its id, so that the order of answers does not matter.
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.sent = 0
        self.done = 0
        self.errors = 0
        self.received_bytes = 0
        self.times: list[float] = []
        self._counting = False
        self._paced = False
        self._timed = True
        self._skip = 0
        self._ring: frames.Ring | None = None
        self._at = 0
        self._limit = math.inf
        self._sample = b""
        self._sample_sent = 0.0
        self._tail = b""
        self._all_done = asyncio.Event()

    def start(self, ring: frames.Ring, in_flight: int, limit: float = math.inf, *, paced: bool = False, timed: bool = True) -> None:
        """Send the first calls of a ring; each answer sends the next, until `limit` have been sent.

        With `paced`, `more` sends the next ones instead. Without `timed`, no times are taken.
        """
        self._counting = True
        self._ring, self._limit, self._paced, self._timed = ring, limit, paced, timed
        self.sent = self.done = self.received_bytes = 0
        self._at %= len(ring)
        self._sample = b""
        self._all_done.clear()
        self._send(int(min(in_flight, limit)))

    async def finished(self) -> int:
        """Begin no more than was asked for, wait for what is outstanding, and return how many answers never came."""
        if math.isinf(self._limit):
            self._limit = self.sent
        if self.done >= self._limit:
            return 0
        done = -1
        while done < self.done < self._limit and not self.closed:  # as long as there is progress
            done = self.done
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._all_done.wait()
        return int(self._limit) - self.done

    def read(self, data: bytes) -> None:
        """Step from frame to frame by their lengths."""
        if not self._counting:
            super().read(data)
            return
        self.received_bytes += len(data)
        at, end = self._skip, len(data)
        if at > end:  # still inside a frame that began in an earlier read
            self._skip = at - end
            return
        done = 1 if at else 0
        self._skip = 0
        if self._partial:
            data = self._partial + data
            end = len(data)
            self._partial = b""
        shortest = _ERROR_BYTES if at > _ERROR_BYTES else 0
        while at < end:
            if end - at < 10 and payload_span(data, at) is None:
                self._partial = data[at:]
                break
            n = data[at + 1]
            start = at + 2
            if n > 125:
                if n == 126:
                    start = at + 4
                    n = (data[at + 2] << 8) | data[at + 3]
                else:
                    start = at + 10
                    n = int.from_bytes(data[at + 2 : start], "big")
            stop = start + n
            if data[at] != TEXT:
                if stop > end:
                    self._partial = data[at:]
                    break
                self.control(data[at], data[start:stop])
            elif stop > end:
                self._skip = stop - end
                break
            else:
                done += 1
                if n < shortest:
                    shortest = n
            at = stop
        if shortest < _ERROR_BYTES and _ERROR in data:
            self.errors += data.count(_ERROR)
        if self._sample:
            self._look_for_sample(data)
        if done:
            self.done += done
            if self.done >= self._limit:
                self._all_done.set()
            elif not self._paced:
                self.more(done)

    def more(self, count: int) -> None:
        """Send `count` more calls, as far as the limit allows."""
        if count := int(min(count, self._limit - self.sent)):
            self._send(count)

    def _look_for_sample(self, data: bytes) -> None:
        if self._sample in data or (self._tail and self._sample in self._tail + data[:36]):
            self.times.append(time.perf_counter() - self._sample_sent)
            self._sample = b""
        self._tail = data[-36:]

    def _send(self, count: int) -> None:
        ring = self._ring
        assert ring is not None
        at, offsets = self._at, ring.offsets
        if self._timed and not self._sample:
            self._sample = ring.ids[at]
            self._tail = b""
            self._sample_sent = time.perf_counter()
        self.sent += count
        while count:
            step = min(count, len(ring) - at)
            self.transport.write(ring.bytes[offsets[at] : offsets[at + step]])
            at = (at + step) % len(ring)
            count -= step
        self._at = at


_BEFORE_ID, _AFTER_ID = frames.client_frame(
    f'{{"type":"invocationresult","invocation_id":"{"i" * 36}","function_id":"{HANDLER}"}}'.encode()
).split(b"i" * 36)


class Worker(Socket):
    """A connection that answers each call of its function at once: all that came in one read, in one write.

    `writer`, if set, sends a call for each that was handled; `waiting`, if set, gets the time at which one was read. Without
    `answers`, it takes calls and says nothing.
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.handled = 0
        self.handled_at = 0.0
        self.answers = True
        self.writer: Caller | None = None
        self.waiting: asyncio.Future[float] | None = None
        self._ids: list[bytes] = []

    def read(self, data: bytes) -> None:
        now = time.perf_counter()
        super().read(data)
        if self._ids:
            if self.answers:
                self.transport.write(b"".join([_BEFORE_ID + i + _AFTER_ID for i in self._ids]))
            count = len(self._ids)
            self.handled += count
            self.handled_at = now
            self._ids.clear()
            if self.writer:
                self.writer.more(count)
            if self.waiting and not self.waiting.done():
                self.waiting.set_result(now)

    def message(self, text: bytes) -> None:
        at = text.find(b'"invocation_id":"')
        if at >= 0 and b'"type":"invokefunction"' in text:
            self._ids.append(text[at + 17 : at + 53])
        else:
            super().message(text)

    async def register(self, scope: str) -> None:
        """Register the function, and a trigger on every key of a scope; return when the host has read it."""
        self.send(f'{{"type":"registerfunction","id":"{HANDLER}"}}'.encode())
        self.trigger(0, f'{{"scope":"{scope}"}}')
        await self.settle()

    def trigger(self, number: int, config: str) -> None:
        """Send the registration of a state trigger."""
        self.send(
            f'{{"type":"registertrigger","id":"eeeeeeee-0000-4000-8000-{number:012x}","trigger_type":"state",'
            f'"function_id":"{HANDLER}","config":{config}}}'.encode()
        )

    async def missing(self, expected: int) -> int:
        """How many of `expected` calls have not come, once no more come for some time."""
        handled = -1
        while handled < self.handled < expected and not self.closed:
            handled = self.handled
            for _ in range(100):
                if self.handled == expected:
                    break
                await asyncio.sleep(PATIENCE / 100)
        return expected - self.handled

    async def settle(self) -> None:
        """Return when the host has read everything that was sent."""
        # Frames of one connection are read in order, so an answer means that the registrations have been, too.
        await self.ask("state::get", '{"scope":"none","key":"none"}')
