"""What is asked of a store through an engine besides its values: who wants which events, what became of those that no handler took,
and sessions by which calls are recognised that are made again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.adapters.base import Adapter
from iii_state.errors import FunctionError, InvalidValue, StoreError
from iii_state.events import DeadLetter, QueueStats
from iii_state.host import Answer, Caller, Host, then
from iii_state.requests import describe, within
from iii_state.sessions import MAX_NUMBER, OpenRequest, SessionError, check_session
from iii_state.values import Json


class DeadRequest(msgspec.Struct):
    """Which dead letters: one by its id, those of a function, or all."""

    id: str | None = None
    function_id: str | None = None


_dead = msgspec.json.Decoder(DeadRequest)
_open = msgspec.json.Decoder(OpenRequest)


class Operations:
    """The functions `iii-state::*` over any adapter."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def register(self, host: Host) -> None:
        """Register the functions with an engine."""
        for name, handler, description in (
            ("triggers", self._triggers, "List the subscriptions: who wants what, and what waits for it"),
            ("dead_list", self._list, "List dead letters: {function_id?}"),
            ("dead_show", self._show, "Show dead letters with their events: {id?, function_id?}"),
            ("dead_retry", self._retry, "Deliver dead letters again: {id?, function_id?}"),
            ("session_open", self._session_open, "Open a session, or raise its epoch: {session, epoch, previous_epoch?}"),
            ("dead_drop", self._drop, "Drop dead letters: {id?, function_id?}"),
        ):
            host.register_function(f"iii-state::{name}", handler, description=description)

    def _triggers(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        return then(self._ask(self._adapter.queues), lambda queues: values.encode({"triggers": list(map(_queue_row, queues))}))

    def _list(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        return then(self._chosen("dead_list", data), lambda letters: values.encode({"dead": list(map(_letter_row, letters))}))

    def _show(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        def shown(letters: Sequence[DeadLetter]) -> bytes:
            rows = [{**_letter_row(letter), "event": Raw(letter.event.payload())} for letter in letters]
            return values.encode({"dead": rows})

        return then(self._chosen("dead_show", data), shown)

    def _retry(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        return self._each("dead_retry", data, self._adapter.revive, "retried")

    def _drop(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        return self._each("dead_drop", data, self._adapter.discard, "dropped")

    def _session_open(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        try:
            request = _open.decode(data)
            check_session(request.session)
            within("epoch", request.epoch, 1, MAX_NUMBER)
            within("previous_epoch", request.previous_epoch, 0, request.epoch - 1)
        except (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeError) as error:
            _refuse("session_open", data, OpenRequest, error)
        opened = self._ask(lambda: self._adapter.open_session(request.session, request.previous_epoch, request.epoch))
        about = {"session": request.session, "epoch": request.epoch, "store": self._adapter.store}
        return then(opened, lambda _: values.encode(about))

    def _each(self, name: str, data: Json, step: Callable[[str], Answer[bool]], word: str) -> Answer[bytes | None]:
        async def all_of(letters: Sequence[DeadLetter]) -> bytes:
            count = 0
            for letter in letters:
                done = self._ask(lambda letter_id=letter.id: step(letter_id))  # type: ignore[misc]
                count += bool(await done if isinstance(done, asyncio.Future) else done)
            return values.encode({word: count})

        async def run() -> bytes:
            letters = self._chosen(name, data)
            return await all_of(await letters if isinstance(letters, asyncio.Future) else letters)

        return asyncio.ensure_future(run())

    def _chosen(self, name: str, data: Json) -> Answer[Sequence[DeadLetter]]:
        try:
            request = DeadRequest() if bytes(data) == b"null" else _dead.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            _refuse(name, data, DeadRequest, error)

        def chosen(letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
            found = [letter for letter in letters if request.id in (None, letter.id)]
            if request.id is not None and not found:
                raise FunctionError("NOT_FOUND", f"there is no dead letter {request.id}")
            return found

        return then(self._ask(lambda: self._adapter.dead_letters(request.function_id)), chosen)

    @staticmethod
    def _ask(question: Callable[[], Answer[Any]]) -> Answer[Any]:
        try:
            return then(question(), lambda answer: answer, _in_words)
        except StoreError as error:
            raise _in_words(error) from None


def _refuse(name: str, data: Json, expected: type[msgspec.Struct], error: Exception) -> NoReturn:
    cause = describe(bytes(data), expected, error)
    raise FunctionError("deserialization_error", f"Failed to deserialize input for iii-state::{name}: {cause}") from None


def _in_words(error: BaseException) -> BaseException:
    if isinstance(error, SessionError):
        return FunctionError(error.code, str(error))
    return FunctionError("STORE_ERROR", str(error)) if isinstance(error, StoreError) else error


def _queue_row(stats: QueueStats) -> dict[str, Any]:
    subscription = stats.subscription
    return {
        "function_id": subscription.function_id,
        "namespace": subscription.namespace,
        "scope": subscription.scope,
        "key": subscription.key,
        "condition_function_id": subscription.condition_function_id,
        "delivery": subscription.delivery,
        "hosted": stats.hosted,
        "waiting": stats.waiting,
        "pending": stats.pending,
        "dead": stats.dead,
        "dropped": stats.dropped,
    }


def _letter_row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "function_id": letter.function_id,
        "scope": letter.event.scope,
        "key": letter.event.key,
        "event_type": letter.event.event_type,
        "attempts": letter.attempts,
        "error": letter.error,
        "buried_at_ms": letter.buried_at_ms,
    }
