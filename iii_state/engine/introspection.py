"""The functions `engine::…`: what the engine tells of itself, and what workers tell it with a call instead of a message."""

from __future__ import annotations

import uuid
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.access import Access
from iii_state.engine.functions.function import Function
from iii_state.engine.functions.registry import FunctionRegistry
from iii_state.engine.triggers.binding import Binding, TriggerOwner
from iii_state.engine.triggers.registry import TriggerRegistry
from iii_state.engine.workers.workers import ConnectedWorker, Description, Workers
from iii_state.errors import Code, FunctionError
from iii_state.host import DEFAULT_NAMESPACE, Caller, Handler, Host, Trigger
from iii_state.tasks.results import Result, then
from iii_state.values import Json
from iii_state.values.requests import read
from iii_state.wire import messages

T = TypeVar("T")


class _ListFunctions(msgspec.Struct):
    include_internal: bool | None = None
    prefix: str | None = None
    search: str | None = None
    worker: str | None = None
    workers: list[str] | None = None
    namespace: str | None = None


class _FunctionInfo(msgspec.Struct):
    function_id: str
    namespace: str | None = None


class _ListTypes(msgspec.Struct):
    include_internal: bool | None = None


class _ListTriggers(msgspec.Struct):
    trigger_type: str | None = None
    function_id: str | None = None


class _RegisterTrigger(msgspec.Struct):
    trigger_type: str
    function_id: str
    config: Raw = Raw()
    metadata: Raw = Raw()
    namespace: str | None = None


class _UnregisterTrigger(msgspec.Struct):
    id: str


class Introspection:
    """Registers and serves the `engine::…` functions over the engine's tables."""

    def __init__(self, functions: FunctionRegistry, triggers: TriggerRegistry, workers: Workers, local: TriggerOwner) -> None:
        self._functions = functions
        self._triggers = triggers
        self._workers = workers
        self._local = local

    def register(self, host: Host) -> None:
        """Register the functions."""
        served: list[tuple[str, Handler, str]] = [
            ("engine::workers::register", self._describe_worker, "Tell the engine about the calling worker"),
            ("engine::workers::list", self._list_workers, "List the connected workers"),
            ("engine::functions::list", self._list_functions, "List functions"),
            ("engine::functions::info", self._function_info, "Describe one function"),
            ("engine::triggers::list", self._list_types, "List trigger types"),
            ("engine::registered-triggers::list", self._list_triggers, "List registered triggers"),
            ("engine::register_trigger", self._register_trigger, "Register a trigger that outlives the caller's connection"),
            ("engine::unregister_trigger", self._unregister_trigger, "Unregister a trigger"),
        ]
        for function_id, handler, description in served:
            host.register_function(function_id, handler, description=description)

    # --- workers

    def _describe_worker(self, data: Json, caller: Caller) -> Result[bytes | None]:
        description = read("engine::workers::register", data, Description)
        if description.namespace is not None and not description.namespace.strip():
            raise FunctionError(Code.INVALID_NAMESPACE, "The namespace is blank.")
        reply = b'{"success":true}'
        if messages.OURS in (description.features or ()):
            reply = b'{"success":true,"max_depth":%d,"tells_fates":true}' % messages.MAX_FRAME_DEPTH
        worker = self._workers.get(caller.worker_id)
        return reply if worker is None else then(worker.describe(description), lambda _: reply)

    def _list_workers(self, data: Json, caller: Caller) -> bytes:
        access = caller.access
        return values.encode(
            {
                "workers": [
                    _worker_row(worker, access)
                    for worker in self._workers
                    if worker.description.pid is not None and may_see_worker(access, worker)
                ]
            }
        )

    # --- functions

    def _list_functions(self, data: Json, caller: Caller) -> bytes:
        wanted = read("engine::functions::list", data, _ListFunctions)
        access = caller.access
        names = [*(wanted.workers or []), *([wanted.worker] if wanted.worker else [])]
        rows = [
            function_row(function)
            for function in self._functions
            if may_see(access, function)
            and (wanted.include_internal or not function.id.startswith("engine::"))
            and function.id.startswith(wanted.prefix or "")
            and (wanted.search or "").lower() in f"{function.id}\n{function.details.description or ''}".lower()
            and (wanted.namespace is None or function.namespace == wanted.namespace)
            and (not names or _is_served_by(function, names))
        ]
        rows.sort(key=lambda row: (row["function_id"], row["namespace"]))
        return values.encode({"functions": rows})

    def _function_info(self, data: Json, caller: Caller) -> bytes:
        wanted = read("engine::functions::info", data, _FunctionInfo)
        namespace = wanted.namespace or DEFAULT_NAMESPACE
        function = self._functions.get(namespace, wanted.function_id)
        access = caller.access
        if function is None or not may_see(access, function):
            raise FunctionError(Code.NOT_FOUND, f"Function {wanted.function_id} not found in namespace {namespace}.")
        row = function_row(function)
        if function.details.request_format is not None:
            row["request_schema"] = Raw(function.details.request_format)
        if function.details.response_format is not None:
            row["response_schema"] = Raw(function.details.response_format)
        row["registered_triggers"] = [
            {"id": trigger.id, "trigger_type": trigger.trigger_type, "config": _raw(trigger.config)}
            for trigger in (binding.trigger for binding in self._triggers if self._may_see_trigger(access, binding))
            if trigger.function_id == function.id and trigger.namespace == function.namespace
        ]
        return values.encode(row)

    # --- triggers

    def _list_types(self, data: Json, caller: Caller) -> bytes:
        wanted = read("engine::triggers::list", data, _ListTypes)
        rows = [
            {"id": served.id, "namespace": served.namespace, "worker_name": served.name, "description": served.description}
            for served in self._triggers.types
            if wanted.include_internal or not served.id.startswith("engine::")
        ]
        rows.sort(key=lambda row: (row["id"], row["namespace"]))
        return values.encode({"triggers": rows})

    def _list_triggers(self, data: Json, caller: Caller) -> bytes:
        wanted = read("engine::registered-triggers::list", data, _ListTriggers)
        rows = [
            _trigger_row(binding)
            for binding in self._triggers
            if wanted.trigger_type in (None, binding.trigger.trigger_type)
            and wanted.function_id in (None, binding.trigger.function_id)
            and self._may_see_trigger(caller.access, binding)
        ]
        return values.encode({"registered_triggers": rows})

    def _register_trigger(self, data: Json, caller: Caller) -> Result[bytes | None]:
        wanted = read("engine::register_trigger", data, _RegisterTrigger)
        trigger = Trigger(
            str(uuid.uuid4()),
            wanted.trigger_type,
            wanted.function_id,
            _text(wanted.config),
            _text(wanted.metadata),
            wanted.namespace or caller.namespace,
        )
        answer = self._triggers.register(trigger, self._local, caller.namespace, by=caller)
        return then(answer, lambda _: values.encode({"id": trigger.id}))

    def _unregister_trigger(self, data: Json, caller: Caller) -> Result[bytes | None]:
        wanted = read("engine::unregister_trigger", data, _UnregisterTrigger)
        access, binding = caller.access, self._triggers.get(wanted.id)
        if access is not None and binding is not None and not _is_of(access, binding):
            raise access.refusal(f"unregister trigger {wanted.id}, which is another's")
        return then(self._triggers.unregister(wanted.id), lambda removed: values.encode({"removed": removed}))

    def _may_see_trigger(self, access: Access | None, binding: Binding) -> bool:
        return access is None or self._triggers.may_see(binding, access)


def may_see(access: Access | None, function: Function) -> bool:
    """Whether somebody may know of a function."""
    return access is None or access.may_call(function.id)


def may_see_worker(access: Access | None, worker: ConnectedWorker) -> bool:
    """Whether somebody may know of a worker: it has the same token's name, or serves something that he may call."""
    if access is None:
        return True
    if worker.identity is not None and worker.identity.name == access.name:
        return True
    return any(map(access.may_call, worker.function_ids))


def _is_of(access: Access, binding: Binding) -> bool:
    return binding.by.identity is not None and binding.by.identity.name == access.name


def function_row(function: Function) -> dict[str, Any]:
    """What the engine tells of a function, as the members of an object."""
    row: dict[str, Any] = {"function_id": function.id, "namespace": function.namespace, "worker_name": function.server_name}
    if function.details.description is not None:
        row["description"] = function.details.description
    details = function.details
    metadata = details.metadata if details.metadata_now is None else details.metadata_now()
    if metadata is not None:
        row["metadata"] = Raw(bytes(metadata))
    return row


def _is_served_by(function: Function, names: list[str]) -> bool:
    if function.handler is not None:
        return function.provider in names
    return any(executor.name in names or executor.id in names for executor in function.executors)


def _worker_row(worker: ConnectedWorker, access: Access | None) -> dict[str, Any]:
    about = worker.description
    functions = [name for name in worker.function_ids if access is None or access.may_call(name)]
    return {
        "id": worker.id,
        "name": about.name,
        "description": about.description,
        "version": about.version,
        "namespace": worker.namespace,
        "runtime": about.runtime,
        "os": about.os,
        "pid": about.pid,
        "status": "connected",
        "function_count": len(functions),
        "functions": functions,
        "connected_at_ms": worker.connected_at_ms,
        "active_invocations": len(worker.pending),
        "isolation": about.isolation,
        "ip_address": worker.remote,
    }


def _trigger_row(binding: Binding) -> dict[str, Any]:
    trigger = binding.trigger
    config = trigger.config or b"null"
    return {
        "id": trigger.id,
        "trigger_type": trigger.trigger_type,
        "function_id": trigger.function_id,
        "namespace": trigger.namespace,
        "worker_name": binding.owner.name,
        "config": Raw(config),
        "config_summary": config.decode()[:120],
        "served": binding.type is not None,
    }


def _raw(text: bytes | None) -> Raw | None:
    return None if text is None else Raw(text)


def _text(text: Raw) -> bytes | None:
    found = bytes(text)
    return None if found in (b"", b"null") else found
