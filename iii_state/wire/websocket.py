"""One end of a WebSocket: frames in, frames out, without a task and without a copy too many.

aiohttp does the HTTP part (`handshake`); after it every chunk that arrives is parsed here and its messages are handed over at once,
in the callback that brought them, and what is sent meanwhile leaves in one write.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from aiohttp.abc import AbstractStreamWriter
from aiohttp.base_protocol import BaseProtocol

from iii_state.config.server import MAX_MESSAGE_BYTES
from iii_state.wire.backlog import FULL_PATIENCE_SECONDS, Backlog, Turns
from iii_state.wire.frames import (
    ABNORMAL,
    BINARY,
    CLOSE,
    CONTINUATION,
    FINAL,
    NORMAL,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    mask_in_place,
)
from iii_state.wire.outgoing import Outgoing

log = logging.getLogger(__name__)

PING_AFTER_SECONDS = 10
DROP_AFTER_SECONDS = 20
"""A peer is dropped that is silent for so long, or takes nothing of what is to be sent to it for so long."""

_UNREAD_BYTES = 1024 * 1024
_EVENTS_BYTES = 256 * 1024
"""No more events are sent in one turn of the event loop than make so much."""
_UNSENT_IN_KERNEL = 128 * 1024
"""More than this is not left with the operating system: what is sent next would wait for all of it."""


class MessageReceiver(Protocol):
    """What takes the messages of a WebSocket."""

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
        self.max_message_bytes = MAX_MESSAGE_BYTES
        """Larger messages end the connection (1009)."""
        self.is_open = True
        self.is_behind = False
        """Whether the peer has still to read much of what it was sent."""
        self.times_behind = 0
        """How often it has been behind."""
        self.backlog = backlog or Backlog()
        self.turns = Turns()
        """What waits until the peer is no longer behind."""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is gone."""
        self._masks = masks
        self._protocol = protocol
        self._transport = transport
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._receiver: MessageReceiver | None = None
        self._woken = self._loop.create_future()
        self._outgoing = Outgoing(protocol, transport, masks=masks, fell_behind=self._fall_behind)
        self.send = self._outgoing.send
        self.send_call = self._outgoing.send_call
        self.send_binary = self._outgoing.send_binary
        self.flush = self._outgoing.flush
        self.received_bytes = 0
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
        self._reading_paused = False
        self._waited = False
        self._left_before = 0
        _keep_kernel_buffer_small(transport)

    # --- life

    def start(self, receiver: MessageReceiver) -> None:
        """Hand messages to `receiver` from now on."""
        self._receiver = receiver

    async def run(self) -> None:
        """Wait until the connection is gone. To be awaited by what made the connection."""
        while self.is_open:
            await self._woken
            self._woken = self._loop.create_future()
            while self.is_open and (self._protocol.writing_paused or self._outgoing.queue):
                try:
                    await self._writer.drain()
                except ConnectionError:
                    return
                if self._protocol.transport is None:
                    return
                self._outgoing.send_pieces()
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
            self._outgoing.send_now(b"", PING)

    def probe(self) -> None:
        """Ping the peer now, and drop it unless something arrives within a few seconds."""
        self._silent_seconds = max(self._silent_seconds, DROP_AFTER_SECONDS - 5)
        self._outgoing.send_now(b"", PING)

    def close(self, code: int, reason: bytes = b"") -> None:
        """Send what is left and a Close frame; the connection goes when the peer has answered, or by `abort`."""
        outgoing = self._outgoing
        if outgoing.is_closing:
            return
        outgoing.send_pieces(to_the_end=True)
        outgoing.send_now(code.to_bytes(2, "big") + reason[:100], CLOSE)
        outgoing.is_closing = True

    def abort(self) -> None:
        """Drop the connection at once."""
        if self.is_open:
            self._outgoing.note_abort()
        self._transport.abort()
        self._gone()

    def _gone(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._outgoing.discard()
        self._chunks.clear()
        self._wake()
        self.gone.set_result(None)
        self.backlog.note(self, 0)
        if self._receiver is not None:
            self._receiver.disconnected()
        self.turns.call_all()

    # --- a peer that reads more slowly than it is sent to

    @property
    def unsent(self) -> int:
        """Bytes that wait until the peer has read what was sent before."""
        return self._outgoing.unsent

    @property
    def position(self) -> int:
        """How many bytes have been sent so far, those that wait among them."""
        return self._outgoing.position

    @property
    def left(self) -> int:
        """How many bytes have left so far: the operating system has them. Of a connection that broke, as far as is known."""
        return self._outgoing.left

    @property
    def takes_more(self) -> bool:
        """Whether the peer can be sent what can wait."""
        return not self.is_behind and self._outgoing.size <= _EVENTS_BYTES

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
        """Call all that wait now: another peer can do the same."""
        self.turns.call_all()

    # --- incoming

    def hold(self) -> None:
        """Hand over no further message until `release`, which has to be called as often."""
        self._holds += 1

    def release(self) -> None:
        """Go on handing over messages."""
        if self._holds:
            self._holds -= 1
        if not self._holds and not self._outgoing.flush_follows and self.is_open:
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
        size = len(data)
        self.received_bytes += size
        self._unparsed += size
        if self._holds:
            if self._unparsed > _UNREAD_BYTES:
                self._pause_reading()
        elif self._unparsed >= self._needed:
            self._parse()
        return False, b""

    def _parse(self) -> None:
        self._outgoing.flush_follows = True
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        position = 0
        try:
            position = self._parse_frames(data)
        finally:
            self._outgoing.flush_follows = False
            self._unparsed = len(data) - position
            if self._unparsed and self.is_open:
                self._chunks.append(data[position:] if position else data)
        self.flush()
        self._hold_while_unread()

    def _hold_while_unread(self) -> None:
        """Take no more of a peer that sends faster than it reads, before it has read.

        Calls that others make of it do not count: it may read no further before its replies have left. A client's end never does
        this: where both ends wait for the other to read, neither does.
        """
        if self._masks:
            return
        if self.is_behind and not self._holds and self.is_open and self._outgoing.unread_replies > _UNREAD_BYTES:
            self._holds += 1
            self._held_unread = True
            self._pause_reading()
            self._wake()

    def _parse_frames(self, data: bytes) -> int:
        """Hand over the messages that are complete; returns how many bytes are done with."""
        assert self._receiver is not None
        receive = self._receiver.receive
        mask = mask_in_place
        outgoing = self._outgoing
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
            if length > self.max_message_bytes:
                self._fail(TOO_BIG, b"messages of at most %d bytes are taken" % self.max_message_bytes)
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
            if not outgoing.size:  # something has just been written
                self._hold_while_unread()
        return position

    def _take_frame(self, first: int, payload: bytes) -> None:
        """A frame that is not a whole text message."""
        opcode = first & 0x0F
        final = first & FINAL
        if opcode >= CLOSE:
            self._take_control(opcode, payload, bool(final))
            return
        if opcode in (TEXT, BINARY):
            if self._fragments:
                self._fail(PROTOCOL_ERROR, b"a new message before the end of the last")
                return
            self._fragments_binary = opcode == BINARY
        elif opcode != CONTINUATION or not self._fragments:
            self._fail(PROTOCOL_ERROR, b"unexpected opcode")
            return
        self._fragments.append(payload)
        self._fragments_size += len(payload)
        if self._fragments_size > self.max_message_bytes or len(self._fragments) > 1_000_000:
            self._fail(TOO_BIG, b"messages of at most %d bytes are taken" % self.max_message_bytes)
        elif final:
            message = b"".join(self._fragments)
            self._fragments.clear()
            self._fragments_size = 0
            assert self._receiver is not None
            self._receiver.receive(message, self._fragments_binary)

    def _take_control(self, opcode: int, payload: bytes, final: bool) -> None:
        if not final or len(payload) > 125 or opcode > PONG:
            self._fail(PROTOCOL_ERROR, b"broken control frame")
        elif opcode == PING:
            self._outgoing.send_now(payload, PONG)
        elif opcode == CLOSE:
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
