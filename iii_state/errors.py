"""The errors that callers of this package see."""

from __future__ import annotations


class FunctionError(Exception):
    """A call of a function failed, with the code and the message that travel over the wire.

    `code` is a stable word (`deserialization_error`, `VALUE_TOO_LARGE`, `invocation_failed`, `function_not_found`, …),
    `message` is for people. `stacktrace` is the text a worker sent along, if it did. `final` says of an event's handler that the
    event is not to be delivered to it again.
    """

    def __init__(self, code: str, message: str, stacktrace: str | None = None, *, final: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.stacktrace = stacktrace
        self.final = final


def words(error: BaseException) -> str:
    """What an exception says, or else what it is; one whose own text cannot be had included."""
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__


def too_large(size: int, limit: int) -> FunctionError:
    """The error of a value, or the result of an update, that has `size` bytes (compact) where `limit` are allowed."""
    return FunctionError("VALUE_TOO_LARGE", f"value of {size} bytes exceeds the configured max_value_bytes limit of {limit}")


class NotCarriedOut(FunctionError):
    """A call was never begun, or was given back by somebody who only passes calls on: the function has not failed.

    Only who knows this for certain raises it. A code alone, which any function can answer, never counts as this.
    """


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
