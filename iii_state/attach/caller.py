"""Who made a call: an engine writes it into the payload as `_caller_worker_id`."""

from __future__ import annotations

import re

import msgspec

from iii_state.host import LOCAL, Caller
from iii_state.values import Json

SMALL_BYTES = 4096
"""A payload of up to so many bytes is decoded as a whole sooner than it is looked at."""

_UUID = rb"([0-9a-fA-F-]{36})"
_AT_END = re.compile(rb'[,{]\s*"_caller_worker_id":"%b"}$' % _UUID)
_AT_START = re.compile(rb'{"_caller_worker_id":"%b"[,}]' % _UUID)


class _Payload(msgspec.Struct):
    caller: str = msgspec.field(default="", name="_caller_worker_id")


_payload = msgspec.json.Decoder(_Payload)


class Callers(dict[str, Caller]):
    """The callers of late, by their ids, so that one need not be made for every call."""

    def __missing__(self, worker_id: str) -> Caller:
        if len(self) >= 4096:
            self.clear()
        caller = self[worker_id] = Caller(worker_id)
        return caller

    def of(self, data: Json) -> Caller:
        """Who made a call with this payload; `LOCAL` where it does not say.

        Of several members of that name the last counts: this project's engine writes its own behind the caller's. A stock engine
        writes each name once, in alphabetical order, so a large payload says it at its very beginning.
        """
        if len(data) > SMALL_BYTES:
            view = memoryview(data)
            found = _AT_END.search(bytes(view[-70:])) or _AT_START.match(bytes(view[:70]))
            if found is not None:
                return self[found.group(1).decode()]
        try:
            worker_id = _payload.decode(data).caller
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            return LOCAL
        return self[worker_id] if worker_id else LOCAL
