"""What leaves over a WebSocket: all messages of a turn of the event loop in one write, large ones piece by piece."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aiohttp.base_protocol import BaseProtocol

from iii_state.wire.frames import BINARY, CONTINUATION, FINAL, SHORT_HEADERS, TEXT, header, masked, pack_header

WHOLE_BYTES = 1024 * 1024
"""A larger message goes in frames, one after another as the peer reads, so that pings and pongs do not wait for the end of it.

Python SDKs below 0.24.5, which receive no larger ones, see no message in frames.
"""

_WRITE_BYTES = 256 * 1024
_PIECE_BYTES = 256 * 1024


class Outgoing:
    """The sending half of a connection. A client `masks` what it sends; `fell_behind` is called when the peer has much to read."""

    def __init__(
        self, protocol: BaseProtocol, transport: asyncio.Transport, *, masks: bool, fell_behind: Callable[[], None]
    ) -> None:
        self.size = 0
        """The bytes of messages that leave in the next write."""
        self.queue: deque[tuple[int, bytes]] = deque()
        """A large message, and what was sent behind it: opcode and message, of which the first has left in part."""
        self.queued = 0
        """The bytes of these that have not left."""
        self.is_closing = False
        """Nothing more is sent."""
        self.flush_follows = False
        """Whether `flush` is going to be called in any case."""
        self._protocol = protocol
        self._transport = transport
        self._masks = masks
        self._fell_behind = fell_behind
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes | bytearray] = []
        self._flush_planned = False
        self._written = 0
        self._first_sent = 0
        self._calls: deque[tuple[int, int]] = deque()
        """Where calls of the peer end in all that is sent, and their sizes."""
        self._left_at_abort: int | None = None

    def send(self, message: bytes) -> None:
        """Send a text message; it leaves together with everything else of this turn of the event loop."""
        if self.is_closing:
            return
        size = len(message)
        if size > WHOLE_BYTES or self.queue:
            self._send_behind(TEXT, message)
            return
        payload: bytes | bytearray = message
        if self._masks:
            first, payload = masked(FINAL | TEXT, message)
        elif size < 126:
            first = SHORT_HEADERS[size]
        elif size < 65536:
            first = pack_header(0x817E, size)
        else:
            first = b"\x81\x7f" + size.to_bytes(8, "big")
        self._out.append(first)
        self._out.append(payload)
        self.size += size
        if not self.flush_follows and not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush_planned_write)
        if self.size > _WRITE_BYTES:
            self.flush()

    def send_call(self, message: bytes) -> None:
        """Send a call that somebody else makes of the peer: it is no reply to anything that the peer has sent."""
        self.send(message)
        if not self._protocol.writing_paused:  # it leaves
            return
        calls = self._calls
        calls.append((self.position, len(message)))
        left = self.left
        while calls and calls[0][0] <= left:
            calls.popleft()

    def send_binary(self, message: bytes) -> None:
        """Send a binary message."""
        if len(message) > WHOLE_BYTES or self.queue:
            self._send_behind(BINARY, message)
        else:
            self.send_now(message, BINARY)

    def send_now(self, message: bytes, opcode: int) -> None:
        """Send a frame of its own at once, with what was to leave before it."""
        if self.is_closing:
            return
        if self._masks:
            self._out += masked(FINAL | opcode, message)
        else:
            self._out += (header(FINAL | opcode, len(message), 0), message)
        self.flush()

    def _send_behind(self, opcode: int, message: bytes) -> None:
        """Send a large message, or one behind it."""
        if self.is_closing:
            return
        self.flush()
        self.queue.append((opcode, message))
        self.queued += len(message)
        self.send_pieces()
        if self.queue:
            self._fell_behind()

    def send_pieces(self, *, to_the_end: bool = False) -> None:
        """Write what is queued, as far as the peer reads."""
        queue = self.queue
        while queue and (to_the_end or not self._protocol.writing_paused):
            opcode, message = queue[0]
            start = self._first_sent
            end = len(message) if len(message) <= WHOLE_BYTES else min(start + _PIECE_BYTES, len(message))
            first = CONTINUATION if start else opcode
            if end == len(message):
                first |= FINAL
                queue.popleft()
                self._first_sent = 0
            else:
                self._first_sent = end
            self.queued -= end - start
            part = message[start:end]
            self._write(b"".join(masked(first, part) if self._masks else (header(first, len(part), 0), part)))

    def _flush_planned_write(self) -> None:
        self._flush_planned = False
        self.flush()

    def flush(self) -> None:
        """Write what has been sent so far."""
        out = self._out
        if not out:
            return
        data = b"".join(out)
        out.clear()
        self.size = 0
        self._write(data)
        if self._protocol.writing_paused:
            self._fell_behind()

    def _write(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)

    # --- how far it is

    @property
    def unsent(self) -> int:
        """Bytes that wait until the peer has read what was sent before."""
        return self._buffered() + self.queued + self.size

    @property
    def unread_replies(self) -> int:
        """Bytes of `unsent`, but for what is queued and for calls of the peer."""
        left, written = self.left, self._written
        return self.unsent - self.queued - sum(size for end, size in self._calls if left < end <= written)

    @property
    def position(self) -> int:
        """How many bytes have been sent so far, those that wait among them."""
        return self._written + self.queued + self.size

    @property
    def left(self) -> int:
        """How many bytes have left so far: the operating system has them. Of a connection that broke, as far as is known."""
        if self._left_at_abort is not None:
            return self._left_at_abort
        return self._written - self._buffered()

    def _buffered(self) -> int:
        """Bytes that the transport holds. asyncio's own transport of TLS cannot say any more once it was closed twice."""
        try:
            return self._transport.get_write_buffer_size()
        except AttributeError:
            return 0

    # --- the end

    def note_abort(self) -> None:
        """The connection is about to be dropped: what was buffered is thrown away, and would look as if it had left."""
        self._left_at_abort = self.left

    def discard(self) -> None:
        """The connection is gone: nothing more is sent."""
        self.is_closing = True
        self._out.clear()
        self.queue.clear()
        self.queued = 0
