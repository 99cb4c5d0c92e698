"""How a function is declared: its request, what carries it out, its reply, and what its errors are called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Generic, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec

from iii_state.access import Access
from iii_state.errors import Code, FunctionError, InvalidValue, SessionError, StoreError
from iii_state.host import Caller, Handler
from iii_state.tasks.results import Result, then
from iii_state.values import Json
from iii_state.values.requests import refusal

R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")

UNREADABLE = (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeError)
"""What reading a request raises."""

ErrorTranslation = Callable[[BaseException], BaseException]
"""From an error of the adapter to the one that the caller is told."""

Check: TypeAlias = Callable[[Access, R], None]
"""Raises `FunctionError` (`FORBIDDEN`) for a request that a limited token may not make."""

Registration = tuple[str, Handler, str]
"""Id, function and description of a function."""


class _ScopeRequest(Protocol):
    @property
    def scope(self) -> str: ...


def reads_scope(access: Access, request: _ScopeRequest) -> None:
    """The check of a function that shows values of a scope."""
    access.check_read(request.scope)


def writes_scope(access: Access, request: _ScopeRequest) -> None:
    """The check of a function that changes values of a scope."""
    access.check_write(request.scope)


def everybodys(access: Access, request: object) -> None:
    """The check of a function that shows and changes no values."""


def for_operators(access: Access, request: object) -> None:
    """The check of a function for operators."""
    if not access.rights.operate:
        raise access.refusal("operate (the right `operate`)")


def nobodys(access: Access, request: object) -> None:
    """The check of a function that says nothing about limited tokens: they may not call it."""
    raise access.refusal("do this: only tokens without `rights` may")


class FunctionGroup(Protocol):
    """Functions that a module registers together."""

    def __iter__(self) -> Iterator[Registration]: ...


@dataclass(slots=True, frozen=True)
class Declared(Generic[R, T]):
    """A function: reads its request, carries it out, and words the reply. It is a `Handler`.

    `read` raises one of `UNREADABLE`, and `carry_out` `InvalidValue`, for a request that cannot be used. `check` raises what a
    limited token is told that may not do this; without one, limited tokens may not call the function. `state::set`, `get` and
    `update` are written out by hand (`values`): they are called most, and every call of Python in them counts.
    """

    function_id: str
    request: type[R]
    read: Callable[[Json], R]
    carry_out: Callable[[R, Caller], Result[T]]
    reply: Callable[[T], bytes | None]
    failed: ErrorTranslation
    check: Check[R] = nobodys

    def __call__(self, data: Json, caller: Caller) -> Result[bytes | None]:
        try:
            request = self.read(data)
        except UNREADABLE as error:
            refuse(self.function_id, data, self.request, error)
        if caller.access is not None:
            self.check(caller.access, request)
        try:
            answer = self.carry_out(request, caller)
        except InvalidValue as error:
            refuse(self.function_id, data, self.request, error)
        except StoreError as error:
            raise self.failed(error) from None
        return then(answer, self.reply, self.failed) if isinstance(answer, asyncio.Future) else self.reply(answer)


def as_it_is(text: bytes | None) -> bytes | None:
    """The reply of a function whose result is a stored text."""
    return text


def failing_with(code: Code, what: str) -> ErrorTranslation:
    """Words for errors of the store: `Failed to <what>: …`, under the error's own code or else this one."""
    return partial(_in_words, code, what)


def _in_words(code: Code, what: str, error: BaseException) -> BaseException:
    if isinstance(error, SessionError):
        return FunctionError(error.code, str(error))
    return FunctionError(error.code or code, f"Failed to {what}: {error}") if isinstance(error, StoreError) else error


def refuse(function_id: str, data: Json, expected: type[msgspec.Struct], error: Exception) -> NoReturn:
    """Raise what a caller is told whose request cannot be used."""
    raise refusal(function_id, data, expected, error) from None
