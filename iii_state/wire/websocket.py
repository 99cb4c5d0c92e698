"""One end of a WebSocket: frames in, frames out, without a task and without a copy too many.

aiohttp does the HTTP part (`handshake`); after it every chunk that arrives is parsed here and its messages are handed over at once,
in the callback that brought them, and what is sent meanwhile leaves in one write.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import deque
from collections.abc import Callable
from random import getrandbits
from typing import Protocol

from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol

from iii_state.wire.backlog import FULL_PATIENCE_SECONDS, Backlog, Turns

try:  # the compiled one; not among aiohttp's public names
    from aiohttp._websocket.helpers import websocket_mask as _mask_in_place
except ImportError:  # pragma: no cover
    _mask_in_place = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
WHOLE_BYTES = 1024 * 1024
"""A larger message goes in frames, one after another as the peer reads, so that pings and pongs do not wait for the end of it.

Python SDKs below 0.24.5, which receive no larger ones, see no message in frames.
"""

PING_AFTER_SECONDS = 10
DROP_AFTER_SECONDS = 20
"""A peer is dropped that is silent for so long, or takes nothing of what is to be sent to it for so long."""

NORMAL, PROTOCOL_ERROR, TOO_BIG, SERVICE_RESTART, ABNORMAL = 1000, 1002, 1009, 1012, 1006

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_FINAL = 0x80
_WRITE_BYTES = 256 * 1024
_PIECE_BYTES = 256 * 1024
_UNREAD_BYTES = 1024 * 1024
_EVENTS_BYTES = 256 * 1024
"""No more events are sent in one turn of the event loop than make so much."""
_UNSENT_IN_KERNEL = 128 * 1024
"""More than this is not left with the operating system: what is sent next would wait for all of it."""
_XOR = [bytes(byte ^ mask for byte in range(256)) for mask in range(256)]
_pack_header = struct.Struct(">HH").pack
_SHORT_HEADERS = [bytes((_FINAL | _TEXT, size)) for size in range(126)]


class MessageReceiver(Protocol):
    """Who a WebSocket's messages are for."""

    def receive(self, message: bytes | bytearray, binary: bool) -> None:
        """Take a message, which is the receiver's to keep. A text message is not checked for UTF-8 yet."""
        ...

    def disconnected(self) -> None:
        """The connection is gone; called once."""
        ...


class WebSocket:
    """A connection from the handshake on, as its parser: `handshake` makes one, `run` lives as long as it does.

    A client's end `masks` what it sends, and takes nothing masked; a server's end the other way round. `peer` is the other end's
    name in log lines. `backlog` counts what waits for all peers of a process that are behind.

    What is sent is accepted always. Who has much to send is to look at `is_behind` first, and to wait for a turn
    (`when_read`, `when_idle`) while the peer has still to read what it was sent.
    """

    def __init__(
        self,
        protocol: BaseProtocol,
        transport: asyncio.Transport,
        writer: AbstractStreamWriter,
        peer: str | None,
        *,
        masks: bool,
        backlog: Backlog | None = None,
    ) -> None:
        self.remote = peer
        self.close_code = ABNORMAL
        """The code of the peer's Close frame."""
        self.is_open = True
        self.is_behind = False
        """Whether the peer has still to read much of what it was sent."""
        self.times_behind = 0
        """How often it has been behind."""
        self.backlog = backlog or Backlog()
        self.turns = Turns()
        """Who waits until the peer is not behind any more."""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is gone."""
        self._masks = masks
        self._protocol = protocol
        self._transport = transport
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._receiver: MessageReceiver | None = None
        self._woken = self._loop.create_future()
        self._closing = False
        """Nothing more is sent."""
        self._silent_seconds = 0
        self._stuck_seconds = 0
        # incoming: chunks not parsed yet, their size, and the size from which on parsing can go on
        self._chunks: list[bytes] = []
        self._unparsed = 0
        self._needed = 2
        self._fragments: list[bytes] = []
        self._fragments_size = 0
        self._fragments_binary = False
        self._holds = 0
        self._held_unread = False
        self._parsing = False
        self._reading_paused = False
        # outgoing: what leaves in the next write
        self._out: list[bytes | bytearray] = []
        self._out_size = 0
        self._flush_planned = False
        self._written = 0
        self._waited = False
        self._left_before = 0
        self._left_at_abort: int | None = None
        # a large message, and what was sent behind it: opcode and message, of which the first has left in part
        self._queue: deque[tuple[int, bytes]] = deque()
        self._queued = 0
        self._first_sent = 0
        _keep_kernel_buffer_small(transport)

    # --- life

    def start(self, receiver: MessageReceiver) -> None:
        """Hand messages to `receiver` from now on."""
        self._receiver = receiver

    async def run(self) -> None:
        """Wait until the connection is gone. To be awaited by whoever made it."""
        while self.is_open:
            await self._woken
            self._woken = self._loop.create_future()
            while self.is_open and (self._protocol.writing_paused or self._queue):
                try:
                    await self._writer.drain()
                except ConnectionError:
                    return
                if self._protocol.transport is None:
                    return
                self._send_pieces()
            if self.is_open:
                self._caught_up()

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    def tick(self, seconds: int = 1) -> None:
        """Called about once a second: ping a peer that is silent, drop one that stays so, or that reads nothing."""
        if not self.is_open:
            return
        waiting = self.unsent
        left = self.left
        if self._waited and left != self._left_before:  # it reads: that is a sign of life, too
            self._stuck_seconds = self._silent_seconds = 0
        elif waiting and self._waited:
            self._stuck_seconds += seconds
        else:
            self._stuck_seconds = 0
        self._waited, self._left_before = waiting > 0, left
        if self.is_behind:
            self.backlog.note(self, waiting)
        if self._holds and not waiting:  # it is not read at the moment: that is not its silence
            self._silent_seconds = 0
        self._silent_seconds += seconds
        is_silent = self._silent_seconds >= DROP_AFTER_SECONDS
        patience = FULL_PATIENCE_SECONDS if self.backlog.is_full else DROP_AFTER_SECONDS
        if self._stuck_seconds >= patience or (is_silent and waiting):
            log.warning(
                "dropping the connection from %s: it has read nothing for %d s, and %d bytes wait for it",
                *(self.remote, self._stuck_seconds, self.unsent),
            )
            self.abort()
        elif is_silent:
            log.info("dropping the connection from %s: silent for %d s", self.remote, self._silent_seconds)
            self.abort()
        elif self._silent_seconds % PING_AFTER_SECONDS < seconds:
            self._send(b"", _PING)

    def probe(self) -> None:
        """Ping the peer now, and drop it unless something arrives within a few seconds."""
        self._silent_seconds = max(self._silent_seconds, DROP_AFTER_SECONDS - 5)
        self._send(b"", _PING)

    def close(self, code: int, reason: bytes = b"") -> None:
        """Send what is left and a Close frame; the connection goes when the peer has answered, or by `abort`."""
        if self._closing:
            return
        self._send_pieces(to_the_end=True)
        self._send(code.to_bytes(2, "big") + reason[:100], _CLOSE)
        self._closing = True
        self.flush()

    def abort(self) -> None:
        """Drop the connection at once."""
        if self.is_open:
            self._left_at_abort = self.left  # what was buffered is thrown away, and then looks as if it had left
        self._transport.abort()
        self._gone()

    def _gone(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._closing = True
        self._out.clear()
        self._queue.clear()
        self._queued = 0
        self._chunks.clear()
        self._wake()
        self.gone.set_result(None)
        self.backlog.note(self, 0)
        if self._receiver is not None:
            self._receiver.disconnected()
        self.turns.call_all()

    # --- outgoing

    def send(self, message: bytes) -> None:
        """Send a text message; it leaves together with everything else of this turn of the event loop."""
        if self._closing:
            return
        size = len(message)
        if size > WHOLE_BYTES or self._queue:
            self._send_behind(_TEXT, message)
            return
        payload: bytes | bytearray = message
        if self._masks:
            header, payload = _masked(_FINAL | _TEXT, message)
        elif size < 126:
            header = _SHORT_HEADERS[size]
        elif size < 65536:
            header = _pack_header(0x817E, size)
        else:
            header = b"\x81\x7f" + size.to_bytes(8, "big")
        self._out.append(header)
        self._out.append(payload)
        self._out_size += size
        if not self._parsing and not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush_planned_write)
        if self._out_size > _WRITE_BYTES:
            self.flush()

    def send_binary(self, message: bytes) -> None:
        """Send a binary message."""
        if len(message) > WHOLE_BYTES or self._queue:
            self._send_behind(_BINARY, message)
        else:
            self._send(message, _BINARY)

    def _send_behind(self, opcode: int, message: bytes) -> None:
        """Send a large message, or one behind it."""
        if self._closing:
            return
        self.flush()
        self._queue.append((opcode, message))
        self._queued += len(message)
        self._send_pieces()
        if self._queue and self.is_open:
            self._fall_behind()

    def _send_pieces(self, *, to_the_end: bool = False) -> None:
        """Write what is queued, as far as the peer reads."""
        queue = self._queue
        while queue and self.is_open and (to_the_end or not self._protocol.writing_paused):
            opcode, message = queue[0]
            start = self._first_sent
            end = len(message) if len(message) <= WHOLE_BYTES else min(start + _PIECE_BYTES, len(message))
            first = _CONTINUATION if start else opcode
            if end == len(message):
                first |= _FINAL
                queue.popleft()
                self._first_sent = 0
            else:
                self._first_sent = end
            self._queued -= end - start
            part = message[start:end]
            self._write(b"".join(_masked(first, part) if self._masks else (_header(first, len(part), 0), part)))

    def _send(self, message: bytes, opcode: int) -> None:
        if self._closing:
            return
        if self._masks:
            self._out += _masked(_FINAL | opcode, message)
        else:
            self._out += (_header(_FINAL | opcode, len(message), 0), message)
        self.flush()

    def _flush_planned_write(self) -> None:
        self._flush_planned = False
        self.flush()

    def flush(self) -> None:
        """Write what has been sent so far."""
        out = self._out
        if not out or not self.is_open:
            return
        data = b"".join(out)
        out.clear()
        self._out_size = 0
        self._write(data)
        if self._protocol.writing_paused:
            self._fall_behind()

    def _write(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)

    # --- a peer that reads more slowly than it is sent to

    @property
    def unsent(self) -> int:
        """Bytes that wait until the peer has read what was sent before."""
        return self._transport.get_write_buffer_size() + self._queued + self._out_size

    @property
    def position(self) -> int:
        """How many bytes have been sent so far, those that wait among them."""
        return self._written + self._queued + self._out_size

    @property
    def left(self) -> int:
        """How many bytes have left so far: the operating system has them. Of a connection that broke, as far as is known."""
        if self._left_at_abort is not None:
            return self._left_at_abort
        return self._written - self._transport.get_write_buffer_size()

    @property
    def takes_more(self) -> bool:
        """Whether the peer can be sent what can wait."""
        return not self.is_behind and self._out_size <= _EVENTS_BYTES

    def _fall_behind(self) -> None:
        if not self.is_behind:
            self.is_behind = True
            self.times_behind += 1
        self.backlog.note(self, self.unsent)
        self._wake()

    def _caught_up(self) -> None:
        """The peer has read (nearly) all it was sent: it is read again, and who has waited may send, one after another."""
        self.is_behind = False
        self.backlog.note(self, 0)
        if self._held_unread:
            self._held_unread = False
            self.release()
        self._give_turn()

    def _give_turn(self) -> None:
        if self.is_behind or not self.is_open:
            return
        if self.turns.call_next():
            self._loop.call_soon(self._give_turn)

    def when_read(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, in its turn, when the peer is not behind any more or is gone; for calls and their results."""
        self.turns.calls.append(go_on)
        self._wake()

    def when_idle(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once, in its turn, when the peer takes more or is gone; for events."""
        self.turns.events.append(go_on)
        self._wake()

    def end_turns(self) -> None:
        """Let everybody who waits look again: there is somebody else now who can do the same."""
        self.turns.call_all()

    # --- incoming

    def hold(self) -> None:
        """Hand over no further message until `release`, which has to be called as often."""
        self._holds += 1

    def release(self) -> None:
        """Go on handing over messages."""
        if self._holds:
            self._holds -= 1
        if not self._holds and not self._parsing and self.is_open:
            self._parse()
            if not self._holds and self._reading_paused and not self._transport.is_closing():
                self._reading_paused = False
                self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def feed_eof(self) -> None:
        """aiohttp's word for: the connection is gone."""
        self._gone()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """A chunk of bytes has arrived."""
        self._silent_seconds = 0
        self._chunks.append(data)
        self._unparsed += len(data)
        if self._holds:
            if self._unparsed > _UNREAD_BYTES:
                self._pause_reading()
        elif self._unparsed >= self._needed:
            self._parse()
        return False, b""

    def _parse(self) -> None:
        self._parsing = True
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        position = 0
        try:
            position = self._parse_frames(data)
        finally:
            self._parsing = False
            self._unparsed = len(data) - position
            if self._unparsed and self.is_open:
                self._chunks.append(data[position:] if position else data)
        self.flush()
        self._hold_while_unread()

    def _hold_while_unread(self) -> None:
        """Take no more of a peer that sends faster than it reads, before it has read."""
        if self.is_behind and not self._holds and self.is_open and self.unsent > _UNREAD_BYTES + self._queued:
            self._holds += 1
            self._held_unread = True
            self._pause_reading()
            self._wake()

    def _parse_frames(self, data: bytes) -> int:
        """Hand over the messages that are complete; returns how many bytes are done with."""
        assert self._receiver is not None
        receive = self._receiver.receive
        mask = _mask_in_place
        masked, before = (0, 2) if self._masks else (0x80, 6)
        size = len(data)
        position = 0
        while not self._holds and self.is_open:
            if size - position < 2:
                self._needed = 2
                break
            first = data[position]
            length = data[position + 1] - masked
            if first & 0x70 or not 0 <= length < 128:
                self._fail(PROTOCOL_ERROR, b"a client masks and a server does not, and extensions were not agreed on")
                break
            start = position + before
            if length == 126:
                start += 2
                length = data[position + 2] << 8 | data[position + 3] if size >= start else 0
            elif length == 127:
                start += 8
                length = int.from_bytes(data[position + 2 : position + 10], "big") if size >= start else 0
            if length > MAX_MESSAGE_BYTES:
                self._fail(TOO_BIG, b"messages of at most 64 MiB are taken")
                break
            end = start + length
            if end > size:
                self._needed = end - position
                break
            payload = bytearray(data[start:end])
            if masked:
                mask(data[start - 4 : start], payload)
            position = end
            if first == 0x81 and not self._fragments:
                receive(payload, False)
            else:
                self._take_frame(first, bytes(payload))
            if not self._out_size:  # something has just been written
                self._hold_while_unread()
        return position

    def _take_frame(self, first: int, payload: bytes) -> None:
        """A frame that is not a whole text message."""
        opcode = first & 0x0F
        final = first & _FINAL
        if opcode >= _CLOSE:
            self._take_control(opcode, payload, bool(final))
            return
        if opcode in (_TEXT, _BINARY):
            if self._fragments:
                self._fail(PROTOCOL_ERROR, b"a new message before the end of the last")
                return
            self._fragments_binary = opcode == _BINARY
        elif opcode != _CONTINUATION or not self._fragments:
            self._fail(PROTOCOL_ERROR, b"unexpected opcode")
            return
        self._fragments.append(payload)
        self._fragments_size += len(payload)
        if self._fragments_size > MAX_MESSAGE_BYTES or len(self._fragments) > 1_000_000:
            self._fail(TOO_BIG, b"messages of at most 64 MiB are taken")
        elif final:
            message = b"".join(self._fragments)
            self._fragments.clear()
            self._fragments_size = 0
            assert self._receiver is not None
            self._receiver.receive(message, self._fragments_binary)

    def _take_control(self, opcode: int, payload: bytes, final: bool) -> None:
        if not final or len(payload) > 125 or opcode > _PONG:
            self._fail(PROTOCOL_ERROR, b"broken control frame")
        elif opcode == _PING:
            self._send(payload, _PONG)
        elif opcode == _CLOSE:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else NORMAL
            self.close_code = code
            self.close(code if 1000 <= code < 5000 and code not in (1005, ABNORMAL, 1015) else PROTOCOL_ERROR)
            self._transport.close()
            self._gone()

    def _fail(self, code: int, reason: bytes) -> None:
        log.info("closing the connection from %s: %s", self.remote, reason.decode())
        self.close(code, reason)
        self._transport.close()
        self._gone()


def _keep_kernel_buffer_small(transport: asyncio.Transport) -> None:
    """Let the operating system keep little that has not been sent, where it can."""
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    sock = transport.get_extra_info("socket")
    if option is not None and sock is not None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_IN_KERNEL)
        except OSError as error:  # no TCP
            log.debug("what waits in the operating system is not bounded: %s", error)


def _header(first: int, size: int, flag: int) -> bytes:
    if size < 126:
        return bytes((first, flag | size))
    if size < 65536:
        return bytes((first, flag | 126)) + size.to_bytes(2, "big")
    return bytes((first, flag | 127)) + size.to_bytes(8, "big")


def _masked(first: int, message: bytes) -> tuple[bytes, bytearray]:
    """Header and payload of a frame that a client sends."""
    payload = bytearray(message)
    key = getrandbits(32).to_bytes(4, "big")
    _mask_in_place(key, payload)
    return _header(first, len(message), 0x80) + key, payload


def unmask(mask: bytes, payload: bytearray) -> None:
    """Exclusive-or a frame's payload with its four mask bytes, in place; for where aiohttp's compiled function is not found."""
    for offset in range(4):
        payload[offset::4] = payload[offset::4].translate(_XOR[mask[offset]])


if _mask_in_place is None:  # pragma: no cover
    _mask_in_place = unmask
