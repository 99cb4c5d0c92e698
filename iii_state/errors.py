"""The errors of this package: one family, `StateError` at its root, and every code that travels over the wire."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""The largest value that is stored whatever is configured: a reply with old and new has to fit into a frame."""

MAX_MESSAGE, MAX_STACKTRACE, MAX_CODE = 8192, 16384, 100
"""Characters of an error that are kept, logged and answered."""

MAX_RECORDED_BYTES = 1_048_576
"""A replaced value that is larger is not recorded for calls that are made again (`lua/lib/sessions/record.lua` has the number)."""

_ABOUT_THE_CUT = 64
"""What is said of a cut may stand behind the limit: a text that has been cut once is not cut again."""


class Code(StrEnum):
    """The codes of this project's own errors. A function may answer with any other; the page `errors` of the docs explains each."""

    # A request that cannot be used; nothing was changed.
    DESERIALIZATION_ERROR = "deserialization_error"
    VALUE_TOO_LARGE = "VALUE_TOO_LARGE"
    INVALID_CURSOR = "INVALID_CURSOR"
    ROW_TOO_LARGE = "ROW_TOO_LARGE"
    INVALID_NAMESPACE = "INVALID_NAMESPACE"
    NOT_FOUND = "NOT_FOUND"
    COMPACTED = "COMPACTED"
    UNSUPPORTED = "UNSUPPORTED"

    # What the store could not do; nothing was changed.
    SET_ERROR = "SET_ERROR"
    GET_ERROR = "GET_ERROR"
    DELETE_ERROR = "DELETE_ERROR"
    UPDATE_ERROR = "UPDATE_ERROR"
    LIST_ERROR = "LIST_ERROR"
    LIST_KEYS_ERROR = "LIST_KEYS_ERROR"
    LIST_ENTRIES_ERROR = "LIST_ENTRIES_ERROR"
    LIST_GROUPS_ERROR = "LIST_GROUPS_ERROR"
    HISTORY_ERROR = "HISTORY_ERROR"
    TRANSACT_ERROR = "TRANSACT_ERROR"
    STORE_ERROR = "STORE_ERROR"
    SNAPSHOT_CAPACITY = "SNAPSHOT_CAPACITY"
    BRIDGE_RING = "BRIDGE_RING"
    BRIDGE_CUT_OFF = "BRIDGE_CUT_OFF"

    # What a caller asked for, and did not find; nothing was changed.
    CONDITION_FAILED = "CONDITION_FAILED"
    OP_FAILED = "OP_FAILED"

    # What became of a mutation.
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    NOT_CONFIRMED = "NOT_CONFIRMED"

    # Calls that are made again, and their sessions.
    SESSION_LOST = "SESSION_LOST"
    SESSION_TAKEN = "SESSION_TAKEN"
    REQUEST_FENCED = "REQUEST_FENCED"
    OLD_VALUE_UNKNOWN = "OLD_VALUE_UNKNOWN"
    NOT_RETRY_SAFE = "NOT_RETRY_SAFE"

    # Calls of functions.
    FUNCTION_NOT_FOUND = "function_not_found"
    FUNCTION_NOT_INVOKABLE = "function_not_invokable"
    INVOCATION_FAILED = "invocation_failed"
    INVOCATION_ERROR = "invocation_error"
    INVOCATION_STOPPED = "invocation_stopped"
    CHANNEL_SEND_FAILED = "channel_send_failed"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    SERIALIZATION_ERROR = "serialization_error"
    ENQUEUE_ERROR = "enqueue_error"
    TIMEOUT = "TIMEOUT"
    WORKER_LOST = "worker_lost"
    LOOP_LIMIT_EXCEEDED = "loop_limit_exceeded"

    # Registrations.
    TRIGGER_REGISTRATION_FAILED = "trigger_registration_failed"
    TRIGGER_TYPE_NOT_FOUND = "trigger_type_not_found"
    FUNCTION_NAMESPACE_CONFLICT = "FUNCTION_NAMESPACE_CONFLICT"
    WORKER_NAMESPACE_CONFLICT = "WORKER_NAMESPACE_CONFLICT"

    # What a caller is let do.
    FORBIDDEN = "FORBIDDEN"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"


class StateError(Exception):
    """The root of the family: whatever this package raises on purpose, and a caller can react to."""


# --- calls of functions


class FunctionError(StateError):
    """A call of a function failed, with the code and the message that travel over the wire.

    `code` is one of `Code`, or whatever word the function chose; `message` is for people. `stacktrace` is the text a worker sent
    along, if it did. `final` says of an event's handler that the event is not to be delivered to it again. Texts are `bounded`.
    """

    def __init__(self, code: str, message: str, stacktrace: str | None = None, *, final: bool = False) -> None:
        code, message = code[:MAX_CODE], bounded(message)
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.stacktrace = None if stacktrace is None else bounded(stacktrace, MAX_STACKTRACE)
        self.final = final


class ConditionUnmet(FunctionError):
    """A condition of `only_if` did not hold, and nothing was changed (`CONDITION_FAILED`): raised by `iii_state.State`.

    `index` is which, in a transaction of the step of index `step`; `value` is what is stored at the key, as a Python object, with
    its `etag`, both None where nothing is.
    """

    def __init__(self, message: str, index: int, step: int | None, value: Any, etag: str | None) -> None:
        super().__init__(Code.CONDITION_FAILED, message)
        self.index = index
        self.step = step
        self.value = value
        self.etag = etag


class NotCarriedOut(FunctionError):
    """A call was never begun, or was given back by somebody who only passes calls on: the function has not failed.

    Only who knows this for certain raises it. A code alone, which any function can answer, never counts as this. `begun` says that
    it had left for somebody who only passes calls on, and is gone: the function may still be running there.
    """

    def __init__(self, code: str, message: str, stacktrace: str | None = None, *, final: bool = False, begun: bool = False) -> None:
        super().__init__(code, message, stacktrace, final=final)
        self.begun = begun


class WorkerLost(FunctionError):
    """A call's worker went away in mid-call, perhaps because of the call: how far it came is not known."""


# --- what was asked for cannot be used


class ConfigError(StateError):
    """A configuration that cannot be used; the message names the key and what was expected."""


class InvalidValue(StateError, ValueError):
    """A JSON text that cannot be stored; the message is a cause in words."""


class InvalidOp(StateError, ValueError):
    """An op that makes its whole call invalid; the message names the op and the field."""


# --- the store


class StoreError(StateError):
    """What an adapter's backend refused or could not answer, in words. Of a mutation: nothing was changed.

    The module answers with the code of the error, or, where it has none, with that of the function that was called, e.g.
    `SET_ERROR`, and a message `Failed to set value: …`.
    """

    code: Code | None = None


class NoAnswer(StoreError):
    """Redis has not answered a call in time, or could not be asked; nothing was changed. The same call may be answered later."""


class OutcomeUnknown(StoreError):
    """A mutation may have been applied, or may be applied yet: read the value before it is made again."""

    code = Code.OUTCOME_UNKNOWN


class NotConfirmed(StoreError):
    """A mutation was applied, but the replicas that `wait_replicas` asks for have not confirmed it: a failover may lose it."""

    code = Code.NOT_CONFIRMED


class Compacted(StoreError):
    """What comes after a position in a change log is kept no more, or has never been known here: read the values again."""

    code = Code.COMPACTED


class SessionError(StoreError):
    """Why a call that was made again, or the opening of a session, was refused. It changed nothing now."""

    code: Code


class SessionLost(SessionError):
    """The session is not there, and whether an earlier attempt of the call was applied is not known; this one was not."""

    code = Code.SESSION_LOST

    def __init__(self) -> None:
        super().__init__(
            "the session is not known here: never opened, expired, or lost with its store; nothing was changed now, "
            "and whether an earlier attempt was applied is not known. Open a new session, under another id"
        )


class SessionTaken(SessionError):
    """Another caller uses this session's id, or a later epoch holds."""

    code = Code.SESSION_TAKEN

    def __init__(self) -> None:
        super().__init__("there is such a session already, or a later epoch holds: raise the epoch, or use another id")


class RequestFenced(SessionError):
    """The call is a straggler: its epoch does not hold any more, or its slot has been used since."""

    code = Code.REQUEST_FENCED

    def __init__(self) -> None:
        super().__init__("the epoch of this request does not hold, or its slot has been used since; nothing was changed now")


class OldValueUnknown(SessionError):
    """A mutation was applied, but the value it replaced was too large to be recorded, and the first answer was lost."""

    code = Code.OLD_VALUE_UNKNOWN

    def __init__(self, message: str | None = None) -> None:
        super().__init__(
            message
            or f"an earlier attempt was applied; what it replaced had more than {MAX_RECORDED_BYTES} bytes, and was not recorded"
        )


class ConditionFailed(FunctionError):
    """A condition of a mutation does not hold (`iii_state.values.conditions`): nothing was changed.

    `index` is which, `step` of which step of a transaction, `text` what is stored, None for nothing. It is what is answered, too,
    when the call is made again. Where `is_recorded` is false, this is such a call, and `text` was too large to be kept for it.
    """

    def __init__(
        self,
        index: int,
        path: str,
        place: tuple[str, str],
        text: bytes | None,
        *,
        step: int | None = None,
        is_recorded: bool = True,
    ) -> None:
        of_step = "" if step is None else f"steps[{step}]: "
        where = f"at path '{path}' of scope '{place[0]}', key '{place[1]}'"
        super().__init__(Code.CONDITION_FAILED, f"{of_step}Condition {index} does not hold {where}")
        self.index = index
        self.step = step
        self.text = text
        self.is_recorded = is_recorded


class ScriptError(StateError):
    """A Lua script cannot be put together; the message names the file and the include."""


# --- connections to an engine


class ConnectionLost(StateError):
    """The engine could not be reached, or went away; the message says where and why.

    `sent` tells of a call whether the engine may have received it: then its outcome is unknown.
    """

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class HandshakeRefused(StateError):
    """A server's answer to a handshake is none; the message says what it is instead, `status` is that of HTTP."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class AccessRefused(StateError):
    """A request is not let in: `status` is that of the HTTP answer, which is to be held back for `seconds`."""

    def __init__(self, status: int, message: str, *, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.seconds = seconds


class WorkerRejected(StateError):
    """The engine will not have this worker; the message is its reason, `code` its word for it."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class AttachRefused(StateError):
    """This engine will not be served by an attached worker; the message says why, and what to do."""


# --- watching


class Gap(StateError):
    """Events were dropped that a watch had not read in time, `dropped` of them: those that follow are newer.

    Read the values again, then go on: the watch is still open.
    """

    def __init__(self, dropped: int) -> None:
        super().__init__(f"{dropped} events were dropped, since they were not read in time; the values have to be read again")
        self.dropped = dropped


# --- moving data


class TransferError(StateError):
    """Data could not be moved: the message says what is wrong, with the line of a file, how far it came, and what to do next."""


# --- texts


def bounded(text: str, limit: int = MAX_MESSAGE) -> str:
    """A text of an error, cut where it is longer than that, and saying so."""
    return text if len(text) <= limit + _ABOUT_THE_CUT else f"{text[:limit]}… (cut: {len(text)} characters)"


def words(error: BaseException) -> str:
    """What an exception says, or else what it is; one whose own text cannot be had included."""
    try:
        return str(error) or type(error).__name__
    except BaseException:  # whatever it raises, the failure that is told of is `error`
        return type(error).__name__


def too_large(size: int, limit: int) -> FunctionError:
    """The error of a value, or the result of an update, that has `size` bytes (compact) where `limit` are allowed."""
    if limit >= MAX_VALUE_BYTES:
        return FunctionError(Code.VALUE_TOO_LARGE, f"value of {size} bytes exceeds the limit of {limit} bytes for any value")
    return FunctionError(Code.VALUE_TOO_LARGE, f"value of {size} bytes exceeds the configured max_value_bytes limit of {limit}")


def unsupported(what: str, feature: str) -> FunctionError:
    """The error of a call that needs a feature which an engine does not announce (`engine::functions::info` of `state::set`)."""
    return FunctionError(Code.UNSUPPORTED, f"{what} does not have the feature `{feature}`; nothing was changed")


def own(error: FunctionError) -> FunctionError:
    """The error of a function that failed because a call did that it made itself: what became of that call is not said of it."""
    if isinstance(error, NotCarriedOut | WorkerLost):
        return FunctionError(error.code, error.message, error.stacktrace)
    return error
