"""A session at the remote, by which it recognises mutations that are made again."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from iii_state import values
from iii_state.errors import Code, FunctionError, OldValueUnknown, RequestFenced, SessionLost, SessionTaken

SESSION_OPEN = b'"iii-state::session_open"'


Ask = Callable[[bytes, bytes], Awaitable[bytes | None]]
"""Calls a function of the remote once: JSON text of its id, and of its argument."""

_ERRORS: dict[str, type[SessionLost | SessionTaken | RequestFenced | OldValueUnknown]] = {
    kind.code: kind for kind in (SessionLost, SessionTaken, RequestFenced, OldValueUnknown)
}


def session_error(error: FunctionError) -> Exception:
    """What a remote says of a session that is not this bridge's, but a caller's, as an adapter says it."""
    kind = _ERRORS.get(error.code)
    return error if kind is None else kind()


class SessionGone(Exception):
    """There is no such session; the message says why, as part of a sentence."""


class RemoteSession:
    """One session. Its epoch grows with every connection: what is still on its way from before is refused from then on."""

    def __init__(self) -> None:
        self._id = secrets.token_hex(16)
        self._epoch = 0
        self._head = b""

    async def open(self, ask: Ask) -> str | None:
        """Open it, or, on a further connection, raise its epoch. Returns the id of the store.

        Raises `SessionGone` where the remote has lost it, or has no sessions; `FunctionError` where it cannot say.
        """
        previous, self._epoch = self._epoch, self._epoch + 1
        argument = {"session": self._id, "epoch": self._epoch, "previous_epoch": previous}
        try:
            result = await ask(SESSION_OPEN, values.encode(argument))
        except FunctionError as error:
            if error.code in (Code.FUNCTION_NOT_FOUND, Code.NOT_RETRY_SAFE):
                raise SessionGone("it does not recognise calls that are made again") from None
            if error.code in (Code.SESSION_LOST, Code.SESSION_TAKEN):
                raise SessionGone("it has lost its record of this call") from None
            raise
        self._head = b',"_iii_state_request":{"session":"%b","epoch":%d,"slot":' % (self._id.encode(), self._epoch)
        about = values.decode(result or b"{}")
        store = about.get("store") if isinstance(about, dict) else None
        return store if isinstance(store, str) else None

    def sign(self, data: bytes, slot: int, seq: int) -> bytes:
        """The argument of a mutation (an object without its closing brace) with what the remote recognises it by."""
        return b'%b%b%d,"seq":%d}}' % (data, self._head, slot, seq)
