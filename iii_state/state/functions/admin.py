"""What operators ask for: who wants which events, and what became of those that no handler took."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw

from iii_state import values
from iii_state.adapters.base import Admin, Backup
from iii_state.errors import MAX_CODE, MAX_MESSAGE, Code, FunctionError, bounded
from iii_state.events import DeadLetter, QueueStats, particulars
from iii_state.host import Caller, Handler
from iii_state.state.functions.declared import Registration, for_operators
from iii_state.state.functions.operators import asked, may_see
from iii_state.state.functions.subscriptions import SubscriptionFunctions
from iii_state.tasks.results import Awaited, Result, result_of, then
from iii_state.values import Json
from iii_state.values.requests import read

T = TypeVar("T")

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

MAX_SHOWN = 1000
"""The most dead letters of one answer."""

MAX_SHOWN_BYTES = 32 * 1024 * 1024
"""The most bytes of one answer, but for a single dead letter: more may not fit into a frame."""


class DeadRequest(msgspec.Struct):
    """Which dead letters: one by its id, those of a function, or all, `after` one of them; and how many of them are shown."""

    id: str | None = None
    function_id: str | None = None
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_SHOWN)] = 100


class BackupRequest(msgspec.Struct):
    """What a copy of the store's file is to be called; after the time, where that is not said."""

    name: str | None = None


class AdminFunctions:
    """The functions `iii-state::*`, over any adapter or what an operator has opened of one."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def __iter__(self) -> Iterator[Registration]:
        for function_id, handler, description in self._functions():
            yield function_id, partial(_operate, handler), description

    def _functions(self) -> Iterator[Registration]:
        yield "iii-state::triggers", self._triggers, "List the subscriptions: who wants what, and what waits for it"
        yield from SubscriptionFunctions(self._admin)
        yield "iii-state::dead_list", self._list, "List dead letters: {function_id?, id?, after?, limit?}"
        yield "iii-state::dead_show", self._show, "Show dead letters with their events: {function_id?, id?, after?, limit?}"
        yield "iii-state::dead_retry", self._retry, "Deliver dead letters again: {function_id?, id?}"
        yield "iii-state::dead_drop", self._drop, "Drop dead letters: {function_id?, id?}"
        yield "iii-state::backup", self._backup, "Copy the file of a kv store, into `backups` beside it: {name?}"

    def _triggers(self, data: Json, caller: Caller) -> Result[bytes | None]:
        def shown(queues: Sequence[QueueStats]) -> bytes:
            rows = [_queue_row(queue) for queue in queues if may_see(caller, queue.subscription.scope)]
            return values.encode({"triggers": rows})

        return then(asked(self._admin.stats), shown)

    def _list(self, data: Json, caller: Caller) -> Result[bytes | None]:
        return self._shown("dead_list", data, caller, _dead_letter_row)

    def _show(self, data: Json, caller: Caller) -> Result[bytes | None]:
        return self._shown(
            "dead_show",
            data,
            caller,
            lambda dead_letter: {**_dead_letter_row(dead_letter), "event": Raw(dead_letter.event.payload())},
        )

    def _retry(self, data: Json, caller: Caller) -> Result[bytes | None]:
        return self._each("dead_retry", data, caller, self._admin.dead_retry, "retried")

    def _drop(self, data: Json, caller: Caller) -> Result[bytes | None]:
        return self._each("dead_drop", data, caller, self._admin.dead_drop, "dropped")

    def _backup(self, data: Json, caller: Caller) -> Result[bytes | None]:
        name = read("iii-state::backup", data, BackupRequest).name
        if name is None:
            name = f"state-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.sqlite3"
        elif _FILE_NAME.fullmatch(name) is None:
            why = "name: it has to be the name of a file: letters, digits, dots, dashes and underscores, no dot or dash at first"
            raise FunctionError(Code.DESERIALIZATION_ERROR, f"Failed to deserialize input for iii-state::backup: {why}")

        def told(made: Backup) -> bytes:
            return values.encode({"path": made.path, "bytes": made.bytes})

        return then(asked(lambda: self._admin.backup(name)), told)

    def _shown(self, name: str, data: Json, caller: Caller, row: Callable[[DeadLetter], dict[str, Any]]) -> Result[bytes | None]:
        request = read(f"iii-state::{name}", data, DeadRequest)

        def shown(dead_letters: Sequence[DeadLetter]) -> bytes:
            rows: list[Raw] = []
            size = 0
            for dead_letter in _behind(dead_letters, request.after)[: request.limit]:
                text = values.encode(row(dead_letter))
                size += len(text) + 1
                if rows and size > MAX_SHOWN_BYTES:
                    break
                rows.append(Raw(text))
            return values.encode({"dead": rows, "total": len(dead_letters)})

        return then(self._chosen(request, caller), shown)

    def _each(self, name: str, data: Json, caller: Caller, step: Callable[[str], Awaited[bool]], word: str) -> Result[bytes | None]:
        request = read(f"iii-state::{name}", data, DeadRequest)

        async def run() -> bytes:
            count = 0
            for letter_id in await self._ids(request, caller):
                count += bool(await result_of(asked(partial(step, letter_id))))
            if request.id is not None and not count:
                raise _missing(request.id)
            return values.encode({word: count})

        return asyncio.ensure_future(run())

    async def _ids(self, request: DeadRequest, caller: Caller) -> list[str]:
        """The ids of what is meant. One that is named is not looked for among all: a bridge names one after the other.

        But for a caller with scopes it is: its scope has to be one of them.
        """
        if request.id is not None and request.function_id is None and may_see(caller, None):
            return [request.id]
        return [dead_letter.id for dead_letter in await result_of(self._chosen(request, caller))]

    def _chosen(self, request: DeadRequest, caller: Caller) -> Result[Sequence[DeadLetter]]:
        def chosen(dead_letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
            found = [
                dead_letter
                for dead_letter in dead_letters
                if request.id in (None, dead_letter.id) and may_see(caller, dead_letter.event.scope)
            ]
            if request.id is not None and not found:
                raise _missing(request.id)
            return found

        return then(asked(lambda: self._admin.dead_letters(request.function_id)), chosen)


def _missing(dead_letter_id: str) -> FunctionError:
    return FunctionError(Code.NOT_FOUND, f"there is no dead letter {dead_letter_id}")


def _behind(dead_letters: Sequence[DeadLetter], after: str | None) -> Sequence[DeadLetter]:
    """Those that follow a dead letter. Raises `FunctionError` where that is not there (any more)."""
    if after is None:
        return dead_letters
    for number, dead_letter in enumerate(dead_letters, 1):
        if dead_letter.id == after:
            return dead_letters[number:]
    raise FunctionError(Code.NOT_FOUND, f"there is no dead letter {after}, to list those after it")


def _operate(handler: Handler, data: Json, caller: Caller) -> Result[bytes | None]:
    if caller.access is not None:
        for_operators(caller.access, data)
    return handler(data, caller)


def _queue_row(stats: QueueStats) -> dict[str, Any]:
    subscription = stats.subscription
    return {
        "id": subscription.id,
        "function_id": subscription.function_id,
        "namespace": subscription.namespace,
        "scope": subscription.scope,
        "key": subscription.key,
        "condition_function_id": subscription.condition_function_id,
        "delivery": subscription.delivery,
        "hosts": stats.hosts,
        "waiting": stats.waiting,
        "pending": stats.pending,
        "retrying": stats.retrying,
        "oldest_at_ms": stats.oldest_at_ms,
        "dead": stats.dead,
        "dropped": stats.dropped,
        "retention_ms": subscription.retention_ms,
        **({"looping": True} if stats.is_looping else {}),
        **({} if stats.paused_at_ms is None else {"paused_at_ms": stats.paused_at_ms}),
        **particulars(subscription),
    }


def _dead_letter_row(dead_letter: DeadLetter) -> dict[str, Any]:
    cause = dead_letter.event.cause
    return {
        "id": dead_letter.id,
        "function_id": dead_letter.function_id,
        "scope": dead_letter.event.scope,
        "key": dead_letter.event.key,
        "event_type": dead_letter.event.event_type,
        **({} if cause is None else {"cause": cause}),
        "attempts": dead_letter.attempts,
        "error": bounded(dead_letter.error, MAX_CODE + MAX_MESSAGE),
        "buried_at_ms": dead_letter.buried_at_ms,
    }
