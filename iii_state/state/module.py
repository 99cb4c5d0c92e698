"""The state module: its functions and a trigger type, over any adapter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Literal, NoReturn

import msgspec
from msgspec import UNSET, Raw, UnsetType

from iii_state import config as configuration
from iii_state import values
from iii_state.adapters import open_adapter
from iii_state.adapters.base import Adapter, Updated
from iii_state.errors import Code, ConfigError, FunctionError, InvalidOp, InvalidValue, SessionError, StoreError, too_large
from iii_state.events import Subscription
from iii_state.host import Caller, Host, Trigger
from iii_state.sessions import MAX_NUMBER, OpenRequest, check_session, parse_request
from iii_state.state.admin import Operations
from iii_state.state.dispatcher import Dispatcher
from iii_state.state.snapshots import EntriesRequest, Snapshots
from iii_state.tasks.closing import Stopping, in_turn
from iii_state.tasks.results import Answer, then
from iii_state.values import Json
from iii_state.values.ops import OpRequest, compile_text
from iii_state.values.requests import describe, read, refusal, within

logger = logging.getLogger(__name__)

LIST_BYTES = 60 * 1024 * 1024
"""The largest answer of `state::list`; more does not fit into a frame."""

MAX_TTL_MS = 10**13

MAX_LINE_MS = 3_600_000

STOP_SECONDS = 10.0


# Requests hold nothing that could be part of a cycle, so the collector need not know of them: 30 ns a call.


class SetRequest(msgspec.Struct, gc=False):
    """`state::set`; `data` is an alias of `value`."""

    scope: str
    key: str
    value: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    _iii_state_request: Raw | UnsetType = UNSET
    ttl_ms: int | None = None


class KeyRequest(msgspec.Struct, gc=False):
    """`state::get`."""

    scope: str
    key: str


class DeleteRequest(msgspec.Struct, gc=False):
    """`state::delete`."""

    scope: str
    key: str
    _iii_state_request: Raw | UnsetType = UNSET


class UpdateRequest(msgspec.Struct):
    """`state::update`, in words for who gets it wrong: calls are decoded into `_Update`."""

    scope: str
    key: str
    ops: list[OpRequest]
    _iii_state_request: Raw | UnsetType = UNSET
    ttl_ms: int | None = None
    _iii_state_limit: int | None = None
    """What an engine with a bridge to this one allows (bytes)."""


class _Update(msgspec.Struct, gc=False):
    scope: str
    key: str
    ops: Raw
    _iii_state_request: Raw | UnsetType = UNSET
    ttl_ms: int | None = None
    _iii_state_limit: int | None = None


class ScopeRequest(msgspec.Struct):
    """`state::list` and `state::list_keys`."""

    scope: str


class RouteRequest(msgspec.Struct):
    """`iii-state::route`: the bridges that were passed already."""

    visited: list[str] = []


class LineRequest(msgspec.Struct):
    """`iii-state::line_up`: for how long a worker stands in line; with 0 it does so no more."""

    worker: str
    ttl_ms: int


class TriggerConfig(msgspec.Struct):
    """The config of a `state` trigger; unknown members are ignored."""

    scope: str | None = None
    key: str | None = None
    condition_function_id: str | None = None
    delivery: Literal["once", "broadcast"] | None = None
    retry: dict[str, Any] | None = None
    retention_ms: int | Literal["forever"] | None = None
    concurrency: int | None = None


_set = msgspec.json.Decoder(SetRequest)
_key = msgspec.json.Decoder(KeyRequest)
_delete = msgspec.json.Decoder(DeleteRequest)
_update = msgspec.json.Decoder(_Update)
_scope = msgspec.json.Decoder(ScopeRequest)
_entries = msgspec.json.Decoder(EntriesRequest)
_trigger = msgspec.json.Decoder(TriggerConfig)


class StateModule:
    """`state::*` and the trigger type `state`, for an engine.

    `config` is the `config` of the `iii-state` entry of an iii `config.yaml`, e.g. `{"adapter": {"name": "kv"}}`;
    `adapter` one to use in place of the one that it names. Raises
    `ConfigError` for a key or value that is not known; `start` raises `StoreError` when the store cannot be opened.
    """

    name = "iii-state"

    def __init__(self, config: Mapping[str, Any] | None = None, *, adapter: Adapter | None = None) -> None:
        self._settings = configuration.parse(config)
        self.adapter = adapter or open_adapter(self._settings)
        self._snapshots = Snapshots(self.adapter)
        self._dispatcher: Dispatcher | None = None
        self._triggers: dict[str, dict[str, None]] = {}
        """Subscription id → ids of the triggers that are registered here for it."""
        self._limit = 0
        self._has_started = False
        self._stopping = Stopping(self._stop)
        self._apply_live_settings()

    async def start(self, host: Host) -> None:
        """Open the store, and register the functions and the trigger type. When that fails, nothing is left open.

        Raises `ConfigError` for a module that has been started before: it is for one engine, and does not come back.
        """
        if self._has_started:
            raise ConfigError("this state module has been started before, and cannot be used again: make another one")
        dispatcher = Dispatcher(host, self.adapter, self._settings.dispatch)
        self._has_started = True
        try:
            await self.adapter.start(dispatcher.ring)
        except BaseException:
            self._has_started = False
            raise
        try:
            self._dispatcher = dispatcher
            self._apply_live_settings()
            self._register_with(host)
        except BaseException:
            await self.stop()
            raise

    def _register_with(self, host: Host) -> None:
        about = {"retry_safe": self.adapter.store is not None, "store": self.adapter.store}
        for function_id, handler, description in (
            ("state::set", self._set, "Set a value at a scope and a key"),
            ("state::get", self._get, "Get the value at a scope and a key"),
            ("state::delete", self._delete, "Delete the value at a scope and a key"),
            ("state::update", self._update, "Apply a list of operations to a value, atomically"),
            ("state::list", self._list, "List the values of a scope"),
            ("state::list_keys", self._list_keys, "List the keys of a scope"),
            ("state::list_entries", self._list_entries, "Read a scope in pages, as it was at one moment: keys and values"),
            ("state::list_groups", self._list_groups, "List the scopes that have values"),
            (
                "iii-state::session_open",
                self._open_session,
                "Open a session, or raise its epoch: {session, epoch, previous_epoch?}",
            ),
            ("iii-state::line_up", self._line_up, "Line up to serve this store to an engine, or step out: {worker, ttl_ms}"),
            ("iii-state::route", self._route, "Which bridges a call passes on its way to the store: {visited}"),
        ):
            metadata = values.encode({"iii_state": about}) if function_id == "state::set" else None
            host.register_function(function_id, handler, description=description, metadata=metadata)
        Operations(self.adapter.admin).register(host)
        host.watch_workers(self._snapshots.end)
        host.register_trigger_type("state", self, description="State trigger: a function runs after every change")

    async def stop(self) -> None:
        """Let running handlers finish (bounded), give the rest back, and close the store. It happens once (`stopping.Stopping`)."""
        if self._has_started:
            await self._stopping()

    async def _stop(self) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        steps: list[Callable[[], Awaitable[None]]] = [self._close_snapshots, self.adapter.stop]
        if dispatcher is not None:
            steps.insert(0, partial(dispatcher.stop, STOP_SECONDS))
        await in_turn(*steps)

    async def _close_snapshots(self) -> None:
        self._snapshots.close()

    async def health(self) -> str | None:
        """None when the store answers, else why not."""
        return await self.adapter.health()

    def reconfigure(self, config: Mapping[str, Any] | None) -> None:
        """Apply `triggers_enabled` and `max_value_bytes` of a new configuration at once; the rest needs a restart.

        Raises `ConfigError` if the configuration is not valid; then nothing has changed.
        """
        settings = configuration.parse(config)
        live = {"triggers_enabled": settings.triggers_enabled, "max_value_bytes": settings.max_value_bytes}
        if msgspec.structs.replace(self._settings, **live) != settings:
            logger.warning("only triggers_enabled and max_value_bytes are applied live; other changes need a restart")
        self._settings = msgspec.structs.replace(self._settings, **live)
        self._apply_live_settings()

    def _apply_live_settings(self) -> None:
        limit = self._settings.max_value_bytes
        self._limit = values.MAX_VALUE_BYTES if limit is None else min(limit, values.MAX_VALUE_BYTES)
        self.adapter.queues.enable_events(self._settings.triggers_enabled)
        if self._dispatcher is not None:
            self._dispatcher.pause(not self._settings.triggers_enabled)

    # -- functions

    def _set(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        try:
            request = _set.decode(data)
            given = request.value
            if given is UNSET:
                given = request.data
            elif request.data is not UNSET:
                raise InvalidValue("`value` and `data` are the same field; give one")
            if given is UNSET:
                raise InvalidValue("missing field `value`")
            if request.ttl_ms is not None:
                within("ttl_ms", request.ttl_ms, 1, MAX_TTL_MS)
            ticket = None if request._iii_state_request is UNSET else parse_request(request._iii_state_request)
            new = values.to_stored(given)
        except (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeError) as error:
            _refuse("state::set", data, SetRequest, error)
        if len(new) > self._limit:
            self._check_size(values.compact_size(new))
        try:
            answer = self.adapter.values.set(request.scope, request.key, new, ttl_ms=request.ttl_ms, request=ticket)
        except StoreError as error:
            raise _failure(Code.SET_ERROR, "set value", error) from None
        if not isinstance(answer, asyncio.Future):
            return _replaced(new, answer)
        return then(answer, partial(_replaced, new), lambda error: _failure(Code.SET_ERROR, "set value", error))

    def _get(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        try:
            request = _key.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            _refuse("state::get", data, KeyRequest, error)
        try:
            answer = self.adapter.values.get(request.scope, request.key)
        except StoreError as error:
            raise _failure(Code.GET_ERROR, "get value", error) from None
        if answer is None or isinstance(answer, bytes):
            return answer
        return then(answer, _as_it_is, lambda error: _failure(Code.GET_ERROR, "get value", error))

    def _delete(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        try:
            request = _delete.decode(data)
            ticket = None if request._iii_state_request is UNSET else parse_request(request._iii_state_request)
        except (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeError) as error:
            _refuse("state::delete", data, DeleteRequest, error)
        try:
            answer = self.adapter.values.delete(request.scope, request.key, request=ticket)
        except StoreError as error:
            raise _failure(Code.DELETE_ERROR, "delete value", error) from None
        return then(answer, _as_it_is, lambda error: _failure(Code.DELETE_ERROR, "delete value", error))

    def _update(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        try:
            request = _update.decode(data)
            if request.ttl_ms is not None:
                within("ttl_ms", request.ttl_ms, 1, MAX_TTL_MS)
            ticket = None if request._iii_state_request is UNSET else parse_request(request._iii_state_request)
            plan = compile_text(request.ops)
        except (msgspec.MsgspecError, InvalidOp, InvalidValue, RecursionError, UnicodeError) as error:
            _refuse("state::update", data, UpdateRequest, error)
        try:
            limit = self._limit if request._iii_state_limit is None else min(self._limit, request._iii_state_limit)
            answer = self.adapter.values.update(request.scope, request.key, plan, limit, ttl_ms=request.ttl_ms, request=ticket)
        except StoreError as error:
            raise _failure(Code.UPDATE_ERROR, "update value", error) from None
        if not isinstance(answer, asyncio.Future):
            return _updated(answer)
        return then(answer, _updated, lambda error: _failure(Code.UPDATE_ERROR, "update value", error))

    def _list(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        try:
            request = _scope.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            _refuse("state::list", data, ScopeRequest, error)
        try:
            answer = self.adapter.values.texts(request.scope)
        except StoreError as error:
            raise _failure(Code.LIST_ERROR, "list values", error) from None
        return then(answer, _listed, lambda error: _failure(Code.LIST_ERROR, "list values", error))

    def _list_keys(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        try:
            request = _scope.decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            _refuse("state::list_keys", data, ScopeRequest, error)
        try:
            answer = self.adapter.values.keys(request.scope)
        except StoreError as error:
            raise _failure(Code.LIST_KEYS_ERROR, "list keys", error) from None
        return then(answer, _keys_listed, lambda error: _failure(Code.LIST_KEYS_ERROR, "list keys", error))

    def _list_entries(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        try:
            request = _entries.decode(data)
            answer = self._snapshots.page(request, caller.worker_id)
        except (msgspec.MsgspecError, InvalidValue, RecursionError, UnicodeError) as error:
            _refuse("state::list_entries", data, EntriesRequest, error)
        except StoreError as error:
            raise _failure(Code.LIST_ENTRIES_ERROR, "list entries", error) from None
        return then(answer, _as_it_is, lambda error: _failure(Code.LIST_ENTRIES_ERROR, "list entries", error))

    def _list_groups(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        try:
            answer = self.adapter.values.scopes()
        except StoreError as error:
            raise _failure(Code.LIST_GROUPS_ERROR, "list groups", error) from None
        return then(
            answer,
            lambda groups: b'{"groups":%b}' % values.encode(sorted(groups)),
            lambda error: _failure(Code.LIST_GROUPS_ERROR, "list groups", error),
        )

    def _open_session(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        request = read("iii-state::session_open", data, OpenRequest)
        try:
            check_session(request.session)
            within("epoch", request.epoch, 1, MAX_NUMBER)
            within("previous_epoch", request.previous_epoch, 0, request.epoch - 1)
            answer = self.adapter.sessions.open(request.session, request.previous_epoch, request.epoch)
        except InvalidValue as error:
            _refuse("iii-state::session_open", data, OpenRequest, error)
        except StoreError as error:
            raise _failure(Code.STORE_ERROR, "open a session", error) from None
        opened = values.encode({"session": request.session, "epoch": request.epoch, "store": self.adapter.store})
        return then(answer, lambda _: opened, lambda error: _failure(Code.STORE_ERROR, "open a session", error))

    def _route(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        answer = self.adapter.route(read("iii-state::route", data, RouteRequest).visited)
        return then(answer, lambda visited: values.encode({"visited": visited}))

    def _line_up(self, data: Json, caller: Caller) -> Answer[bytes | None]:
        request = read("iii-state::line_up", data, LineRequest)
        try:
            within("ttl_ms", request.ttl_ms, 0, MAX_LINE_MS)
            if request.ttl_ms:
                before = self.adapter.succession.enter(request.worker, request.ttl_ms)
            else:
                before = then(self.adapter.succession.leave(request.worker), lambda _: [])
        except InvalidValue as error:
            _refuse("iii-state::line_up", data, LineRequest, error)
        except StoreError as error:
            raise _failure(Code.STORE_ERROR, "line up", error) from None
        return then(
            before,
            lambda workers: values.encode({"before": workers}),
            lambda error: _failure(Code.STORE_ERROR, "line up", error),
        )

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise too_large(size, self._limit)

    # -- the trigger type

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> Answer[None]:
        """Subscribe a trigger's function to the events that match its config. One that stays the same keeps its queue.

        That of one that is replaced waits for its retention, as if its worker had gone: nobody has unregistered it.
        """
        dispatcher = self._running()
        try:
            subscription = self._subscription(trigger)
        except FunctionError:
            if replaces is not None:
                self.unregister(replaces, disconnected=True)
            raise
        if replaces is not None and self._subscription(replaces).id != subscription.id:
            self.unregister(replaces, disconnected=True)

        # It counts from now on: an equal trigger that goes before the adapter has answered leaves the queue to it.
        self._triggers.setdefault(subscription.id, {})[trigger.id] = None
        try:
            answer = self.adapter.queues.subscribe(subscription)
        except StoreError as error:
            self._let_go(subscription.id, trigger, disconnected=True)
            raise _registration_failure(str(error)) from None
        registered = then(answer, lambda _: dispatcher.add(subscription), lambda error: _registration_failure(str(error)))
        if isinstance(registered, asyncio.Future):

            def look(done: asyncio.Future[None]) -> None:
                if done.cancelled() or done.exception() is not None:
                    self._let_go(subscription.id, trigger, disconnected=True)

            registered.add_done_callback(look)
        return registered

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> Answer[None]:
        """Let a trigger go. The last one of a subscription ends it, or, if its worker is only away, leaves its queue waiting."""
        return self._let_go(self._subscription(trigger).id, trigger, disconnected=disconnected)

    def _let_go(self, subscription_id: str, trigger: Trigger, *, disconnected: bool) -> Answer[None]:
        registered = self._triggers.get(subscription_id)
        if self._dispatcher is None or registered is None or registered.pop(trigger.id, False) is False or registered:
            return None
        del self._triggers[subscription_id]
        self._dispatcher.remove(subscription_id)
        return self.adapter.queues.abandon(subscription_id) if disconnected else self.adapter.queues.unsubscribe(subscription_id)

    def _subscription(self, trigger: Trigger) -> Subscription:
        try:
            given = _trigger.decode(trigger.config) if trigger.config is not None and trigger.config != b"null" else TriggerConfig()
            retry = configuration.section("retry.", given.retry or {}, configuration.RETRY_CHECKS)
            if given.retention_ms is not None:
                configuration.retention("retention_ms", given.retention_ms)
            if given.concurrency is not None:
                configuration.integer(1, 100_000)("concurrency", given.concurrency)
        except (msgspec.MsgspecError, ConfigError, RecursionError, UnicodeError) as error:
            cause = describe(trigger.config or b"null", TriggerConfig, error)
            raise _registration_failure(f"Failed to parse trigger config: {cause}") from None
        return Subscription(
            function_id=trigger.function_id,
            namespace=trigger.namespace,
            scope=given.scope,
            key=given.key,
            condition_function_id=given.condition_function_id,
            delivery=given.delivery or "once",
            retry=msgspec.structs.replace(self._settings.retry, **retry),
            concurrency=given.concurrency,
            retention_ms=self._settings.retention_ms if given.retention_ms is None else given.retention_ms,
            metadata=trigger.metadata,
        )

    def _running(self) -> Dispatcher:
        if self._dispatcher is None:
            raise _registration_failure("the state module is not running")
        return self._dispatcher


def _as_it_is(text: bytes | None) -> bytes | None:
    return text


def _replaced(new: bytes, old: bytes | None) -> bytes:
    return b'{"old_value":%b,"new_value":%b}' % (b"null" if old is None else old, new)


def _updated(updated: Updated) -> bytes:
    old, new, errors = updated
    if not errors:
        return _replaced(new, old)
    return b'{"old_value":%b,"new_value":%b,"errors":%b}' % (b"null" if old is None else old, new, values.encode(errors))


def _listed(texts: list[bytes]) -> bytes:
    if sum(map(len, texts)) + len(texts) > LIST_BYTES:
        raise FunctionError(
            Code.LIST_ERROR,
            f"Failed to list values: the scope holds more than {LIST_BYTES} bytes; read it in pages with state::list_entries",
        )
    return b"[%b]" % b",".join(texts)


def _keys_listed(keys: list[str]) -> bytes:
    text = b'{"keys":%b}' % values.encode(keys)
    if len(text) > LIST_BYTES:
        raise FunctionError(
            Code.LIST_KEYS_ERROR,
            f"Failed to list keys: they take more than {LIST_BYTES} bytes; read them in pages with state::list_entries",
        )
    return text


def _failure(code: str, what: str, error: BaseException) -> BaseException:
    if isinstance(error, SessionError):
        return FunctionError(error.code, str(error))
    return FunctionError(error.code or code, f"Failed to {what}: {error}") if isinstance(error, StoreError) else error


def _registration_failure(message: str) -> FunctionError:
    return FunctionError(Code.TRIGGER_REGISTRATION_FAILED, message)


def _refuse(function_id: str, data: Json, expected: type[msgspec.Struct], error: Exception) -> NoReturn:
    raise refusal(function_id, data, expected, error) from None
