"""What functions for operators share: who may know of what, and what the store's errors are called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from iii_state.errors import Code, FunctionError, StoreError
from iii_state.host import Caller
from iii_state.tasks.results import Awaited, Result, then


def may_see(caller: Caller, scope: str | None) -> bool:
    """Whether somebody may know of what is about a scope, or about all of them."""
    access = caller.access
    return access is None or access.rights.scopes is None or (scope is not None and access.may_read(scope))


def asked(question: Callable[[], Awaited[Any]]) -> Result[Any]:
    """What the store answers; its errors are `FunctionError`s."""
    try:
        answer = question()
        if isinstance(answer, Coroutine):
            answer = asyncio.ensure_future(answer)
        return then(answer, lambda answer: answer, _in_words)
    except StoreError as error:
        raise _in_words(error) from None


def _in_words(error: BaseException) -> BaseException:
    return FunctionError(error.code or Code.STORE_ERROR, str(error)) if isinstance(error, StoreError) else error
