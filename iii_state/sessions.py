"""Request ids: what makes a mutation recognisable when it is made again.

A caller whose connection breaks with a mutation on it cannot know whether it was applied. So it opens a session, and gives each
mutation a request id, `_iii_state_request: {session, epoch, slot, seq}`: a slot that no other call in flight has, and a sequence
number larger than any that this session has used. The store keeps of each slot the last number and what that call replaced. So it
replies to a call that is made again as it did the first time, and changes nothing. Before a caller sends again what was in flight,
it opens the session anew, with a larger epoch: from then on the store refuses what is still on its way from before.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import msgspec
from msgspec import Raw

from iii_state.errors import InvalidValue
from iii_state.values.requests import describe, within

SESSION_SECONDS = 600
"""How long a session outlives its last use. Far longer than a call is waited for."""

MAX_SLOTS = 4096
MAX_NUMBER = 2**53
"""Epochs and sequence numbers are compared as doubles in Lua."""

_SESSION = re.compile(r"[A-Za-z0-9_-]{8,64}")


class Request(msgspec.Struct, frozen=True):
    """The request id of a mutation."""

    session: str
    epoch: int
    slot: int
    seq: int


class OpenRequest(msgspec.Struct):
    """`iii-state::session_open`."""

    session: str
    epoch: int
    previous_epoch: int = 0


_request = msgspec.json.Decoder(Request)


def parse_request(text: Raw, name: str | None = None) -> Request:
    """The request id in a member `_iii_state_request`, of a caller whose token has this name. Raises `InvalidValue` in words."""
    try:
        request = _request.decode(text)
        check_session(request.session)
        within("epoch", request.epoch, 1, MAX_NUMBER)
        within("slot", request.slot, 0, MAX_SLOTS - 1)
        within("seq", request.seq, 1, MAX_NUMBER)
    except (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeError) as error:
        raise InvalidValue(f"_iii_state_request: {describe(bytes(text), Request, error)}") from None
    return request if name is None else Request(owned(request.session, name), request.epoch, request.slot, request.seq)


def owned(session: str, name: str | None) -> str:
    """The id under which a store keeps a session: of a token's name (None where no tokens are used) another one for each.

    So a session is there for connections with its own token's name only, and nobody else can find out that it is.
    """
    return session if name is None else _owned(session, name)


@lru_cache(maxsize=4096)
def _owned(session: str, name: str) -> str:
    return hashlib.sha256(f"{session} {name}".encode()).hexdigest()


def check_session(session: str) -> None:
    """Raises `InvalidValue` for what is no id of a session."""
    if not _SESSION.fullmatch(session):
        shown = session if len(session) <= 80 else session[:77] + "…"
        raise InvalidValue(f"session: invalid value: {shown!r}, expected 8 to 64 letters, digits, `-` or `_`, made at random")
