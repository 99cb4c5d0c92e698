"""Channels: a stream of frames from one worker to another, on sockets of their own."""

from __future__ import annotations

import logging
import secrets
import uuid
from collections import Counter, deque
from collections.abc import Iterator

import msgspec

from iii_state import values
from iii_state.errors import Code, FunctionError
from iii_state.host import Caller, Host
from iii_state.rights import Identity
from iii_state.values import Json
from iii_state.values.requests import read
from iii_state.wire.frames import NORMAL
from iii_state.wire.websocket import MessageReceiver, WebSocket

log = logging.getLogger(__name__)

DEFAULT_BUFFER_FRAMES = 64
MAX_BUFFER_FRAMES = 1024
MAX_BUFFER_BYTES = 1024 * 1024
"""A writer that is without a reader waits when it has written so much, or one larger frame."""

EXPIRES_AFTER_SECONDS = 300

MAX_CHANNELS = 1000
"""One worker has so many at once; further ones are refused."""


class _Create(msgspec.Struct):
    buffer_size: int | None = None


class Channels:
    """All channels. One that nobody joins within five minutes is gone."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._made: Counter[str] = Counter()
        """How many each worker has, by its id."""

    def __iter__(self) -> Iterator[Channel]:
        return iter(list(self._channels.values()))

    def register(self, host: Host) -> None:
        """Register `engine::channels::create`."""
        host.register_function("engine::channels::create", self._create, description="Open a channel between two workers")

    def _create(self, data: Json, caller: Caller) -> bytes:
        wanted = read("engine::channels::create", data, _Create)
        size = DEFAULT_BUFFER_FRAMES if wanted.buffer_size is None else min(max(wanted.buffer_size, 1), MAX_BUFFER_FRAMES)
        if self._made[caller.worker_id] >= MAX_CHANNELS:
            raise FunctionError(Code.LIMIT_EXCEEDED, f"this connection has {MAX_CHANNELS} channels; it may have no more at once")
        channel = Channel(size, caller.identity, caller.worker_id)
        self._channels[channel.id] = channel
        self._made[caller.worker_id] += 1
        end = {"channel_id": channel.id, "access_key": channel.key}
        return values.encode({"writer": {**end, "direction": "write"}, "reader": {**end, "direction": "read"}})

    def find(self, channel_id: str, key: str) -> Channel | None:
        """A channel by its id and key."""
        channel = self._channels.get(channel_id)
        return channel if channel is not None and secrets.compare_digest(channel.key.encode(), key.encode()) else None

    def tick(self, seconds: int) -> None:
        """Forget channels that are over, or that nobody has joined in time."""
        for channel in list(self._channels.values()):
            channel.idle_seconds += seconds
            if channel.is_over or (channel.is_unjoined and channel.idle_seconds > EXPIRES_AFTER_SECONDS):
                del self._channels[channel.id]
                self._made[channel.maker] -= 1
                if not self._made[channel.maker]:
                    del self._made[channel.maker]


class Channel:
    """One writer, one reader, and what the one has sent and the other has not got yet, which is bounded: the writer then waits."""

    def __init__(self, buffer_frames: int, identity: Identity | None = None, maker: str = "") -> None:
        self.id = str(uuid.uuid4())
        self.key = secrets.token_urlsafe(24)
        self.identity = identity
        """Whose token the worker came with that opened it."""
        self.maker = maker
        self.idle_seconds = 0
        self.is_over = False
        self._buffer_frames = buffer_frames
        self._buffer: deque[tuple[bytes, bool]] = deque()
        self._buffer_bytes = 0
        self._writer: WebSocket | None = None
        self._reader: WebSocket | None = None
        self._written = False
        self._held = False

    @property
    def buffered(self) -> int:
        """Frames that wait for a reader."""
        return len(self._buffer)

    @property
    def is_unjoined(self) -> bool:
        """Whether one of the two ends is missing."""
        return self._writer is None or self._reader is None

    def join(self, socket: WebSocket, direction: str) -> MessageReceiver:
        """Take one of the two ends; a second one at the same end is closed."""
        if direction == "write":
            if self._writer is not None:
                socket.close(NORMAL, b"the channel has a writer")
                return _Ignored()
            self._writer = socket
            return _Writer(self)
        if self._reader is not None:
            socket.close(NORMAL, b"the channel has a reader")
            return _Ignored()
        self._reader = socket
        while self._buffer:
            self._pass_on(*self._buffer.popleft())
        self._go_on()
        if self._written:
            self._finish()
        return _Reader(self)

    def write(self, message: bytes, binary: bool) -> None:
        """A frame of the writer."""
        if self.is_over:
            return
        if self._reader is not None:
            self._pass_on(message, binary)
            if self._reader.is_behind and self._hold_writer():
                self._reader.when_read(self._go_on)
            return
        self._buffer.append((message, binary))
        self._buffer_bytes += len(message)
        if len(self._buffer) >= self._buffer_frames or self._buffer_bytes > MAX_BUFFER_BYTES:
            self._hold_writer()

    def _hold_writer(self) -> bool:
        if self._held or self._writer is None:
            return False
        self._held = True
        self._writer.hold()
        return True

    def _go_on(self) -> None:
        if self._held:
            self._held = False
            if self._writer is not None:
                self._writer.release()

    def _pass_on(self, message: bytes, binary: bool) -> None:
        assert self._reader is not None
        if binary:
            self._reader.send_binary(message)
        else:
            self._reader.send(message)

    def end_writing(self) -> None:
        """The writer is gone: the reader gets the rest and a Close frame."""
        self._written = True
        if self._reader is not None:
            self._finish()

    def _finish(self) -> None:
        assert self._reader is not None
        self._reader.close(NORMAL)
        self.is_over = True

    def end_reading(self) -> None:
        """The reader is gone: nothing more can arrive."""
        self.is_over = True
        self._buffer.clear()
        self._go_on()
        if self._writer is not None:
            self._writer.close(NORMAL, b"the reader is gone")


class _Writer:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def receive(self, message: bytes | bytearray, binary: bool) -> None:
        self._channel.write(bytes(message), binary)

    def disconnected(self) -> None:
        self._channel.end_writing()


class _Reader:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def receive(self, message: bytes | bytearray, binary: bool) -> None:
        """A reader sends nothing that means anything."""

    def disconnected(self) -> None:
        self._channel.end_reading()


class _Ignored:
    def receive(self, message: bytes | bytearray, binary: bool) -> None:
        pass

    def disconnected(self) -> None:
        pass
