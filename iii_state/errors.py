"""The errors that callers of this package see."""

from __future__ import annotations

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""The largest value that is stored whatever is configured: a reply with old and new has to fit into a frame."""

MAX_MESSAGE, MAX_STACKTRACE, MAX_CODE = 8192, 16384, 100
"""Characters of an error that are kept, logged and answered."""

_ABOUT_THE_CUT = 64
"""What is said of a cut may stand behind the limit: a text is cut once, by whoever comes first."""


def bounded(text: str, limit: int = MAX_MESSAGE) -> str:
    """A text of an error, cut where it is longer than that, and saying so."""
    return text if len(text) <= limit + _ABOUT_THE_CUT else f"{text[:limit]}… (cut: {len(text)} characters)"


class FunctionError(Exception):
    """A call of a function failed, with the code and the message that travel over the wire.

    `code` is a stable word (`deserialization_error`, `VALUE_TOO_LARGE`, `invocation_failed`, `function_not_found`, …),
    `message` is for people. `stacktrace` is the text a worker sent along, if it did. `final` says of an event's handler that the
    event is not to be delivered to it again. Texts are `bounded`.
    """

    def __init__(self, code: str, message: str, stacktrace: str | None = None, *, final: bool = False) -> None:
        code, message = code[:MAX_CODE], bounded(message)
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.stacktrace = None if stacktrace is None else bounded(stacktrace, MAX_STACKTRACE)
        self.final = final


def words(error: BaseException) -> str:
    """What an exception says, or else what it is; one whose own text cannot be had included."""
    try:
        return str(error) or type(error).__name__
    except BaseException:  # whatever it raises, the failure that is told of is `error`
        return type(error).__name__


def too_large(size: int, limit: int) -> FunctionError:
    """The error of a value, or the result of an update, that has `size` bytes (compact) where `limit` are allowed."""
    if limit >= MAX_VALUE_BYTES:
        return FunctionError("VALUE_TOO_LARGE", f"value of {size} bytes exceeds the limit of {limit} bytes for any value")
    return FunctionError("VALUE_TOO_LARGE", f"value of {size} bytes exceeds the configured max_value_bytes limit of {limit}")


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


def own(error: FunctionError) -> FunctionError:
    """The error of a function that failed because a call did that it made itself: what became of that call is not said of it."""
    if isinstance(error, NotCarriedOut | WorkerLost):
        return FunctionError(error.code, error.message, error.stacktrace)
    return error


class ConfigError(Exception):
    """A configuration that cannot be used; the message names the key and what was expected."""


class StoreError(Exception):
    """What an adapter's backend refused or could not answer, in words.

    The module wraps it in the code of the function that was called, e.g. `SET_ERROR`, `Failed to set value: …`.
    """


class InvalidValue(ValueError):
    """A JSON text that cannot be stored; the message is a cause in words."""


class Gap(Exception):
    """Events were dropped that a watch had not read in time, `dropped` of them: those that follow are newer.

    Read the values again, then go on: the watch is still open.
    """

    def __init__(self, dropped: int) -> None:
        super().__init__(f"{dropped} events were dropped, since they were not read in time; the values have to be read again")
        self.dropped = dropped
