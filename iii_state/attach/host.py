"""What the state module sees of an engine that it is attached to: `host.Host` over a worker's connection."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial

import msgspec

from iii_state import values
from iii_state.attach.availability import Availability
from iii_state.attach.caller import Callers
from iii_state.client.client import Client
from iii_state.errors import Code, ConnectionLost, FunctionError, NotCarriedOut, WorkerLost
from iii_state.host import DEFAULT_NAMESPACE, Caller, Handler, Runner, Trigger, TriggerProvider
from iii_state.tasks.results import Result
from iii_state.values import Json
from iii_state.wire.messages import STOPPED, WORKER_GONE

DEFAULT_PREFIX = "state"

MAX_VALUE_DEPTH = 127
"""Deeper values are refused: stock engines and Rust SDKs cannot read them."""


class _Function(msgspec.Struct, frozen=True):
    handler: Handler
    description: str | None
    metadata: Callable[[], bytes] | None


class _Worker(msgspec.Struct, frozen=True):
    """A worker of the engine, by its name; those whose names are not known count as one."""

    name: str
    may_crash: bool = True
    id: str = ""


class _Type(msgspec.Struct, frozen=True):
    provider: TriggerProvider
    description: str


class AttachedHost:
    """Keeps what a module registers, and registers it with an engine while it is to serve there.

    `prefix` stands in place of `state` in the ids of functions and trigger types. `store` gives the id of the module's store, which
    stands in the metadata of every function, so that others can tell whose they are.
    """

    def __init__(self, prefix: str, store: Callable[[], str | None]) -> None:
        self.availability = Availability()
        self.prefix = prefix
        self._store = store
        self._told_store: str | None = None
        """What the engine was told of it."""
        self._client: Client | None = None
        self._functions: dict[str, _Function] = {}
        self._types: dict[str, _Type] = {}
        self._callers = Callers()
        self._on_workers = ""
        self._workers_trigger = str(uuid.uuid4())

    @property
    def serves(self) -> bool:
        """Whether the module is registered with the engine."""
        return self._client is not None

    @property
    def function_ids(self) -> list[str]:
        """The functions of the module, as the engine knows them."""
        return list(self._functions)

    @property
    def trigger_types(self) -> list[str]:
        """The trigger types of the module, as the engine knows them."""
        return list(self._types)

    def name_of(self, known_as: str) -> str:
        """What the engine knows a function or trigger type of the module as."""
        if self.prefix == DEFAULT_PREFIX:
            return known_as
        first, *rest = known_as.split("::")
        return "::".join((self.prefix, *rest)) if first in ("state", "iii-state") else known_as

    # --- for the module

    def register_function(
        self,
        function_id: str,
        handler: Handler,
        *,
        description: str | None = None,
        metadata: Callable[[], bytes] | None = None,
    ) -> None:
        self._functions[self.name_of(function_id)] = _Function(self._serving(function_id, handler), description, metadata)

    def _serving(self, function_id: str, handler: Handler) -> Handler:
        deepest = MAX_VALUE_DEPTH + (3 if function_id.endswith("::update") else 1)  # what stands around a value in a request

        def serve(data: Json, _: Caller) -> Result[bytes | None]:
            if len(data) > 2 * deepest and values.nesting_exceeds(bytes(data), deepest):
                raise FunctionError(
                    Code.DESERIALIZATION_ERROR,
                    f"Failed to deserialize input for {function_id}: nesting deeper than {MAX_VALUE_DEPTH} levels, which stock "
                    "engines cannot read",
                )
            return handler(data, self._callers.of(data))

        return serve

    def register_trigger_type(
        self, trigger_type: str, provider: TriggerProvider, *, description: str, reads_scope_prefix: bool = False
    ) -> None:
        self._types[self.name_of(trigger_type)] = _Type(_Provider(provider, self.availability), description)

    def has_function(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        return self.availability.has(namespace, function_id)

    def watch_workers(self, gone: Callable[[str], None]) -> None:
        def changed(data: Json, _: Caller) -> None:
            told = values.decode(data)
            if isinstance(told, dict) and told.get("event") == WORKER_GONE and isinstance(worker_id := told.get("worker_id"), str):
                gone(worker_id)

        self._on_workers = self.name_of("iii-state::workers_changed")
        description = "Hears that a worker has gone, whose cursors are forgotten"
        self._functions[self._on_workers] = _Function(changed, description, None)

    def watch_functions(self, changed: Callable[[str, str], None]) -> None:
        self.availability.watch(changed)

    def takes_events(self, function_id: str, namespace: str, go_on: Callable[[], None]) -> bool:
        return self._client is None or self._client.connection.takes_events(go_on)

    def is_on_its_way(self, answer: asyncio.Future[bytes | None]) -> bool:
        return False  # when the engine sends it on is not known

    def pick(self, function_id: str, namespace: str = DEFAULT_NAMESPACE, avoid: Container[object] = ()) -> Runner | None:
        return _Worker(self.availability.worker_of(namespace, function_id))

    def runners(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> Sequence[Runner]:
        return (_Worker(self.availability.worker_of(namespace, function_id)),)

    def invoke(
        self,
        function_id: str,
        data: bytes,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        metadata: bytes | None = None,
        runner: Runner | None = None,
        trace: bytes = b"",
    ) -> Result[bytes | None]:
        client = self._client
        if client is None or not client.connection.is_greeted:
            raise NotCarriedOut(Code.INVOCATION_STOPPED, "there is no connection to the engine")
        deepest = client.connection.max_frame_depth
        if values.nesting_exceeds(data, deepest - 1):
            deep = f"the event nests deeper than the {deepest} levels that the engine at {client.url} reads"
            raise NotCarriedOut(Code.PAYLOAD_TOO_LARGE, deep)
        answer = client.call(function_id, data, namespace=namespace, metadata=metadata, trace=trace)
        outcome: asyncio.Future[bytes | None] = answer.get_loop().create_future()

        def settle(settled: asyncio.Future[bytes | None]) -> None:
            if outcome.done():
                settled.cancelled() or settled.exception()
            elif settled.cancelled():
                outcome.cancel()
            elif (error := settled.exception()) is not None:
                outcome.set_exception(self._outcome(client, namespace, function_id, error))
            else:
                outcome.set_result(settled.result())

        answer.add_done_callback(settle)
        outcome.add_done_callback(partial(_give_up, answer))
        return outcome

    def _outcome(self, client: Client, namespace: str, function_id: str, error: BaseException) -> BaseException:
        """What an error of a call means: that the function failed, or that the engine could not have the call carried out.

        This project's engine says so. A stock one says it with codes, and a handler can answer with the same ones. So what they say
        is taken for true where what follows from it is bounded: a worker that has gone costs a crash, and a function that is not
        there is waited for only while the engine's list does not hold it.
        """
        if isinstance(error, ConnectionLost):
            return NotCarriedOut(Code.INVOCATION_STOPPED, str(error), begun=error.sent)
        if not isinstance(error, FunctionError):
            return error
        if client.connection.hears_fates:
            if isinstance(error, WorkerLost) or (isinstance(error, NotCarriedOut) and error.code != Code.PAYLOAD_TOO_LARGE):
                self.availability.worker_left(namespace, function_id)
            return error
        if error.code in STOPPED:
            self.availability.worker_left(namespace, function_id)
            return WorkerLost(error.code, error.message, error.stacktrace)
        says_missing = error.code == Code.FUNCTION_NOT_FOUND and error.message.startswith(f"Function {function_id} not found")
        if says_missing and self.availability.reported_missing(namespace, function_id):
            return NotCarriedOut(error.code, error.message, error.stacktrace)
        return error

    # --- for the attachment

    def offer_functions(self, client: Client) -> None:
        """Register the functions of the module with the engine, which may reject them. Calls wait for `begin`."""
        self.availability.forget()
        self._client = client
        client.serving.hold()
        self.register_functions(self._functions)

    def offer_types(self) -> None:
        """Provide the trigger types of the module: only where its functions were taken. A stock engine never takes a type back."""
        assert self._client is not None
        for trigger_type, provided in self._types.items():
            self._client.serving.register_trigger_type(trigger_type, provided.provider, provided.description)

    def begin(self) -> None:
        """Carry calls out: the triggers that the engine had are there."""
        assert self._client is not None
        self._client.serving.release()
        if self._on_workers:
            self._client.triggers.keep(self._workers_trigger, "engine::workers-available", self._on_workers, {})

    def renew_types(self, trigger_types: Iterable[str]) -> None:
        """Provide trigger types once more that the engine has lost; `types_renewed` when it has handed over their triggers."""
        assert self._client is not None
        for trigger_type in trigger_types:
            self._client.serving.renew_trigger_type(trigger_type)

    def types_renewed(self, trigger_types: Iterable[str]) -> None:
        """What was not handed over again is gone."""
        if self._client is not None:
            for trigger_type in trigger_types:
                self._client.serving.drop_unconfirmed(trigger_type)

    def register_functions(self, function_ids: Iterable[str]) -> None:
        """Register functions with the engine, once more where it had forgotten them."""
        assert self._client is not None
        self._told_store = self._store()
        for function_id in function_ids:
            function = self._functions[function_id]
            metadata = self._about(function.metadata)
            self._client.serving.register_function(function_id, function.handler, function.description, metadata)

    def renew_about(self) -> None:
        """Tell it anew where the store is another one by now: it was emptied, or a bridge has just learned which it is."""
        if self._client is not None and self._told_store != self._store():
            self.register_functions(self._functions)

    def _about(self, metadata: Callable[[], bytes] | None) -> bytes:
        """A function's metadata with the store's id as it is now."""
        told = values.decode(b"{}" if metadata is None else metadata())
        told.setdefault("iii_state", {})["store"] = self._told_store
        return values.encode(told)

    def retire(self) -> None:
        """Leave everything to others but what is under way."""
        if self._client is not None:
            self._client.serving.retire()

    def withdraw(self) -> None:
        """Serve no more; triggers count as away."""
        client, self._client = self._client, None
        if client is not None:
            for trigger_type in self._types:
                client.serving.unregister_trigger_type(trigger_type)
            for function_id in self._functions:
                client.serving.unregister_function(function_id)
            client.serving.release()
            client.triggers.unregister(self._workers_trigger, "engine::workers-available")
            self.availability.forget()


class _Provider:
    """The module's side of a trigger type. The worker that registers a trigger has its function, or is about to."""

    def __init__(self, provider: TriggerProvider, availability: Availability) -> None:
        self._provider = provider
        self._availability = availability

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> Result[None]:
        self._availability.is_back(trigger.namespace, trigger.function_id)
        return self._provider.register(trigger, replaces)

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> Result[None]:
        return self._provider.unregister(trigger, disconnected=disconnected)


def _give_up(answer: asyncio.Future[bytes | None], outcome: asyncio.Future[bytes | None]) -> None:
    if outcome.cancelled():
        answer.cancel()
