"""The framed form in which objects are stored (`iii_state/docs/architecture.md`): each top-level member on a line of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from iii_state.errors import MAX_VALUE_BYTES as MAX_VALUE_BYTES
from iii_state.values import native
from iii_state.values.json import Json, _encoder, members, normalize

FRAME_START = b"{\t\n"


class _Heads(dict[str, bytes]):
    """Name → `"name":`. Documents of one kind share their names, so the last few thousand are kept."""

    def __missing__(self, name: str) -> bytes:
        if len(self) >= 4096:
            self.clear()
        head = _encoder.encode(name) + b":"
        if len(name) <= 64:
            self[name] = head
        return head


_heads = _Heads()


def frame(text: bytes) -> bytes:
    """The stored form of a compact text: objects framed, everything else as it is."""
    if not text.startswith(b"{"):
        return text
    return frame_members(members(text))


def frame_members(object_members: Mapping[str, Json]) -> bytes:
    """The stored form of an object, of its members and their compact texts."""
    if not object_members:
        return b"{}"
    return b"{\t\n%b\n}" % b",\n".join([_heads[name] + text for name, text in object_members.items()])


def compact_members(object_members: Mapping[str, Json]) -> bytes:
    """The compact text of an object, of its members and their compact texts."""
    return b"{%b}" % b",".join([_heads[name] + text for name, text in object_members.items()])


def to_stored(text: Json) -> bytes:
    """The stored form of any JSON text whose syntax and UTF-8 have been checked; raises `InvalidValue` as `normalize` does."""
    made = native.to_stored(text)
    return frame(normalize(text)) if made is None else made


def unframe(stored: bytes) -> bytes:
    """The compact text of a stored one: exact, since a raw TAB or newline occurs only in the frame."""
    return stored.translate(None, b"\t\n") if stored.startswith(FRAME_START) else stored


def compact_size(stored: bytes) -> int:
    """Bytes of the compact text of a stored value, framing not counted."""
    if not stored.startswith(FRAME_START):
        return len(stored)
    return len(stored) - 1 - stored.count(b"\n")


def etag(stored: bytes) -> str:
    """What a stored text is recognised by, the same on every adapter: lower-case hex, to be compared and nothing else."""
    return hashlib.sha1(stored, usedforsecurity=False).hexdigest()


def top_member(stored: bytes, line: bytes) -> bytes | None:
    """The text of a member of a framed object, whose line begins with `line` (LF, its name as JSON, a colon); None for no such
    member. Of what is no framed object there is none."""
    at = stored.find(line)
    if at < 0:
        return None
    start = at + len(line)
    end = stored.index(b"\n", start)
    return stored[start : end - 1 if stored[end - 1] == 0x2C else end]
