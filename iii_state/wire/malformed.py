"""What can still be read of a frame that is no message: whom to answer, and whether an answer is wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.wire import messages

_members = msgspec.json.Decoder(dict[str, Raw])
_INVOCATION_ID = re.compile(rb'"invocation_id"\s*:\s*("[^"\\\x00-\x1f]{1,200}")')
_MAX_REASON = 300


@dataclass(slots=True)
class MalformedFrame:
    """What can be read of a malformed frame. Ids are there as JSON text, the invocation's also as a string if it is one."""

    invocation_text: bytes | None = None
    invocation_id: str | None = None
    function_text: bytes = b'""'
    is_void: bool = False
    is_result: bool = False


def read(frame: bytes | bytearray) -> MalformedFrame:
    """Read what can be read; what cannot is as if it were absent."""
    text = frame.decode(errors="replace").encode()
    found = MalformedFrame()
    try:
        members = _members.decode(text)
    except (ValueError, RecursionError):
        match = _INVOCATION_ID.search(text)
        if match is not None:
            found.invocation_text = match.group(1)
            found.invocation_id = match.group(1)[1:-1].decode()
            found.is_result = b'"invocationresult"' in text
        return found
    invocation_id = _read(members, "invocation_id")
    if isinstance(invocation_id, str):
        found.invocation_id = invocation_id
        found.invocation_text = values.encode_string(invocation_id)
    elif invocation_id is not None and not isinstance(invocation_id, list | dict):
        found.invocation_text = bytes(members["invocation_id"])
    function_id = _read(members, "function_id")
    if isinstance(function_id, str):
        found.function_text = values.encode_string(function_id)
    action = _read(members, "action")
    found.is_void = isinstance(action, dict) and action.get("type") == "void"
    found.is_result = _read(members, "type") == "invocationresult"
    return found


def _read(members: dict[str, Raw], name: str) -> Any:
    text = members.get(name)
    value = None if text is None else messages.read(text)
    return None if value is messages.UNREADABLE else value


def reason(error: Exception, frame: bytes | bytearray) -> str:
    """Why a frame cannot be used, in so many words at most."""
    if isinstance(error, RecursionError):
        return "it nests too deeply"
    text = values.fault(bytes(frame), error) or type(error).__name__
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"
