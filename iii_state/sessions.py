"""Calls that are recognised when they are made again: what a caller sends along, and what it is told where that does not help.

A caller whose connection breaks with a mutation on it cannot know whether it was applied. So it opens a session, and gives each
mutation a ticket, `_iii_state_request: {session, epoch, slot, seq}`: a slot that no other call in flight has, and a number larger
than any that this session has used. The store keeps of each slot the last number and what that call replaced, and so answers a call
that is made again as it did the first time, and changes nothing. Before a caller sends again what was in flight, it opens the
session anew, with a larger epoch: what is still on its way from before is refused from then on.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

from iii_state.errors import InvalidValue, StoreError
from iii_state.requests import describe, within

SESSION_SECONDS = 600
"""How long a session outlives its last use. Far longer than a call is waited for."""

MAX_RECORDED_BYTES = 1_048_576
"""A replaced value that is larger is not kept (`lua/lib/sessions/record.lua` has the number, too)."""

MAX_SLOTS = 4096
MAX_NUMBER = 2**53
"""Epochs and sequence numbers are compared as doubles in Lua."""

_SESSION = re.compile(r"[A-Za-z0-9_-]{8,64}")


class Request(msgspec.Struct, frozen=True):
    """The ticket of a mutation."""

    session: str
    epoch: int
    slot: int
    seq: int


class OpenRequest(msgspec.Struct):
    """`iii-state::session_open`."""

    session: str
    epoch: int
    previous_epoch: int = 0


class SessionError(StoreError):
    """Why a call with a ticket, or the opening of a session, was refused. It changed nothing."""

    code: str


class SessionLost(SessionError):
    """The session is not there, and whether an earlier attempt of the call was applied is not known; this one was not."""

    code = "SESSION_LOST"

    def __init__(self) -> None:
        super().__init__(
            "the session is not known here: never opened, expired, or lost with its store; nothing was changed now, "
            "and whether an earlier attempt was applied is not known. Open a new session, under another id"
        )


class SessionTaken(SessionError):
    """Another caller uses this session's id, or a later epoch holds."""

    code = "SESSION_TAKEN"

    def __init__(self) -> None:
        super().__init__("there is such a session already, or a later epoch holds: raise the epoch, or use another id")


class Fenced(SessionError):
    """The call is a straggler: its epoch does not hold any more, or its slot has been used since."""

    code = "REQUEST_FENCED"

    def __init__(self) -> None:
        super().__init__("the epoch of this request does not hold, or its slot has been used since; nothing was changed now")


class Forgotten(SessionError):
    """An earlier attempt of the call has been applied, but the value it replaced was too large to be recorded."""

    code = "OLD_VALUE_UNKNOWN"

    def __init__(self) -> None:
        super().__init__(
            f"an earlier attempt was applied; what it replaced had more than {MAX_RECORDED_BYTES} bytes, and was not recorded"
        )


_request = msgspec.json.Decoder(Request)


def parse_request(text: Raw) -> Request:
    """The ticket in a member `_iii_state_request`. Raises `InvalidValue` in words."""
    try:
        request = _request.decode(text)
        check_session(request.session)
        within("epoch", request.epoch, 1, MAX_NUMBER)
        within("slot", request.slot, 0, MAX_SLOTS - 1)
        within("seq", request.seq, 1, MAX_NUMBER)
    except (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeError) as error:
        raise InvalidValue(f"_iii_state_request: {describe(bytes(text), Request, error)}") from None
    return request


def check_session(session: str) -> None:
    """Raises `InvalidValue` for what is no id of a session."""
    if not _SESSION.fullmatch(session):
        shown = session if len(session) <= 80 else session[:77] + "…"
        raise InvalidValue(f"session: invalid value: {shown!r}, expected 8 to 64 letters, digits, `-` or `_`, made at random")
