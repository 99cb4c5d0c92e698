"""The frames of a WebSocket: opcodes, close codes, headers and masks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import getrandbits

try:  # the compiled one; not among aiohttp's public names
    from aiohttp._websocket.helpers import websocket_mask
except ImportError:  # pragma: no cover
    websocket_mask = None  # type: ignore[assignment]

NORMAL, PROTOCOL_ERROR, TOO_BIG, SERVICE_RESTART, ABNORMAL = 1000, 1002, 1009, 1012, 1006

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FINAL = 0x80

SHORT_HEADERS = [bytes((FINAL | TEXT, size)) for size in range(126)]
"""Those of text messages of less than 126 bytes that a server sends."""

pack_header = struct.Struct(">HH").pack

_XOR = [bytes(byte ^ mask for byte in range(256)) for mask in range(256)]


def header(first: int, size: int, flag: int) -> bytes:
    """The header of a frame of so many bytes; `flag` is 0x80 for one that is masked, whose key follows."""
    if size < 126:
        return bytes((first, flag | size))
    if size < 65536:
        return bytes((first, flag | 126)) + size.to_bytes(2, "big")
    return bytes((first, flag | 127)) + size.to_bytes(8, "big")


def masked(first: int, message: bytes) -> tuple[bytes, bytearray]:
    """Header and payload of a frame that a client sends."""
    payload = bytearray(message)
    key = getrandbits(32).to_bytes(4, "big")
    mask_in_place(key, payload)
    return header(first, len(message), 0x80) + key, payload


def unmask(mask: bytes, payload: bytearray) -> None:
    """Exclusive-or a frame's payload with its four mask bytes, in place; for where aiohttp's compiled function is not found."""
    for offset in range(4):
        payload[offset::4] = payload[offset::4].translate(_XOR[mask[offset]])


mask_in_place: Callable[[bytes, bytearray], None] = unmask if websocket_mask is None else websocket_mask
"""Masks and unmasks a frame's payload with its four mask bytes."""
