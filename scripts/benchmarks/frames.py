"""What the load client sends: documents, calls and WebSocket frames, all built before the clock starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count

SCOPE = "bench"
LIST_LENGTH = 10
"""How many values the scope of a `list` call holds."""

OPS = ("get", "set", "update", "delete", "list")


def document(size: int) -> str:
    """A JSON object of exactly `size` bytes (at least 40): members of some 60 bytes, padding, a counter at the end."""
    members: list[str] = []
    length = len('{"pad":"","visits":1}')
    for number in count():
        member = f'"m{number:05d}":{{"name":"Ada Lovelace","born":{1815 + number},"ok":true,"tags":["x"]}},'
        if length + len(member) > size:
            break
        members.append(member)
        length += len(member)
    return "{" + "".join(members) + '"pad":"' + "." * (size - length) + '","visits":1}'


def client_frame(payload: bytes) -> bytes:
    """One masked text frame. The mask is zero, which is legal and leaves the payload as it is."""
    n = len(payload)
    if n < 126:
        head = bytes((0x81, 0x80 | n))
    elif n < 65536:
        head = b"\x81\xfe" + n.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + n.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


def call(function_id: str, data: str, invocation_id: str) -> bytes:
    """The text of an `invokefunction` message; `data` is JSON."""
    return (f'{{"type":"invokefunction","function_id":"{function_id}","data":{data},"invocation_id":"{invocation_id}"}}').encode()


def state_call(op: str, key: str, size: int, invocation_id: str, scope: str = SCOPE) -> bytes:
    """The text of one call of `state::<op>` with a document of `size` bytes, where the op takes one."""
    where = f'{{"scope":"{scope}","key":"{key}"'
    data = {
        "get": where + "}",
        "set": f'{where},"value":{document(size) if op == "set" else ""}}}',
        "update": where + ',"ops":[{"type":"increment","path":"visits","by":1}]}',
        "delete": where + "}",
        "list": f'{{"scope":"{scope}"}}',
    }[op]
    return call(f"state::{op}", data, invocation_id)


def invocation_ids(seed: int) -> Iterator[str]:
    """Ids shaped like UUIDs, different for every seed and every step."""
    return (f"{seed:08x}-0000-4000-8000-{number:012x}" for number in count())


class Ring:
    """Prebuilt frames of one connection, sent round and round.

    Args:
        texts: the message of each frame.
        ids: the invocation id of each frame.
    """

    def __init__(self, texts: list[bytes], ids: list[str]) -> None:
        frames = [client_frame(text) for text in texts]
        self.bytes = memoryview(b"".join(frames))
        self.ids = [invocation_id.encode() for invocation_id in ids]
        self.offsets = [0]
        for frame in frames:
            self.offsets.append(self.offsets[-1] + len(frame))

    def __len__(self) -> int:
        return len(self.ids)


def ring(op: str, size: int, length: int, connection: int, scope: str = SCOPE, keys: int | None = None, rounds: int = 1) -> Ring:
    """`length` calls of one op over `keys` keys (one each, if not given), none shared with another connection.

    With `rounds`, all of that so many times, with another value for a key each time: a store that skips a write of what it
    holds is not measured by that.

    A `list` reads one scope that all connections share.
    """
    first = state_call(op, "KEY", size, "ID", scope).decode()
    head, after_key = first.split("KEY", 1) if "KEY" in first else (first, "")
    ids = invocation_ids(connection + 1)
    texts: list[bytes] = []
    used: list[str] = []
    for number in range(length * rounds):
        invocation_id = next(ids)
        text = head + (f"user:{connection}:{number % (keys or length):06d}" + after_key if after_key else "")
        text = text.replace('"visits":1}', f'"visits":{1 + number // length}}}')
        texts.append(text.replace('"invocation_id":"ID"', f'"invocation_id":"{invocation_id}"').encode())
        used.append(invocation_id)
    return Ring(texts, used)


def is_result(message: bytes, invocation_id: str) -> bool:
    """Whether a message is the answer to this call, and no error. Raises ValueError where it is an error."""
    answer = json.loads(message)
    if answer.get("type") != "invocationresult" or answer.get("invocation_id") != invocation_id:
        return False
    if answer.get("error"):
        raise ValueError(f"the host answered with an error: {answer['error']}")
    return True
